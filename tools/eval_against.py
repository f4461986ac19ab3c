"""`localllm eval` and llama-perplexity on the same file and text, in turns.

    python tools/eval_against.py LLAMA_PERPLEXITY MODEL.gguf TEXT [--base BASE.gguf]
        [--chunks 16] [--ctx 512] [--threads 2] [--rounds 3]

Prints both results, how far they are apart, and medians of whole processes' seconds: one of ours;
of llama-perplexity one, or with a base two, since it writes the base's logits to a file first.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
Spent = tuple[float, float]  # seconds, and those of processors
FOUND = {
    "perplexity": r"(?:Final estimate: PPL =|Mean PPL\(Q\) +:) +([\d.]+)",
    "KL divergence": r"Mean +KLD: +([\d.-]+)",
    "same top token": r"Same top p: +([\d.]+)",
}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("peer", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--base", type=Path)
    for name, number in (("chunks", 16), ("ctx", 512), ("threads", 2), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=number)
    options = parser.parse_args()

    spent: dict[str, list[Spent]] = {"localllm": [], "llama-perplexity": []}
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="localllm-") as folder:
        contestants = [("localllm", ours), ("llama-perplexity", theirs)]
        for turn in range(options.rounds + 1):  # the first fills the caches and is not counted
            for name, run in contestants:
                results[name], took = run(options, Path(folder))
                if turn:
                    spent[name].append(took)
            contestants.reverse()

    mine, peers = results["localllm"], results["llama-perplexity"]
    print(f"{'':<16}{'localllm':>14}{'llama.cpp':>14}  difference")
    for name in mine:
        apart = 100 * (mine[name] / peers[name] - 1) if peers[name] else math.nan
        print(f"{name:<16}{mine[name]:>14.6f}{peers[name]:>14.6f}  {apart:+.3f} %")
    for kind, title in enumerate(("seconds", "of processors")):
        one, other = (median(took[kind] for took in all_) for all_ in spent.values())
        print(f"{title:<16}{one:>14.2f}{other:>14.2f}  {other / one:.2f} times as fast")
    print("all rounds:", spent)


def run_measured(command: list[str], environment: dict[str, str]) -> tuple[str, Spent]:
    """What a command prints on stdout, and what it took."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    start, before = time.perf_counter(), used()
    # llama.cpp writes what it found into its log, on stderr or not.
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, env=environment
    )
    took = round(time.perf_counter() - start, 2), round(used() - before, 2)
    return done.stdout.decode(errors="replace"), took


def ours(options: argparse.Namespace, folder: Path) -> tuple[dict[str, float], Spent]:
    """The figures of `localllm eval`, and what it took."""
    command = [sys.executable, "-c", "from localllm.cli.app import main; main()", "eval"]
    command += [str(options.model), "--data", str(options.text), "--json"]
    for name in ("chunks", "ctx", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    if options.base:
        command += ["--base", str(options.base)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    printed, took = run_measured(command, environment)
    report = json.loads(printed.splitlines()[-1])
    figures = {"perplexity": report["perplexity"]}
    if options.base:
        figures["KL divergence"] = report["kl_divergence"]["mean"]
        figures["same top token"] = 100 * report["top1_agreement"]
    return figures, took


def theirs(options: argparse.Namespace, folder: Path) -> tuple[dict[str, float], Spent]:
    """The figures of llama-perplexity, and what it took."""
    numbers = ["-c", str(options.ctx), "--chunks", str(options.chunks), "-t", str(options.threads)]
    kept = ["--kl-divergence-base", str(folder / "logits")]
    # Threads that wait do so without computing, as ours: else other programs slow it down more.
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(options.peer.resolve().parent),
        "OMP_WAIT_POLICY": "passive",
    }

    def run(model: Path, *flags: str, until: str = "") -> tuple[str, Spent]:
        command = [str(options.peer), "-m", str(model), *numbers, *flags]
        for _ in range(20):  # at times it ends before the end of its log is written
            printed, took = run_measured(command, environment)
            if until in printed:
                return printed, took
        raise SystemExit(f"{options.peer} does not print {until!r}")

    if options.base:
        _, first = run(options.base, "-f", str(options.text), *kept)
        printed, took = run(options.model, *kept, "--kl-divergence", until="Same top p:")
        took = took[0] + first[0], took[1] + first[1]
    else:
        printed, took = run(options.model, "-f", str(options.text), until="Final estimate")
    found = {name: re.search(pattern, printed) for name, pattern in FOUND.items()}
    return {name: float(match[1]) for name, match in found.items() if match}, took


if __name__ == "__main__":
    main()
