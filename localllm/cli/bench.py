"""`localllm bench`: speed on this machine."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Annotated, Any

import typer

from localllm.cli.loading import find, progress
from localllm.cli.options import EngineOptions, KVType, OutputOptions, Threads, with_options
from localllm.cli.picture import picture_file, write_picture
from localllm.cli.settings import packed_cache, settle
from localllm.errors import UsageError
from localllm.terminal import one_line


@with_options
def command(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Path, catalog name or user/repo[:QUANT].")
    ] = None,
    synthetic: Annotated[
        str | None,
        typer.Option("--synthetic", help="Random weights of this catalog model's shape instead."),
    ] = None,
    quant: Annotated[
        str | None,
        typer.Option("--quant", help="How synthetic weights are stored; default: Q4_K_M."),
    ] = None,
    threads: Threads = None,
    prefill: Annotated[int, typer.Option("--prefill", help="Tokens of the prompt.")] = 512,
    decode: Annotated[int, typer.Option("--decode", help="Tokens of the answer.")] = 64,
    batch: Annotated[str, typer.Option("--batch", help="Sequences at once; several: 1,8.")] = "1",
    depth: Annotated[
        str, typer.Option("--depth", help="Tokens in the cache before; several: 0,4096.")
    ] = "0",
    repetitions: Annotated[
        int, typer.Option("--repetitions", help="Measurements; the median counts.")
    ] = 3,
    kv_type: KVType = None,
    vs: Annotated[
        str | None, typer.Option("--vs", help="Measure a peer, in turns: llama.cpp.")
    ] = None,
    startup: Annotated[
        bool,
        typer.Option(
            "--startup",
            help="Also fresh processes: seconds to the first token, and peak memory, of the first "
            "start (weights are packed) and the second (they are there).",
        ),
    ] = False,
    copying: Annotated[
        bool,
        typer.Option(
            "--copy", help="Also an answer that repeats its prompt, tokens drafted ahead or not."
        ),
    ] = False,
    plot: Annotated[
        str | None,
        typer.Option(
            "--plot", metavar="FILE", help="Bars, into an .svg file; -: here in the terminal."
        ),
    ] = None,
    *,
    output: OutputOptions,
) -> None:
    """Measure the speed of a model on this machine."""
    if (model is None) == (synthetic is None):
        raise UsageError("give either MODEL or --synthetic NAME")
    if quant is not None and synthetic is None:
        raise UsageError(f"--quant {quant}: a file is stored as it is; goes with --synthetic NAME")
    for flag, value in (("prefill", prefill), ("decode", decode), ("repetitions", repetitions)):
        if value < 1:
            raise UsageError(f"--{flag} {value}: must be >= 1")
    batches, depths = _numbers(batch, "--batch", 1), _numbers(depth, "--depth", 0)
    if plot == "-" and output.json:
        raise UsageError("--plot - and --json both write to stdout", "--plot FILE.svg goes with it")
    picture = None if plot in (None, "-") else picture_file(str(plot), ", or - for the terminal")

    from localllm.evaluate.bench import BenchPlan, benchmark, benchmark_synthetic

    settled = settle(EngineOptions(threads=threads, kv_type=kv_type))
    plan = BenchPlan(
        prefill=prefill,
        decode=decode,
        batches=batches,
        depths=depths,
        repetitions=repetitions,
        threads=settled.threads,
        kv_type=settled.kv_type or "f16",
        versus=vs,
        startup=startup,
        copying=copying,
    )
    with progress() as line:
        if synthetic is None:
            found = find(model)
            name = found.name
            packed = packed_cache(settled.packed_cache)
            report = benchmark(found.path, plan, packed, line.say)
        else:
            quant = quant or "Q4_K_M"
            name = f"{synthetic} {quant} (random weights)"
            report = benchmark_synthetic(synthetic, quant, plan, line.say)
    name = one_line(name)
    if output.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        _print(report, name, plot == "-")
    if picture is not None:
        from localllm.evaluate.charts import svg_chart

        write_picture(picture, svg_chart(report, name))


def _print(report: dict[str, Any], name: str, bars: bool) -> None:
    from localllm.evaluate.charts import text_chart
    from localllm.evaluate.tables import tables

    print("\n\n".join(tables(report, name)))
    if bars:
        block = "█"
        try:
            block.encode(sys.stdout.encoding or "ascii")
        except UnicodeEncodeError:
            block = "#"
        print("\n" + text_chart(report, min(100, shutil.get_terminal_size().columns), block))


def _numbers(text: str, flag: str, least: int) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise UsageError(f"{flag} {text}: must be whole numbers >= {least}, with commas between")
    return numbers
