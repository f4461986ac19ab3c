"""`localllm quantize`: a model file made smaller."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from localllm.cli.loading import find, progress
from localllm.cli.options import EngineOptions, Force, OutputOptions, Threads, with_options
from localllm.cli.output_file import output_file
from localllm.cli.settings import settle
from localllm.errors import ModelFileError, UsageError
from localllm.hub.names import LocalModel
from localllm.hub.references import quantisation_of
from localllm.terminal import one_line
from localllm.units import in_bytes

if TYPE_CHECKING:
    from localllm.compress.quantize_report import QuantizeReport, TypeCount
    from localllm.gguf import QuantType

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


@with_options
def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Path, catalog name or user/repo[:QUANT]; best F16, BF16 or F32."
        ),
    ],
    type: Annotated[
        str,
        typer.Argument(
            metavar="TYPE", help="int8, int4, or a type or mix such as Q4_K_M, Q6_K, IQ4_XS, Q2_K."
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "-o", "--out", metavar="FILE", help="Where to; default: the model's name and TYPE."
        ),
    ] = None,
    imatrix: Annotated[
        str | None,
        typer.Option("--imatrix", metavar="FILE", help="An importance matrix of the model."),
    ] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor-type",
            metavar="PATTERN=TYPE",
            help="Tensors whose name the regular expression finds get this type. Repeatable; the "
            "first counts.",
        ),
    ] = None,
    force: Force = False,
    threads: Threads = None,
    *,
    output: OutputOptions,
) -> None:
    """Store a model's weights in fewer bits.

    The result runs in every program that reads GGUF. int8 is Q8_0, int4 the best in 4 bits, Q4_K_M.
    """
    from localllm.compress.mixes import mix_named, plan_types
    from localllm.compress.quantize import quantize_file
    from localllm.engine.machine import default_threads, kernels, require_threads
    from localllm.gguf import GGUFFile

    settled = settle(EngineOptions(threads=threads))
    require_threads(settled.threads)
    kernels()  # says so where those that are asked for cannot run here
    mix = mix_named(type)
    overrides = [_override(text) for text in tensor_type or []]
    source = find(model)
    target = Path(out) if out is not None else _output(source, model, mix.name)
    read = [source.path] if imatrix is None else [source.path, Path(imatrix)]
    output_file("--out", target, read, force)
    importance, metadata = None, None
    if imatrix is not None:
        from localllm.compress.imatrix import read_imatrix

        importance = read_imatrix(imatrix)
        metadata = {
            "quantize.imatrix.file": imatrix,
            "quantize.imatrix.entries_count": len(importance),
        }
    file = GGUFFile.open(source.path)
    plan = plan_types(file, mix, overrides, weighted=importance is not None)
    with progress() as line:
        report = quantize_file(
            file,
            target,
            plan,
            importance=importance,
            metadata=metadata,
            threads=settled.threads or default_threads(),
            say=line.say,
        )
    for note in report.notes:
        print(f"note: {one_line(note)}", file=sys.stderr)
    if output.json:
        document = asdict(report) | {"source": str(report.source), "output": str(report.output)}
        print(json.dumps(document, ensure_ascii=False))
    else:
        _print(report)


def _override(text: str) -> tuple[re.Pattern[str], QuantType]:
    """PATTERN=TYPE, taken apart.

    Raises:
        UsageError: it is not of that form, the pattern is no regular expression, or the type cannot
            be written.
    """
    from localllm.gguf import quant_type

    pattern, equals, name = text.rpartition("=")
    if not equals or not pattern:
        raise UsageError(f"--tensor-type {text}: must be PATTERN=TYPE", "such as ffn_down=Q6_K")
    try:
        found = quant_type(name)
    except ModelFileError as error:
        raise UsageError(f"--tensor-type {text}: {error}") from None
    if not found.runnable:
        raise UsageError(f"--tensor-type {text}: {found} cannot be made here")
    try:
        return re.compile(pattern), found
    except re.error as error:
        raise UsageError(f"--tensor-type {text}: {error}") from None


def _output(source: LocalModel, named: str, mix: str) -> Path:
    """MODEL-TYPE.gguf: beside the model where it was named by path, else in this folder."""
    stem = _SHARD.sub("", source.path.stem)
    if former := quantisation_of(stem):
        stem = re.sub(rf"[-._]{former}$", "", stem, flags=re.IGNORECASE)
    name = f"{stem}-{mix}.gguf"
    return source.path.with_name(name) if Path(named).expanduser().is_file() else Path(name)


def _print(report: QuantizeReport) -> None:
    error = f", relative error {report.relative_error:.3%}" if report.relative_error else ""
    print(
        f"{one_line(str(report.output))}: "
        f"{in_bytes(report.bytes)} of {in_bytes(report.source_bytes)}, "
        f"{report.bits_per_weight:.2f} bits per weight{error}, {report.seconds:.1f} s"
    )
    for title, counts in (("before", report.before), ("after", report.after)):
        print(f"\n{title}")
        for name, count in counts.items():
            print(f"  {name:<7}{_line(count)}")


def _line(count: TypeCount) -> str:
    tensors = "1 tensor " if count.tensors == 1 else f"{count.tensors} tensors"
    bits = 8 * count.bytes / count.weights
    error = "" if count.relative_error is None else f"   error {count.relative_error:.3%}"
    return f"{tensors:>12}{in_bytes(count.bytes):>10}{bits:7.2f} bits per weight{error}"
