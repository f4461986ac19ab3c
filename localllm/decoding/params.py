"""What a caller may ask of a generation, checked once, when it is asked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from localllm.errors import UsageError

STRATEGIES = ("sample", "greedy")

# Programs whose sampling can be had: what each does where nothing else is asked for, in the order
# in which it does it. Logit bias and the penalties come first everywhere.
PRESETS: dict[str, dict[str, float]] = {
    "llamacpp": {
        "repeat_last_n": 64,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "temperature": 0.8,
    },
    "transformers": {
        "repeat_last_n": -1,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
        "min_p": 0.0,
    },
    "vllm": {
        "repeat_last_n": -1,
        "temperature": 1.0,
        "min_p": 0.0,
        "top_k": 0,
        "top_p": 1.0,
    },
}


@dataclass(frozen=True)
class GenerationParams:
    """The wishes of one generation. ``None`` means: as the preset ``sampler_order`` has it.

    Args:
        max_tokens: most tokens to generate; None: until the model stops or the context is full.
        temperature: 0 is greedy (after bias and penalties).
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the fewest likeliest tokens whose probabilities add up to this; 1 keeps all.
        min_p: keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
        frequency_penalty: subtracted from a token's logit once per time it was generated.
        presence_penalty: subtracted from the logit of every token generated so far.
        repeat_penalty: divides (multiplies, when negative) the logits of tokens in the recent text.
        repeat_last_n: how many tokens of prompt and answer are "recent"; -1 all, 0 none.
        logit_bias: added to the logits of these token ids.
        seed: the same seed gives the same text; None takes a fresh one.
        stop: the answer ends before any of these texts.
        strategy: "sample" or "greedy".
        sampler_order: "llamacpp", "transformers" or "vllm": defaults and order of the filters.
        ignore_eos: go on after an end-of-generation token (for measurements).

    Raises:
        UsageError: a value that cannot be; the message names the flag, the value and the range.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_penalty: float = 1.0
    repeat_last_n: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    strategy: str = "sample"
    sampler_order: str = "llamacpp"
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        _choice("strategy", self.strategy, STRATEGIES)
        _choice("sampler_order", self.sampler_order, tuple(PRESETS))
        _integer("max_tokens", self.max_tokens, low=1)
        _real("temperature", self.temperature, low=0)
        _integer("top_k", self.top_k, low=0)
        _real("top_p", self.top_p, low=0, high=1, above=True)
        _real("min_p", self.min_p, low=0, high=1)
        _real("frequency_penalty", self.frequency_penalty, low=-2, high=2, required=True)
        _real("presence_penalty", self.presence_penalty, low=-2, high=2, required=True)
        _real("repeat_penalty", self.repeat_penalty, low=0.01, high=100, required=True)
        _integer("repeat_last_n", self.repeat_last_n, low=-1)
        _integer("seed", self.seed, low=0, high=2**64 - 1)
        object.__setattr__(self, "logit_bias", _bias(self.logit_bias))
        object.__setattr__(self, "stop", _stops(self.stop))

    def resolved(self) -> GenerationParams:
        """The same wishes with every None that has a preset default filled in."""
        preset = PRESETS[self.sampler_order]
        missing: dict[str, Any] = {
            name: value for name, value in preset.items() if getattr(self, name) is None
        }
        return replace(self, **missing)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.strategy == "greedy" or self.resolved().temperature == 0


def flag(name: str) -> str:
    """The command-line flag of a field: ``top_p`` -> ``--top-p``."""
    return "--" + name.replace("_", "-")


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{flag(name)} {value}: must be one of {', '.join(allowed)}")


def _integer(name: str, value: object, low: int, high: int | None = None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise UsageError(f"{flag(name)} {value}: must be a whole number, {_range(low, high)}")
    number = value.__index__()
    if number < low or (high is not None and number > high):
        raise UsageError(f"{flag(name)} {value}: must be {_range(low, high)}")


def _real(
    name: str,
    value: object,
    low: float,
    high: float | None = None,
    above: bool = False,
    required: bool = False,
) -> None:
    if value is None and not required:
        return
    number = _finite(value)
    outside = number is None or number < low or (above and number == low)
    if outside or (high is not None and number is not None and number > high):
        raise UsageError(f"{flag(name)} {value}: must be {_range(low, high, above)}")


def _finite(value: object) -> float | None:
    """The value as a finite float, or None where it is none (bool, text, NaN, infinity)."""
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        return None
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _range(low: float, high: float | None, above: bool = False) -> str:
    lower = f"> {low}" if above else f">= {low}"
    return lower if high is None else f"{lower} and <= {high}"


def _bias(bias: object) -> dict[int, float]:
    name = flag("logit_bias")
    if not isinstance(bias, Mapping):
        raise UsageError(f"{name} {bias}: must be a mapping of token ids to numbers")
    checked: dict[int, float] = {}
    for token, value in bias.items():
        if isinstance(token, bool) or not hasattr(token, "__index__") or token.__index__() < 0:
            raise UsageError(f"{name} {token}: the token id must be a whole number >= 0")
        number = _finite(value)
        if number is None or not -100 <= number <= 100:
            raise UsageError(f"{name} {token}={value}: must be >= -100 and <= 100")
        checked[token.__index__()] = number
    return checked


def _stops(stop: object) -> tuple[str, ...]:
    texts = (stop,) if isinstance(stop, str) else stop
    if not isinstance(texts, Iterable):
        raise UsageError(f"{flag('stop')} {stop}: must be a text or several")
    checked = tuple(texts)
    for text in checked:
        if not isinstance(text, str) or not text:
            raise UsageError(f"{flag('stop')} {text!r}: must be a text that is not empty")
    return checked
