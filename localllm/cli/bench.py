"""`localllm bench`: speed on this machine."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from localllm.cli.loading import find
from localllm.cli.options import EngineOptions, OutputOptions, with_options
from localllm.cli.settings import packed_cache, settle
from localllm.errors import UsageError


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
        str, typer.Option("--quant", help="How synthetic weights are stored.")
    ] = "Q4_K_M",
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads; default: the physical cores.")
    ] = None,
    prefill: Annotated[int, typer.Option("--prefill", help="Tokens of the prompt.")] = 512,
    decode: Annotated[int, typer.Option("--decode", help="Tokens of the answer.")] = 64,
    batch: Annotated[str, typer.Option("--batch", help="Sequences at once; several: 1,8.")] = "1",
    depth: Annotated[
        str, typer.Option("--depth", help="Tokens in the cache before; several: 0,4096.")
    ] = "0",
    repetitions: Annotated[
        int, typer.Option("--repetitions", help="Measurements; the median counts.")
    ] = 3,
    kv_type: Annotated[
        str, typer.Option("--kv-type", help="Type of the KV cache: f16 or int8.")
    ] = "f16",
    vs: Annotated[
        str | None, typer.Option("--vs", help="Measure a peer, in turns: llama.cpp.")
    ] = None,
    *,
    output: OutputOptions,
) -> None:
    """Measure the speed of a model on this machine."""
    if (model is None) == (synthetic is None):
        raise UsageError("give either MODEL or --synthetic NAME")
    for flag, value in (("prefill", prefill), ("decode", decode), ("repetitions", repetitions)):
        if value < 1:
            raise UsageError(f"--{flag} {value}: must be >= 1")
    batches, depths = _numbers(batch, "--batch", 1), _numbers(depth, "--depth", 0)

    from localllm.evaluate.bench import BenchPlan, benchmark, benchmark_synthetic

    plan = BenchPlan(
        prefill=prefill,
        decode=decode,
        batches=batches,
        depths=depths,
        repetitions=repetitions,
        threads=threads,
        kv_type=kv_type,
        versus=vs,
    )
    report: dict[str, Any] = (
        benchmark(find(model).path, plan, packed_cache(settle(EngineOptions()).packed_cache))
        if synthetic is None
        else benchmark_synthetic(synthetic, quant, plan)
    )
    if output.json:
        print(json.dumps(report, ensure_ascii=False))
        return
    rows = report["results"]
    columns = list(rows[0]) if rows else []
    table = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _numbers(text: str, flag: str, least: int) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise UsageError(f"{flag} {text}: must be whole numbers >= {least}, with commas between")
    return numbers


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
