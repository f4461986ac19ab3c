"""`localllm fit`: what a model would do on this machine, before it is downloaded."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from localllm.cli.loading import find, progress
from localllm.cli.options import EngineOptions, OutputOptions, Threads, with_options
from localllm.cli.settings import settle
from localllm.errors import LocalLLMError, UsageError
from localllm.hub.catalog import CatalogModel, load_catalog
from localllm.hub.names import NotHereError
from localllm.terminal import one_line, paragraph
from localllm.units import in_bytes, rate, si

DEFAULT_QUANTISATIONS = "Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q4_0,Q3_K_M,Q2_K"


@with_options
def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Catalog name; or path or user/repo[:QUANT] of one that is here."
        ),
    ],
    quant: Annotated[
        str, typer.Option("--quant", help="Quantisations to predict, with commas between.")
    ] = DEFAULT_QUANTISATIONS,
    threads: Threads = None,
    *,
    output: OutputOptions,
) -> None:
    """Predict the speed and memory of a model that need not be here.

    Of each quantisation, from random weights of the model's shape.
    """
    from localllm.compress.mixes import mixes_named
    from localllm.engine.machine import available_memory, kernels
    from localllm.evaluate.choice import Option, recommend_predicted
    from localllm.evaluate.fit import predict
    from localllm.evaluate.history import History, Subject, history_file, machine_name
    from localllm.evaluate.speed import FIGURES, SPREAD, unsteady

    mixes = mixes_named(quant)
    if not mixes:
        raise UsageError("--quant: names no quantisation")
    settled = settle(EngineOptions(threads=threads))
    entry = _entry(model)
    kernels()
    history, machine = History(history_file()), machine_name(settled.threads)
    available = available_memory()
    rows: list[dict[str, Any]] = []
    with progress() as line:
        for mix in mixes:

            def say(text: str, name: str = mix.name) -> None:
                line.say(f"{name}: {text}")

            prediction = predict(entry, mix, settled.threads, say)
            subject = Subject(machine, entry.architecture, entry.shape, mix.name)
            figures = history.predict(subject, prediction.figures)
            rows.append(
                {
                    "quantisation": mix.name,
                    "file_bytes": prediction.file_bytes,
                    **figures,
                    "fits": figures["peak_memory_bytes"] <= available,
                    "uncorrected": prediction.figures,
                    "measured": history.measured(subject),
                    "layers_measured": list(prediction.layers),
                    SPREAD: prediction.spread,
                }
            )
    choice = recommend_predicted(
        [
            Option(
                row["quantisation"],
                row["file_bytes"],
                row["decode_tokens_per_second"],
                row["peak_memory_bytes"],
            )
            for row in rows
        ],
        available,
    )
    report = {
        "model": entry.alias,
        "parameters": entry.shape.parameters,
        "memory_available": available,
        "machine": machine,
        "corrections": history.correction(machine),
        "quantisations": rows,
        "recommendation": {"quantisation": choice.name, "reason": choice.reason},
    }
    if output.json:
        print(json.dumps(report, ensure_ascii=False))
        return
    print(
        f"{one_line(entry.alias)}, {si(entry.shape.parameters)} parameters: predicted from random "
        f"weights of its shape\n{in_bytes(available)} of memory are available\n"
    )
    print(_table(rows, FIGURES))
    if note := unsteady([row[SPREAD] for row in rows]):
        print(f"note: {note}", file=sys.stderr)
    print("\n" + paragraph(f"{choice.name or 'nothing'}: {choice.reason}"))


def _entry(model: str) -> CatalogModel:
    """The catalog's entry, or that of a file which is here.

    Raises:
        UsageError, LocalLLMError: it is neither.
    """
    from localllm.evaluate.fit import model_of
    from localllm.evaluate.synthetic import ARCHITECTURES
    from localllm.gguf import GGUFFile

    if (known := load_catalog().get(model.lower())) is not None:
        return known
    try:
        found = find(model)
    except NotHereError as error:
        hint = "the models of the catalog need not be: `localllm list` shows them"
        raise LocalLLMError(error.message, hint) from None
    entry = model_of(GGUFFile.open(found.path), found.name)
    if entry.architecture not in ARCHITECTURES:
        raise UsageError(f"{model}: no random weights can be made of {entry.architecture} models")
    return entry


def _table(rows: list[dict[str, Any]], figures: tuple[str, ...]) -> str:
    from localllm.evaluate.tables import aligned, seconds, without_empty

    lines = [["", "file", "prefill t/s", "decode t/s", "first token", "memory", "", "measured"]]
    for row in rows:
        prefill, decode, first, memory = (row[name] for name in figures)
        measured = row["measured"]
        lines.append(
            [
                row["quantisation"],
                in_bytes(row["file_bytes"]),
                rate(prefill),
                rate(decode),
                seconds(first),
                in_bytes(memory),
                "fits" if row["fits"] else "too large",
                f"{rate(measured[figures[1]])} t/s, {in_bytes(measured[figures[3]])}"
                if measured
                else "",
            ]
        )
    return aligned(without_empty(lines))
