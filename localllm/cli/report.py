"""`localllm report`: a model's quantisations measured beside each other, and which one to take."""

from __future__ import annotations

import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localllm.cli.fit import DEFAULT_QUANTISATIONS
from localllm.cli.loading import find, progress
from localllm.cli.options import (
    Chunks,
    ChunkTokens,
    Data,
    EngineOptions,
    OutputOptions,
    Threads,
    with_options,
)
from localllm.cli.picture import picture_file, write_picture
from localllm.cli.settings import packed_cache, settle
from localllm.hub.names import LocalModel
from localllm.hub.references import quantisation_of
from localllm.hub.store import cached_files
from localllm.terminal import one_line, paragraph
from localllm.units import in_bytes, rate

if TYPE_CHECKING:
    from localllm.compress.mixes import Mix
    from localllm.evaluate.report import Candidate
    from localllm.gguf import GGUFFile


@with_options
def command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Quantisations of one model: paths, or a repository of which several are here. Of "
            "a single file, smaller ones are made and removed again.",
        ),
    ],
    quant: Annotated[
        str | None,
        typer.Option(
            "--quant",
            help='Make these of the largest file, with commas between, or "" for none; default for '
            f"a single file: {DEFAULT_QUANTISATIONS}.",
        ),
    ] = None,
    data: Data = None,
    ctx: ChunkTokens = 512,
    chunks: Chunks = 8,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE", help="Quality against speed, as an .svg file."),
    ] = None,
    threads: Threads = None,
    *,
    output: OutputOptions,
) -> None:
    """Measure a model's quantisations, and say which one to take.

    Quality against the largest, size, speed, time to the first token and memory.
    """
    from localllm.evaluate.accuracy import EvalPlan
    from localllm.evaluate.history import History, history_file, machine_name
    from localllm.evaluate.report import report
    from localllm.evaluate.texts import read_text, shipped_texts

    picture = None if plot is None else picture_file(plot)
    settled = settle(EngineOptions(threads=threads))
    plan = EvalPlan(ctx, chunks, settled.threads, packed_cache(settled.packed_cache))
    texts = shipped_texts() if data is None else [read_text(data)]
    base, *others = _candidates(models, quant, settled.threads)
    history, machine = History(history_file()), machine_name(settled.threads)
    with progress() as line:
        found = report(base, others, texts, plan, history, machine, line.say)
    found = {"models": models, **found}
    if output.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        _print(found, models)
    if picture is not None:
        write_picture(picture, _picture(found, models))


def _candidates(models: list[str], quant: str | None, threads: int | None) -> list[Candidate]:
    """What is measured, the one with the most bits a weight first."""
    from localllm.compress.mixes import mixes_named
    from localllm.engine.machine import default_threads
    from localllm.evaluate.report import Candidate, made, there
    from localllm.gguf import GGUFFile
    from localllm.hub.facts import describe

    files = {file.path.resolve(): file for model in models for file in _files(model)}
    facts = {path: describe(GGUFFile.open(path)) for path in files}
    paths = sorted(files, key=lambda path: -facts[path].bits_per_weight)
    names = {path: quantisation_of(path.name) or facts[path].quantisation for path in paths}
    twice = {name for name, count in Counter(names.values()).items() if count > 1}
    candidates = [
        Candidate(path.stem if names[path] in twice else names[path], partial(there, path))
        for path in paths
    ]
    default = DEFAULT_QUANTISATIONS if len(paths) == 1 else ""
    wanted = default if quant is None else quant
    source = GGUFFile.open(paths[0])
    for mix in mixes_named(wanted):
        if mix.name in names.values() or (quant is None and not _smaller(mix, source)):
            continue
        make = partial(made, source, mix, threads or default_threads())
        candidates.append(Candidate(mix.name, make, made=True))
    return candidates


def _files(model: str) -> list[LocalModel]:
    """The file that MODEL names; of a repository without a quantisation, all that are here."""
    found = find(model)
    for file in cached_files():
        if file.path == found.path and ":" not in model and not Path(model).is_file():
            here = [other for other in cached_files() if other.repository == file.repository]
            return [LocalModel(other.name, other.path) for other in here]
    return [found]


def _smaller(mix: Mix, source: GGUFFile) -> bool:
    """Whether a quantisation has fewer bits than the file is stored with already."""
    from localllm.gguf import quant_type
    from localllm.hub.facts import describe

    return quant_type(mix.type).bits_per_weight < describe(source).bits_per_weight - 0.5


def _print(found: dict[str, Any], models: list[str]) -> None:
    from localllm.evaluate.speed import SPREAD, unsteady
    from localllm.evaluate.tables import aligned, seconds, without_empty

    print(
        f"{one_line(', '.join(models))}: against {found['base']}, {found['tokens']:,} tokens in "
        f"{found['chunks']} chunks of {found['context']}\n"
    )
    header = "", "size", "KL", "top-1", "perplexity", "prefill", "decode", "first"
    lines = [[*header, "memory", "predicted"]]
    for row in found["quantisations"]:
        if row["error"]:
            continue
        divergence, agreement = row["kl_divergence"], row["top1_agreement"]
        predicted = row["predicted"]
        lines.append(
            [
                row["quantisation"] + (" *" if row["frontier"] else ""),
                in_bytes(row["file_bytes"]),
                f"{divergence['mean']:.5f}" if divergence else "base",
                f"{agreement:.1%}" if divergence else "",
                f"{row['perplexity']:.4g}",
                rate(row["prefill_tokens_per_second"]),
                rate(row["decode_tokens_per_second"]),
                seconds(row["first_token_seconds"]),
                in_bytes(row["peak_memory_bytes"]),
                f"{rate(predicted['decode_tokens_per_second'])} t/s, "
                f"{in_bytes(predicted['peak_memory_bytes'])}"
                if predicted
                else "",
            ]
        )
    print(aligned(without_empty(lines)))
    print(
        "\n* none is both closer to the base and faster"
        "\ntop-1: tokens whose likeliest is the base's; prefill, decode: tokens/s;"
        "\nfirst: from a process's start to its first token"
    )
    for row in found["quantisations"]:
        if row["error"]:
            print(f"{row['quantisation']} could not be measured: {one_line(row['error'])}")
    spreads = [row[SPREAD] for row in found["quantisations"] if not row["error"]]
    if note := unsteady(spreads):
        print(f"note: {note}", file=sys.stderr)
    choice = found["recommendation"]
    print("\n" + paragraph(f"{choice['quantisation'] or 'nothing'}: {choice['reason']}"))


def _picture(found: dict[str, Any], models: list[str]) -> str:
    from localllm.evaluate.report import options_of
    from localllm.evaluate.scatter import svg_scatter

    title = one_line(", ".join(Path(model).name for model in models))
    chosen = found["recommendation"]["quantisation"]
    return svg_scatter(options_of(found["quantisations"]), title, chosen)
