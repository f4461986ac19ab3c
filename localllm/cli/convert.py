"""`localllm convert`: a checkpoint folder becomes a model file."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from localllm.cli.loading import progress
from localllm.cli.options import Force, OutputOptions, with_options
from localllm.cli.output_file import output_file
from localllm.errors import LocalLLMError
from localllm.terminal import one_line, printable
from localllm.units import in_bytes, si


@with_options
def command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC", help="Folder with config.json, safetensors files and a tokenizer."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE", help="Where to; default: NAME-TYPE.gguf, here."
        ),
    ] = None,
    kind: Annotated[
        str,
        typer.Option("--type", help="F32, F16, BF16, Q8_0, or auto: what the checkpoint has."),
    ] = "F16",
    force: Force = False,
    *,
    output: OutputOptions,
) -> None:
    """Make a model file of a checkpoint folder."""
    from localllm.convert.checkpoint import model_name
    from localllm.convert.conversion import AUTO, convert_checkpoint

    type = AUTO if kind.lower() == AUTO else kind.upper()
    sources = source.glob("*")
    target = out or Path(f"{model_name(source)}-{type}.gguf")
    path = output_file("--out", target, sources, force)
    with progress(f"reading {source} …") as line:

        def say(done: int, total: int) -> None:
            line.say(f"converting {source.name}: {in_bytes(done)} of {in_bytes(total)}")

        try:
            made = convert_checkpoint(source, path, type=type, progress=say)
        except OSError as error:
            raise LocalLLMError(f"--out {path}: cannot be written: {error.strerror}") from None
    for note in made.notes:
        print(f"note: {one_line(note)}", file=sys.stderr)
    if output.json:
        print(json.dumps({**asdict(made), "path": str(made.path)}, ensure_ascii=False))
        return
    print(
        f"{printable(str(made.path))}: {made.architecture}, {si(made.parameters)} parameters, "
        f"{made.type}, {in_bytes(made.bytes)}"
    )
