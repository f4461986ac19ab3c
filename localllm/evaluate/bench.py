"""Speed of a model on this machine, beside a peer where one is asked for.

The contestants take turns within every measurement, so that a machine that slows down slows them
all; medians and their spread are reported. Tokens are random: nothing depends on what they say.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import localllm
from localllm.engine import memory
from localllm.engine.machine import default_threads, kernels, require_threads
from localllm.engine.pages import PAGE_SIZE
from localllm.errors import UsageError
from localllm.evaluate.contestants import (
    Contestant,
    LlamaCpp,
    Localllm,
    Tokens,
    silent_llama_cpp,
)
from localllm.evaluate.copying import copying_task, measure_copying
from localllm.evaluate.first_token import peak_memory
from localllm.evaluate.startup import measure_startup
from localllm.evaluate.summary import summary
from localllm.evaluate.synthetic import catalog_model
from localllm.files import require_space, temporary_folder
from localllm.gguf import GGUFFile
from localllm.hub.catalog import load_catalog
from localllm.models import load_definition
from localllm.ops.packed import PackedCache

Say = Callable[[str], None]  # told what is being measured


def _nothing(text: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Work:
    """One kind of measurement: `tokens` new ones for each of `batch` sequences."""

    kind: str  # "prefill" or "decode"
    tokens: int
    batch: int
    depth: int

    def __str__(self) -> str:
        batch = f", batch {self.batch}" if self.batch > 1 else ""
        return f"{self.kind} {self.tokens}{batch}{f', depth {self.depth}' if self.depth else ''}"

    def prepare(self, contestant: Contestant, random: np.random.Generator, vocabulary: int) -> None:
        """Fill the cache with `depth` tokens of each sequence, and nothing else."""
        contestant.rewind(0)
        if self.depth:
            contestant.step(self._draw(random, vocabulary, self.depth))

    def run(self, contestant: Contestant, random: np.random.Generator, vocabulary: int) -> float:
        """Tokens per second, of all sequences together; any number of times after `prepare`."""
        contestant.rewind(self.depth)
        share = self.tokens if self.kind == "prefill" else 1
        pieces = [self._draw(random, vocabulary, share) for _ in range(self.tokens // share)]
        start = time.perf_counter()
        for piece in pieces:
            contestant.step(piece)
        return self.batch * self.tokens / (time.perf_counter() - start)

    def _draw(self, random: np.random.Generator, vocabulary: int, count: int) -> Tokens:
        return random.integers(0, vocabulary, (self.batch, count), dtype=np.int32)


@dataclass(frozen=True)
class BenchPlan:
    """What is measured, and how.

    Attributes:
        prefill: tokens of the prompt.
        decode: tokens of each answer.
        batches: numbers of sequences that are decoded at once.
        depths: tokens in the cache before the answer; decode is measured with each batch at each.
        repetitions: of every measurement; medians are reported.
        threads: of every contestant; None: the physical cores that this process may use.
        kv_type: "f32", "f16" or "int8".
        versus: the peer: "llama.cpp", or None.
        startup: also fresh processes, from their start to the first token; see `measure_startup`.
        copying: also an answer that copies its prompt, drafts on and off; see `measure_copying`.

    Raises:
        UsageError: an unknown peer or KV type, or an impossible number of threads.
    """

    prefill: int
    decode: int
    batches: Sequence[int]
    depths: Sequence[int]
    repetitions: int
    threads: int | None = None
    kv_type: str = "f16"
    versus: str | None = None
    startup: bool = False
    copying: bool = False

    def __post_init__(self) -> None:
        if self.versus not in (None, LlamaCpp.name):
            raise UsageError(f"--vs {self.versus}: the peer must be {LlamaCpp.name}")
        memory.require_known(self.kv_type)
        require_threads(self.threads)

    def works(self) -> list[Work]:
        """Every measurement once, prefill first."""
        decodes = [
            Work("decode", self.decode, batch, depth)
            for depth in self.depths
            for batch in self.batches
        ]
        return list(dict.fromkeys([Work("prefill", self.prefill, 1, 0), *decodes]))


def benchmark(
    path: Path, plan: BenchPlan, packed: PackedCache | None = None, say: Say = _nothing
) -> dict[str, Any]:
    """Measure a model file.

    Args:
        path: of the file.
        plan: what is measured.
        packed: where packed weights are kept; None: nowhere.
        say: told what is being measured.

    Returns:
        `prefill_tokens_per_second` and `decode_tokens_per_second` (batch 1, depth 0), `results`
        with a row for each measurement, and what was measured: model, file_bytes, threads, isa,
        kv_type, version, python_version, numpy_version, versus, versus_version (of
        llama-cpp-python), repetitions, load_seconds, peak_memory_bytes (of this process; None
        beside a peer, whose memory would be in it).
        `startup` and `copying`: None where not asked for. A row has the rates of every one of its
        `contestants` (see `summary`), `tokens_per_second`, the median of localllm's, and, beside
        a peer, the `ratio` of that to the peer's.

    Raises:
        UsageError: `LOCALLLM_ISA` asks for kernels that cannot run here.
        LocalLLMError: the peer cannot be used, or the model does not fit.
    """
    isa, peer_version = _found(plan)
    threads = plan.threads or default_threads()
    file = GGUFFile.open(path)
    vocabulary = load_definition(file).config.vocab
    task = copying_task(file) if plan.copying else None
    common = threads, plan.kv_type, plan.repetitions
    # First, while this process holds no weights.
    startup = (
        measure_startup(path, file.nbytes, *common, plan.versus, say) if plan.startup else None
    )
    works = plan.works()
    names, load_seconds, rates = _contest(path, plan, works, threads, vocabulary, packed, say)
    results = [_row(work, names, rates[work]) for work in works]
    speeds = {work: row["tokens_per_second"] for work, row in zip(works, results, strict=True)}
    copying = measure_copying(path, task, *common, packed, say) if task else None
    return {
        "model": str(path),
        "file_bytes": file.nbytes,
        "threads": threads,
        "isa": isa,
        "kv_type": plan.kv_type,
        "version": localllm.__version__,
        "python_version": platform.python_version(),
        "numpy_version": np.__version__,
        "versus": plan.versus,
        "versus_version": peer_version,
        "repetitions": plan.repetitions,
        "prefill_tokens_per_second": speeds[works[0]],
        "decode_tokens_per_second": speeds.get(Work("decode", plan.decode, 1, 0)),
        "load_seconds": load_seconds,
        "peak_memory_bytes": peak_memory() if not plan.versus else None,
        "results": results,
        "startup": startup,
        "copying": copying,
    }


def benchmark_synthetic(
    name: str, quantisation: str, plan: BenchPlan, say: Say = _nothing
) -> dict[str, Any]:
    """Measure random weights in the shape of a catalog model; returns as `benchmark`.

    Raises:
        UsageError: see `benchmark`; or an unknown catalog name or quantisation.
        LocalLLMError: see `benchmark`; or there is no room for the file.
    """
    _found(plan)
    say(f"making random weights of {name}'s shape")
    with _synthetic_file(name, quantisation) as path:
        packed = PackedCache(path.parent / "packed", 1 << 40)  # as a model that stays has them
        report = benchmark(path, plan, packed, say)
    return report | {"model": name, "quantisation": quantisation}


def _found(plan: BenchPlan) -> tuple[str, str | None]:
    """The kernels and the peer's version; what is missing is said before anything is made."""
    return kernels(), silent_llama_cpp()[0].__version__ if plan.versus else None


def _contest(
    path: Path,
    plan: BenchPlan,
    works: Sequence[Work],
    threads: int,
    vocabulary: int,
    packed: PackedCache | None,
    say: Say,
) -> tuple[list[str], float, dict[Work, list[list[float]]]]:
    """Names of the contestants, seconds that loading took here, and rates by work."""
    room = max(work.batch * _whole_pages(work.depth + work.tokens) for work in works)
    say("loading")
    contestants: list[Contestant] = [Localllm(path, room, threads, plan.kv_type, packed)]
    try:
        if plan.versus:
            sequences = max(work.batch for work in works)
            contestants.append(LlamaCpp(path, room, sequences, threads, plan.kv_type))
        rates = _measure(contestants, works, plan.repetitions, vocabulary, say)
    finally:
        for contestant in contestants:
            contestant.close()
    names = [contestant.name for contestant in contestants]
    return names, contestants[0].load_seconds, rates


def _measure(
    contestants: Sequence[Contestant],
    works: Sequence[Work],
    repetitions: int,
    vocabulary: int,
    say: Say,
) -> dict[Work, list[list[float]]]:
    """Rates by work, then contestant: one a repetition. A first short run warms everything up."""
    random = np.random.default_rng(0)
    for contestant in contestants:
        Work("decode", 2, 1, 0).run(contestant, random, vocabulary)
    rates: dict[Work, list[list[float]]] = {work: [[] for _ in contestants] for work in works}
    for work in works:
        say(f"{work}: filling the cache" if work.depth else str(work))
        for contestant in contestants:
            work.prepare(contestant, random, vocabulary)
        turns = list(zip(contestants, rates[work], strict=True))
        for repetition in range(repetitions):
            say(f"{work}: {repetition + 1} of {repetitions}")
            for contestant, found in turns:
                found.append(work.run(contestant, random, vocabulary))
            turns.reverse()  # nobody always comes after the same one
    return rates


def _row(work: Work, names: Sequence[str], rates: list[list[float]]) -> dict[str, Any]:
    ours, *theirs = map(median, rates)
    row: dict[str, Any] = {
        "test": work.kind,
        "tokens": work.tokens,
        "batch": work.batch,
        "depth": work.depth,
        "label": str(work),
        "tokens_per_second": ours,
        "contestants": {name: summary(found) for name, found in zip(names, rates, strict=True)},
    }
    if theirs:
        row["ratio"] = ours / theirs[0]
    return row


@contextmanager
def _synthetic_file(name: str, quantisation: str) -> Iterator[Path]:
    """A file of random weights in a catalog model's shape, removed afterwards."""
    catalog = load_catalog()
    if name not in catalog:
        raise UsageError(
            f"--synthetic {name}: not in the catalog", "`localllm list` shows the names"
        )
    entry = catalog[name]
    with temporary_folder() as folder:
        # Q8_0 takes about 1.8 times the size, and is packed too.
        require_space(folder, 4 * entry.bytes, "TMPDIR names another folder")
        path = folder / f"{name}-{quantisation}.gguf"
        catalog_model(path, entry, quantisation)
        yield path


def _whole_pages(tokens: int) -> int:
    return -(-tokens // PAGE_SIZE) * PAGE_SIZE
