"""Measures this machine and writes docs/benchmarks.md; `make bench` runs it.

    python tools/benchmarks.py [--vs llama.cpp] [--only llama-3.2-1b:Q4_K_M:start]... [--resume]

The models are random weights in the shapes of catalog models, which are as fast as trained ones.
Every piece is one `localllm bench --json`; its report is kept in build/benchmarks, so that a run
that was ended goes on where it was with --resume. The page shows every report that is kept. All
pieces take about 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from localllm.evaluate.contestants import LlamaCpp
from localllm.evaluate.synthetic import catalog_model
from localllm.evaluate.tables import spread, start_label
from localllm.hub.catalog import load_catalog
from localllm.units import in_bytes

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "build" / "benchmarks"
CACHE = RESULTS / "cache"  # of packed weights, as in everyday use
PAGE = ROOT / "docs" / "benchmarks.md"

MODELS = ("llama-3.2-1b", "qwen2.5-0.5b", "qwen3-0.6b")
TYPES = ("Q4_K_M", "Q8_0")
PIECES = {
    "alone": ("--prefill", "512", "--decode", "64"),
    "batch": ("--prefill", "1", "--decode", "64", "--batch", "8"),
    "deep": ("--prefill", "1", "--decode", "64", "--depth", "4096", "--kv-type", "int8"),
    "start": ("--prefill", "1", "--decode", "1", "--startup", "--copy"),
}
NAMES = [
    f"{model}:{quantisation}:{piece}"
    for model in MODELS
    for quantisation in TYPES
    for piece in PIECES
]
REPETITIONS = "3"
VERSIONS = {  # of what was measured, in its report
    "localllm": "version",
    "Python": "python_version",
    "numpy": "numpy_version",
    "llama-cpp-python": "versus_version",
}


def localllm(*arguments: str) -> Any:
    """What a command of the program says with --json.

    Raises:
        SystemExit: it failed; it has said why.
    """
    code = "from localllm.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--json"],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(CACHE)},  # the user's own keeps what is in it
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout)


def place(model: str, quantisation: str, piece: str) -> Path:
    """Where the report of a piece is kept."""
    return RESULTS / f"{model}-{quantisation}-{piece}.json"


def reported(path: Path, peer: str | None) -> bool:
    """Whether a report is kept there, and of the peer too where one is asked for."""
    return path.exists() and peer in (None, json.loads(path.read_text())["versus"])


def measure(names: list[str], peer: str | None) -> None:
    """Measure the pieces of these names that have no report yet."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for model in MODELS:
        for quantisation in TYPES:
            missing = [
                piece
                for piece in PIECES
                if f"{model}:{quantisation}:{piece}" in names
                and not reported(place(model, quantisation, piece), peer)
            ]
            if not missing:
                continue
            file = RESULTS / f"{model}-{quantisation}.gguf"
            catalog_model(file, load_catalog()[model], quantisation)
            try:
                for piece in missing:
                    print(f"{model} {quantisation} {piece}", file=sys.stderr)
                    # The user's settings are not what is shown here; a piece may say otherwise.
                    flags = ["--kv-type", "f16", *PIECES[piece], "--repetitions", REPETITIONS]
                    flags += ["--vs", peer] if peer else []
                    found = localllm("bench", str(file), *flags)
                    place(model, quantisation, piece).write_text(json.dumps(found))
            finally:
                file.unlink()
                shutil.rmtree(CACHE, ignore_errors=True)


def reports(piece: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of each model, and the report of a piece of it, where there is one."""
    for model in MODELS:
        for quantisation in TYPES:
            path = place(model, quantisation, piece)
            if path.exists():
                yield f"{model} {quantisation}", json.loads(path.read_text())


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table; the first two columns to the left, the others to the right."""
    rule = ["---", "---", *["---:"] * (len(head) - 2)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def speed_rows() -> Iterator[list[str]]:
    """A row for every measurement of prefill and decode."""
    for piece in ("alone", "batch", "deep"):
        for name, report in reports(piece):
            for row in report["results"]:
                if row["test"] == "prefill" and piece != "alone":
                    continue
                label = row["label"] + (", int8 KV" if report["kv_type"] == "int8" else "")
                found = row["contestants"]
                theirs = spread(found["llama.cpp"]) if "llama.cpp" in found else "-"
                ratio = f"{row['ratio']:.2f}x" if "ratio" in row else "-"
                yield [label, name, spread(found["localllm"]), theirs, ratio]


def start_rows() -> Iterator[list[str]]:
    """A row for every kind of start."""
    for name, report in reports("start"):
        for row in report["startup"]:
            memory = row["peak_memory_bytes"]
            yield [
                name,
                start_label(row),
                spread(row["first_token_seconds"]),
                spread(row["exit_seconds"]),
                in_bytes(memory) if memory else "-",
                f"{row['peak_memory_to_file']:.2f}x" if memory else "-",
            ]


def copying_rows() -> Iterator[list[str]]:
    """A row for every model that copied."""
    for name, report in reports("start"):
        found = report["copying"]
        yield [
            name,
            "yes" if found["same_tokens"] else "NO",
            spread(found["with_drafts"]),
            spread(found["without_drafts"]),
            f"{found['ratio']:.2f}x",
            f"{found['accepted_tokens']} of {found['drafted_tokens']}",
        ]


def page() -> str:
    """The whole page."""
    machine = localllm("doctor")
    found = [report for piece in PIECES for _, report in reports(piece)]
    paths = {name: place(*name.split(":")) for name in NAMES}
    missing = [name.replace(":", " ") for name, path in paths.items() if not path.exists()]
    times = [path.stat().st_mtime for path in paths.values() if path.exists()]
    days = [str(date.fromtimestamp(time)) for time in (min(times), max(times))]
    measured = " to ".join(dict.fromkeys(days))
    versions = dict.fromkeys(
        f"{name} {report[key]}"
        for name, key in VERSIONS.items()
        for report in found
        if report.get(key)
    )
    return f"""\
# Benchmarks

`make bench` measured this ({measured}) and wrote this page; on your machine it writes yours.
`make bench VS=llama.cpp` measures the peer too (`.venv/bin/pip install '.[llamacpp]'` installs it).
`python tools/benchmarks.py --help` says more, and `tools/peers/compare.py` runs the peers' own
benchmark programs in turns with localllm.

The models are random weights in the shapes of real models, as `localllm bench --synthetic NAME`
makes them: the time does not depend on what the weights say. Contestants take turns and have the
same threads, the same file and steps of at most 512 tokens; llama.cpp (through llama-cpp-python)
runs with its default settings, which are not always its fastest: `tools/peers/compare.py` measures
it with its weights repacked and as they are. Shown are medians of {REPETITIONS} and, in brackets,
least and most.

## Machine

- {machine["cpu"]}, {in_bytes(machine["memory_total"])} memory, {platform.platform()}
- {found[0]["threads"]} threads, {found[0]["isa"]} kernels
- {", ".join(versions)}
- not measured: {", ".join(missing) or "nothing is missing"}

## Speed

Tokens per second, of all sequences together. The ratio is localllm's speed over llama.cpp's: above
1, localllm is faster. `decode 64, batch 8` writes 8 answers of 64 tokens at once; at `depth 4096`
so many tokens are in the cache already.

{markdown(["test", "model", "localllm", "llama.cpp", "ratio"], list(speed_rows()))}

## Start-up and memory

Fresh Python processes that load the file and make one token: seconds from the start of the process.
The first start packs the weights into an empty folder, the second maps them from there. The model
file is in the system's file cache. Memory is what was resident at most, mapped files included.

{
        markdown(
            ["model", "process", "first token, s", "exit, s", "peak memory", "of the file"],
            list(start_rows()),
        )
    }

## Copying

Tokens per second where an answer of 256 tokens repeats its prompt, a source file in which a method
is renamed; with prompt lookup (the default) and without. The answer's tokens are given, so every
model copies faultlessly: this is the most that a model which follows the task can gain. The tokens
that the model itself is for must be the same both ways.

{
        markdown(
            ["model", "same tokens", "drafts on", "drafts off", "ratio", "drafts right"],
            list(copying_rows()),
        )
    }
"""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vs", choices=[LlamaCpp.name], help="measure the peer too, in turns")
    parser.add_argument(
        "--only", action="append", choices=NAMES, metavar="PIECE", help="repeatable; default: all"
    )
    parser.add_argument(
        "--resume", action="store_true", help="measure only what a run that was ended left out"
    )
    options = parser.parse_args()
    names = options.only or NAMES
    if not options.resume:  # all at once: what an ended run leaves for --resume is its own
        for name in names:
            place(*name.split(":")).unlink(missing_ok=True)
    measure(names, options.vs)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE} is written")


if __name__ == "__main__":
    main()
