"""`localllm show`: what a model file is."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from localllm.cli.loading import find
from localllm.cli.options import Model, OutputOptions, with_options
from localllm.terminal import printable
from localllm.units import in_bytes, si


@with_options
def command(
    model: Model,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    *,
    output: OutputOptions,
) -> None:
    """Describe a model file."""
    from localllm.gguf import GGUFFile
    from localllm.hub.facts import describe

    found = find(model)
    file = GGUFFile.open(found.path)
    facts = describe(file)
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
    }
    if unsupported := sorted({str(row["type"]) for row in rows if not row["runnable"]}):
        lines["cannot be run"] = f"stored as {', '.join(unsupported)}"
    for name, value in lines.items():
        print(f"{name:<14} {printable(value)}")
    if tensors:
        print()
        for row in rows:
            shape = " x ".join(map(str, row["shape"]))  # type: ignore[call-overload]
            print(f"{printable(str(row['name'])):<36} {row['type']:<8} {shape}")


def _count(number: int | None, unit: str = "") -> str:
    return "not stated" if number is None else f"{number:,} {unit}".rstrip()
