"""`localllm quantize` beside `llama-quantize`: seconds and memory, on the same files and threads.

    python tools/peers/quantize.py MODEL.gguf... --llama-quantize PATH [--types Q4_K_M,...]
        [--threads N] [--rounds N] [--folder DIR] [--json]

Both are fresh processes and take turns; medians of all rounds are shown. Memory is the peak of what
is not a file's pages, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import psutil

from localllm.engine.machine import default_threads
from localllm.evaluate.tables import aligned
from localllm.gguf import GGUFFile
from localllm.units import in_bytes

ALLOWED_BESIDES = 200e6  # bytes of memory, beside three times the largest tensor


def measured(command: Sequence[object], libraries: Path | None = None) -> tuple[float, int]:
    """Seconds and peak anonymous memory of a process.

    Raises:
        SystemExit: it failed; says what it said last.
    """
    environment = dict(os.environ)
    if libraries is not None:
        former = environment.get("LD_LIBRARY_PATH", "")
        environment["LD_LIBRARY_PATH"] = f"{libraries}:{former}".rstrip(":")
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command], stdout=said, stderr=said, env=environment
        )
        peak = 0
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                memory = watched.memory_info()
                peak = max(peak, memory.rss - memory.shared)
            except psutil.Error:
                break
            time.sleep(0.01)
        code = process.wait()
        seconds = time.perf_counter() - start
        if code:
            said.seek(0)
            sys.exit(f"{command[0]} failed: {said.read()[-500:].strip()}")
    return seconds, peak


def compare(
    model: Path, kind: str, program: Path, threads: int, rounds: int, folder: Path
) -> dict[str, float]:
    """Medians of both, and how much memory is allowed."""
    ours, theirs = folder / "ours.gguf", folder / "theirs.gguf"
    own = [sys.executable, "-c", "from localllm.cli.app import main; main()", "quantize"]
    flags = ["--out", ours, "--threads", threads, "--force"]
    turns: dict[str, list[tuple[float, int]]] = {"localllm": [], "llama-quantize": []}
    for _ in range(rounds):
        turns["localllm"].append(measured([*own, model, kind, *flags]))
        peer = [program, "--allow-requantize", model, theirs, kind, threads]
        turns["llama-quantize"].append(measured(peer, program.parent))
    largest = max(tensor.nbytes for tensor in GGUFFile.open(model).tensors.values())
    row: dict[str, float] = {"allowed_bytes": 3 * largest + ALLOWED_BESIDES}
    for name, results in turns.items():
        row[f"{name}_seconds"] = median(seconds for seconds, _ in results)
        row[f"{name}_bytes"] = max(peak for _, peak in results)
    row["times_as_fast"] = row["llama-quantize_seconds"] / row["localllm_seconds"]
    ours.unlink()
    theirs.unlink()
    return row


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="GGUF files")
    parser.add_argument("--llama-quantize", type=Path, required=True, metavar="PATH")
    parser.add_argument("--types", default="Q8_0,Q4_0,Q6_K,Q4_K_M,IQ4_XS,Q2_K")
    parser.add_argument("--threads", type=int, default=default_threads(), help="of both")
    parser.add_argument("--rounds", type=int, default=3, help="turns of both")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary one")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    document: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for model in options.models:
            rows = document.setdefault(str(model), {})
            for kind in options.types.split(","):
                rows[kind] = compare(
                    model,
                    kind,
                    options.llama_quantize,
                    options.threads,
                    options.rounds,
                    Path(folder),
                )
    if options.json:
        print(json.dumps({"threads": options.threads, "models": document}))
        return
    for name, rows in document.items():
        table = [["", "localllm", "llama-quantize", "times", "memory", "theirs", "allowed"]]
        for kind, row in rows.items():
            table.append(
                [
                    kind,
                    f"{row['localllm_seconds']:.1f} s",
                    f"{row['llama-quantize_seconds']:.1f} s",
                    f"{row['times_as_fast']:.2f}",
                    in_bytes(row["localllm_bytes"]),
                    in_bytes(row["llama-quantize_bytes"]),
                    in_bytes(row["allowed_bytes"]),
                ]
            )
        print(f"{Path(name).name}, {options.threads} threads\n{aligned(table)}\n")


if __name__ == "__main__":
    main()
