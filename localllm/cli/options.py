"""The flags that commands share, each declared once.

A command decorated with `with_options` takes a whole group as one parameter, `sampling:
SamplingOptions`. Flags that the user leaves out are None until `settings.settle` fills them.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

F = TypeVar("F", bound=Callable[..., Any])


def option(*names: str, text: str, metavar: str | None = None) -> Any:
    """A flag without a default of its own."""
    return typer.Option(*names, help=text, metavar=metavar, show_default=False)


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen and when an answer ends."""

    temperature: Annotated[
        float | None,
        option("--temperature", text="Randomness; 0 always takes the likeliest token."),
    ] = None
    top_k: Annotated[int | None, option("--top-k", text="Keep the K likeliest tokens; 0: all.")] = (
        None
    )
    top_p: Annotated[
        float | None, option("--top-p", text="Keep the likeliest tokens that make up this much.")
    ] = None
    min_p: Annotated[
        float | None, option("--min-p", text="Drop tokens under this part of the likeliest one.")
    ] = None
    max_tokens: Annotated[
        int | None, option("--max-tokens", text="End the answer after this many tokens.")
    ] = None
    stop: Annotated[
        list[str] | None, option("--stop", text="End the answer before this text. Repeatable.")
    ] = None
    seed: Annotated[int | None, option("--seed", text="Same seed, same text.")] = None
    frequency_penalty: Annotated[
        float | None, option("--frequency-penalty", text="Lower a token for each time it was used.")
    ] = None
    presence_penalty: Annotated[
        float | None, option("--presence-penalty", text="Lower a token that was used at all.")
    ] = None
    repeat_penalty: Annotated[
        float | None, option("--repeat-penalty", text="Divide the logits of recent tokens; 1: off.")
    ] = None
    logit_bias: Annotated[
        list[str] | None,
        option("--logit-bias", text="Add BIAS to a token's logit. Repeatable.", metavar="ID=BIAS"),
    ] = None
    strategy: Annotated[
        str | None, option("--strategy", text="How tokens are chosen: sample or greedy.")
    ] = None
    sampler_order: Annotated[
        str | None,
        option("--sampler-order", text="Order of the samplers: llamacpp, transformers or vllm."),
    ] = None


Threads = Annotated[
    int | None, option("--threads", text="CPU threads; default: the physical cores.")
]
Adapter = Annotated[
    str | None,
    option("--adapter", text="A LoRA adapter: a GGUF file or a folder of PEFT.", metavar="PATH"),
]
KVType = Annotated[str | None, option("--kv-type", text="Type of the KV cache: f32, f16 or int8.")]


@dataclass(frozen=True)
class EngineOptions:
    """How the model is loaded."""

    ctx: Annotated[int | None, option("--ctx", text="Context size in tokens.")] = None
    threads: Threads = None
    kv_type: KVType = None
    device: Annotated[
        str | None,
        option(
            "--device",
            text="Where to compute: cpu, or a device of torch, which is a slow reference.",
        ),
    ] = None
    kv_cache: Annotated[
        bool | None,
        option("--kv-cache/--no-kv-cache", text="Without it every token recomputes all before it."),
    ] = None
    draft: Annotated[
        str | None,
        option(
            "--draft",
            text="What guesses tokens ahead, for speed alone: lookup (in the text so far; the "
            "default), none, or a smaller model with the same vocabulary.",
        ),
    ] = None
    packed_cache: Annotated[
        float | None,
        option(
            "--packed-cache",
            text="Disk space for packed weights, which make the next start quick; 0: none. "
            "Default: 20.",
            metavar="GB",
        ),
    ] = None


@dataclass(frozen=True)
class ChatOptions:
    """What stands around the prompt."""

    system: Annotated[str | None, option("--system", text="System prompt.")] = None
    think: Annotated[
        bool | None, option("--think/--no-think", text="Ask a reasoning model to think, or not to.")
    ] = None


Force = Annotated[bool, typer.Option("--force", help="Replace an existing FILE.")]


def _debug(value: bool) -> bool:
    if value:
        os.environ["LOCALLLM_DEBUG"] = "1"
    return value


Debug = Annotated[
    bool,
    typer.Option(
        "--debug", help="Show tracebacks.", show_default=False, callback=_debug, is_eager=True
    ),
]


@dataclass(frozen=True)
class OutputOptions:
    """What every command can do that ends with a result."""

    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout.", show_default=False)
    ] = False
    debug: Debug = False


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Path, catalog name or user/repo[:QUANT].")
]

Data = Annotated[
    str | None,
    typer.Option("--data", metavar="FILE", help="A UTF-8 text; default: what is shipped."),
]
ChunkTokens = Annotated[int, typer.Option("--ctx", help="Tokens of a chunk of the text.")]
Chunks = Annotated[int | None, typer.Option("--chunks", help="Only the first chunks of each text.")]


def with_options(function: F) -> F:
    """Spread every parameter that is a group of options into the flags of that group."""
    hints = get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if not dataclasses.is_dataclass(hint):
            parameters.append(parameter.replace(annotation=hint))
            continue
        groups[parameter.name] = hint
        flags = get_type_hints(hint, include_extras=True)
        parameters.extend(
            inspect.Parameter(
                field.name,
                parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=flags[field.name],
            )
            for field in dataclasses.fields(hint)
        )

    @wraps(function)
    def command(**values: Any) -> Any:
        for name, group in groups.items():
            fields = dataclasses.fields(group)
            values[name] = group(**{field.name: values.pop(field.name) for field in fields})
        return function(**values)

    signature = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in parameters])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    del command.__wrapped__  # typer would look through it, at the undecorated signature
    return command  # type: ignore[return-value]
