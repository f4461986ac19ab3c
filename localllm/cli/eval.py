"""`localllm eval`: perplexity of a model, and how far it is from a base model."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from localllm.cli.loading import find, progress
from localllm.cli.options import (
    Chunks,
    ChunkTokens,
    Data,
    EngineOptions,
    Model,
    OutputOptions,
    Threads,
    with_options,
)
from localllm.cli.settings import packed_cache, settle
from localllm.terminal import one_line


@with_options
def command(
    model: Model,
    data: Data = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="MODEL", help="Also the KL divergence from this model."),
    ] = None,
    ctx: ChunkTokens = 512,
    chunks: Chunks = None,
    threads: Threads = None,
    *,
    output: OutputOptions,
) -> None:
    """Measure a model's perplexity, and how far it is from a base model."""
    from localllm.evaluate.accuracy import EvalPlan, evaluate
    from localllm.evaluate.tables import aligned
    from localllm.evaluate.texts import read_text, shipped_texts

    settled = settle(EngineOptions(threads=threads))
    plan = EvalPlan(ctx, chunks, settled.threads, packed_cache(settled.packed_cache))
    texts = shipped_texts() if data is None else [read_text(data)]
    found = find(model)
    reference = None if base is None else find(base)
    other = None if reference is None else reference.path
    with progress() as line:
        report = evaluate(found.path, other, texts, plan, line.say)
    if output.json:
        print(json.dumps(report, ensure_ascii=False))
        return
    for note in report["notes"]:
        print(f"note: {note}", file=sys.stderr)
    title = one_line(found.name) + (f" against {one_line(reference.name)}" if reference else "")
    chunked = f"{report['chunks']} chunks of {ctx} tokens"
    print(f"{title}: {chunked}, {report['tokens_per_second']:,.0f} tokens/s\n")
    columns = [list(_lines(report))]
    if len(report["texts"]) > 1:
        heads = [[("", str(text["text"])), *_lines(text)] for text in report["texts"]]
        columns = [*heads, [("", "all"), *columns[0]]]
    rows = zip(*columns, strict=True)
    print(aligned([[cells[0][0], *(text for _, text in cells)] for cells in rows]))


def _lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The figures, in words."""
    yield "perplexity", f"{found['perplexity']:.4f} ± {found['perplexity_error']:.4f}"
    divergence = found["kl_divergence"]
    if divergence is None:
        return
    yield "of the base", f"{found['base_perplexity']:.4f}"
    yield "ratio", f"{found['perplexity_ratio']:.5f} ± {found['perplexity_ratio_error']:.5f}"
    yield "KL divergence", f"{divergence['mean']:.6f} ± {divergence['error']:.6f}"
    for name, key in (("median", "median"), ("99 %", "p99"), ("99.9 %", "p999"), ("most", "max")):
        yield f"  {name}", f"{divergence[key]:.6f}"
    yield "same top token", _percent(found, "top1_agreement")
    yield "RMS Δp", _percent(found, "rms_delta_p")


def _percent(found: dict[str, Any], name: str) -> str:
    return f"{100 * found[name]:.3f} ± {100 * found[name + '_error']:.3f} %"
