"""`localllm eval` and llama-perplexity on the same file and text, in turns.

    python tools/eval_against.py LLAMA_PERPLEXITY MODEL.gguf TEXT [--base BASE.gguf]
        [--chunks 16] [--ctx 512] [--threads 2] [--rounds 3]

Prints both results, how far they are apart, and the median seconds of whole processes: one of ours;
of llama-perplexity one, or with a base two, since it writes the base's logits to a file first.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
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

    seconds: dict[str, list[float]] = {"localllm": [], "llama-perplexity": []}
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="localllm-") as folder:
        contestants = [("localllm", ours), ("llama-perplexity", theirs)]
        for turn in range(options.rounds + 1):  # the first fills the caches and is not counted
            for name, run in contestants:
                results[name], took = run(options, Path(folder))
                if turn:
                    seconds[name].append(took)
            contestants.reverse()

    mine, peers = results["localllm"], results["llama-perplexity"]
    print(f"{'':<16}{'localllm':>14}{'llama.cpp':>14}  difference")
    for name in mine:
        apart = 100 * (mine[name] / peers[name] - 1)
        print(f"{name:<16}{mine[name]:>14.6f}{peers[name]:>14.6f}  {apart:+.3f} %")
    one, other = map(median, seconds.values())
    print(f"{'seconds':<16}{one:>14.2f}{other:>14.2f}  {other / one:.2f} times as fast")
    print("all rounds:", {name: [round(s, 2) for s in all_] for name, all_ in seconds.items()})


def ours(options: argparse.Namespace, folder: Path) -> tuple[dict[str, float], float]:
    """The figures of `localllm eval`, and its seconds."""
    command = [sys.executable, "-c", "from localllm.cli.app import main; main()", "eval"]
    command += [str(options.model), "--data", str(options.text), "--json"]
    for name in ("chunks", "ctx", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    if options.base:
        command += ["--base", str(options.base)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment)
    took = time.perf_counter() - start
    report = json.loads(done.stdout)
    figures = {"perplexity": report["perplexity"]}
    if options.base:
        figures["KL divergence"] = report["kl_divergence"]["mean"]
        figures["same top token"] = 100 * report["top1_agreement"]
    return figures, took


def theirs(options: argparse.Namespace, folder: Path) -> tuple[dict[str, float], float]:
    """The figures of llama-perplexity, and its seconds."""
    numbers = ["-c", str(options.ctx), "--chunks", str(options.chunks), "-t", str(options.threads)]
    kept = ["--kl-divergence-base", str(folder / "logits")]
    environment = os.environ | {"LD_LIBRARY_PATH": str(options.peer.resolve().parent)}

    def run(model: Path, *flags: str, until: str = "") -> tuple[str, float]:
        command = [str(options.peer), "-m", str(model), *numbers, *flags]
        for _ in range(20):  # at times it ends before the end of its log is written
            start = time.perf_counter()
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=True,
                env=environment,
            )
            took = time.perf_counter() - start
            printed = done.stdout.decode(errors="replace")
            if until in printed:
                return printed, took
        raise SystemExit(f"{options.peer} does not print {until!r}")

    if options.base:
        _, first = run(options.base, "-f", str(options.text), *kept)
        printed, took = run(options.model, *kept, "--kl-divergence", until="Same top p:")
        took += first
    else:
        printed, took = run(options.model, "-f", str(options.text), until="Final estimate")
    found = {name: re.search(pattern, printed) for name, pattern in FOUND.items()}
    return {name: float(match[1]) for name, match in found.items() if match}, took


if __name__ == "__main__":
    main()
