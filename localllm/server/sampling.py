"""What every request for text may ask of its answers, in whichever API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field

from localllm.decoding.params import GenerationParams
from localllm.errors import UsageError
from localllm.server.body import Body
from localllm.server.errors import ApiError, as_api_error

MOST_LIKELY = 20  # tokens told of at each place
MOST_STOPS = 64  # texts that end an answer: each is looked for after every token
# Fields that some APIs have a second name for, which goes before.
_OTHER_NAMES = {"max_tokens": "max_completion_tokens", "repeat_penalty": "repetition_penalty"}
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]  # of reasoning


class Sampling(Body):
    """What every request for text may ask, in whichever API.

    Attributes:
        limit: most tokens of an answer; -1, like None: until it ends.
        stops: texts that end an answer.
    """

    model: str | None = None
    # LM Studio's name for it is `ttl`.
    keep_alive: str | float | None = Field(None, validation_alias=AliasChoices("keep_alive", "ttl"))
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    strategy: str | None = None
    sampler_order: str | None = None
    ignore_eos: bool | None = None
    num_ctx: Annotated[int, Field(ge=1)] | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None

    @property
    def limit(self) -> int | None:
        """See above."""
        raise NotImplementedError

    @property
    def stops(self) -> str | list[str] | None:
        """See above."""
        raise NotImplementedError

    def params(self, recommended: dict[str, Any]) -> GenerationParams:
        """The checked wishes, over what the model's file recommends.

        Raises:
            ApiError: a value is impossible; names the field.
        """
        fields = set(GenerationParams.__dataclass_fields__)
        given = {
            name: value
            for name, value in self.model_dump(include=fields).items()
            if value is not None
        }
        if self.repetition_penalty is not None:
            given["repeat_penalty"] = self.repetition_penalty
        if self.logit_bias is not None:
            given["logit_bias"] = _biases(self.logit_bias)
        if self.limit is not None:
            given["max_tokens"] = None if self.limit == -1 else self.limit
        if self.stops is not None:
            if len(self.stops) > MOST_STOPS and not isinstance(self.stops, str):
                text = f"stop: {len(self.stops)} texts, {MOST_STOPS} are the most"
                raise ApiError(400, text, "stop", "invalid_value")
            given["stop"] = self.stops
        try:
            return GenerationParams(**{**recommended, **given})
        except UsageError as error:
            sent = self.model_dump(include=set(_OTHER_NAMES.values()), exclude_none=True)
            names = {name: other for name, other in _OTHER_NAMES.items() if other in sent}
            raise as_api_error(error).renamed(names) from error


def effort_variables(effort: Effort | None) -> dict[str, Any]:
    """Variables of the template that ask for so much reasoning."""
    if effort is None:
        return {}
    return {"reasoning_effort": effort, "enable_thinking": effort != "none"}


def _biases(entries: dict[str, float]) -> dict[int, float]:
    biases = {}
    for token, bias in entries.items():
        # The digits of a number that no vocabulary reaches are not even read: Python refuses 5000.
        if not (token.isascii() and token.isdecimal() and len(token) <= 20):
            raise ApiError(400, f"logit_bias {token[:40]!r}: is no token id", "logit_bias")
        biases[int(token)] = bias
    return biases
