"""How fast a model runs here and what memory it takes, in the four figures people compare."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from localllm.engine.machine import default_threads
from localllm.evaluate.bench import BenchPlan, benchmark
from localllm.evaluate.startup import measure_startup
from localllm.gguf import GGUFFile
from localllm.ops.packed import PackedCache

Say = Callable[[str], None]  # told what is being measured
Figures = dict[str, float]

PREFILL, DECODE = 512, 64  # tokens
FIGURES = (
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "first_token_seconds",
    "peak_memory_bytes",
)
"""Of a prompt of 512 tokens and an answer of 64; of a fresh process, from its start to its first
token, its weights packed before; of the same process."""
SPREAD = "decode_spread"
"""The name of one figure more: the most and the least speed of decode are so far apart, as a share
of the median. On a quiet machine less than a tenth."""
_WIDE = 0.3


def measure_speed(
    path: Path, threads: int | None, packed: PackedCache | None, say: Say, repetitions: int = 3
) -> Figures:
    """The `FIGURES` and the `SPREAD` of a model file.

    Args:
        path: of the file.
        threads: None: the physical cores that this process may use.
        packed: where packed weights are kept; None: nowhere.
        say: told what is being measured.
        repetitions: of prefill and decode; medians count.

    Raises:
        LocalLLMError: the model cannot be run, or does not fit.
    """
    with suppress(OSError), path.open("rb") as new:
        os.fsync(new.fileno())  # else the system writes a new file meanwhile, which costs 8 %
    plan = BenchPlan(PREFILL, DECODE, [1], [0], repetitions, threads)
    report = benchmark(path, plan, packed, say)
    size = GGUFFile.open(path).nbytes
    starts = measure_startup(path, size, threads or default_threads(), "f16", 1, None, say)
    decode = report["results"][-1]["contestants"]["localllm"]
    second = next(row for row in starts if row["start"] == "second")
    return {
        "prefill_tokens_per_second": report["prefill_tokens_per_second"],
        "decode_tokens_per_second": report["decode_tokens_per_second"],
        "first_token_seconds": second["first_token_seconds"]["median"],
        "peak_memory_bytes": second["peak_memory_bytes"] or 0,
        SPREAD: (decode["most"] - decode["least"]) / decode["median"],
    }


def unsteady(spreads: Sequence[float]) -> str:
    """What to say where speeds moved much while they were measured; else nothing."""
    most = max(spreads, default=0.0)
    if most <= _WIDE:
        return ""
    return f"decode moved by up to {most:.0%} while it was measured: is the machine busy?"
