"""`localllm show`: what a model file is."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from localllm.cli.loading import find
from localllm.cli.options import KVType, Model, OutputOptions, option, with_options
from localllm.errors import ModelFileError, UsageError
from localllm.terminal import printable
from localllm.units import in_bytes, si

if TYPE_CHECKING:
    from localllm.engine.memory import Need
    from localllm.gguf import GGUFFile


@with_options
def command(
    model: Model,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    ctx: Annotated[
        int | None, option("--ctx", text="Say what it takes of memory at this context.")
    ] = None,
    kv_type: KVType = None,
    *,
    output: OutputOptions,
) -> None:
    """Describe a model file."""
    from localllm.engine.machine import kernels
    from localllm.gguf import GGUFFile
    from localllm.hub.facts import describe
    from localllm.hub.store import origin_of

    found = find(model)
    file = GGUFFile.open(found.path)
    facts = describe(file)
    origin = origin_of(found.path)
    need = _need(file, found.preset.get("ctx") if ctx is None else ctx, kv_type or "f16")
    template = file.get("tokenizer.chat_template", str, None)
    rows = [
        {
            "name": tensor.name,
            "type": tensor.type.name,
            "shape": list(tensor.shape),
            "bytes": tensor.nbytes,
            "runnable": tensor.type.runnable,
        }
        for tensor in file.tensors.values()
    ]
    if output.json:
        document = {
            **asdict(facts),
            "path": str(file.path),
            "origin": asdict(origin) if origin else None,
            "kernels": kernels(),
            "memory": need if isinstance(need, str) else asdict(need) | {"total": need.total},
            "preset": found.preset,
            "chat_template": template,
            "unsupported_types": sorted({str(row["type"]) for row in rows if not row["runnable"]}),
            **({"tensors": rows} if tensors else {}),
        }
        print(json.dumps(document, ensure_ascii=False))
        return
    lines = {
        "name": facts.name,
        "path": str(file.path),
        "architecture": facts.architecture,
        "parameters": si(facts.parameters),
        "quantisation": f"{facts.quantisation} ({facts.bits_per_weight:.2f} bits per weight)",
        "size": in_bytes(facts.bytes),
        "context": _count(facts.context, "tokens"),
        "layers": _count(facts.layers),
        "width": _count(facts.width),
        "vocabulary": _count(facts.vocabulary, "tokens"),
        "stored as": ", ".join(f"{kind} {si(n)}" for kind, n in facts.tensor_types.items()),
        "chat template": f"{len(template):,} characters" if template else "none",
        "licence": facts.licence or "not stated",
    }
    if origin is not None:
        lines["from"] = f"{origin.repository} {origin.revision}".rstrip()
        lines["sha256"] = origin.sha256 or "not noted"
    for name, value in found.preset.items():
        lines[name] = ", ".join(value) if isinstance(value, list) else str(value)
    if isinstance(need, str):
        lines["cannot be run"] = need
    else:
        lines["kernels"] = kernels()
        lines["memory"] = str(need)
    for name, value in lines.items():
        print(f"{name:<14} {printable(value)}")
    if tensors:
        print()
        for row in rows:
            shape = " x ".join(map(str, row["shape"]))  # type: ignore[call-overload]
            print(f"{printable(str(row['name'])):<36} {row['type']:<8} {shape}")


def _need(file: GGUFFile, context: int | None, kv_type: str) -> Need | str:
    """What the model takes of memory; or why it cannot be run."""
    from localllm.engine import memory
    from localllm.models.registry import load_definition

    if context is not None and context < 1:
        raise UsageError(f"--ctx {context}: must be >= 1")
    memory.require_known(kv_type)
    if unsupported := {t.type.name for t in file.tensors.values() if not t.type.runnable}:
        return f"stored as {', '.join(sorted(unsupported))}"
    try:
        config = load_definition(file, context).config
    except ModelFileError as error:
        return str(error)
    tokens = context or min(config.context_length, memory.DEFAULT_CONTEXT)
    return memory.estimate(file, config, tokens, kv_type)


def _count(number: int | None, unit: str = "") -> str:
    return "not stated" if number is None else f"{number:,} {unit}".rstrip()
