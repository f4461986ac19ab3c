"""Speed of a model on this machine, beside a peer where one is asked for.

The contestants take turns within every repetition, so that a machine that slows down slows them
all; medians and their spread are reported. Tokens are random: nothing depends on what they say.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from localllm import _native
from localllm.engine import memory
from localllm.engine.batch import Batch
from localllm.engine.machine import available_memory, default_threads
from localllm.engine.pages import PAGE_SIZE
from localllm.engine.runner import NativeRunner
from localllm.engine.scheduler import STEP_TOKENS
from localllm.errors import LocalLLMError, UsageError
from localllm.evaluate.synthetic import catalog_model
from localllm.gguf import GGUFFile
from localllm.hub.catalog import load_catalog
from localllm.models import load_definition
from localllm.ops.packed import PackedCache
from localllm.units import in_bytes

Tokens = npt.NDArray[np.int32]


class Contestant(Protocol):
    """Runs batches of several sequences of random tokens; each sequence's cache grows."""

    name: str
    load_seconds: float

    def clear(self) -> None:
        """Forget all sequences."""

    def step(self, tokens: Tokens) -> None:
        """Append int32 [sequences, n] tokens to the sequences and compute the last ones' logits."""

    def close(self) -> None:
        """Give the memory back."""


@dataclass(frozen=True)
class Work:
    """One kind of measurement: `tokens` new ones for each of `batch` sequences."""

    kind: str  # "prefill" or "decode"
    tokens: int
    batch: int
    depth: int

    def run(self, contestant: Contestant, random: np.random.Generator, vocabulary: int) -> float:
        """Tokens per second, of all sequences together."""

        def draw(count: int) -> Tokens:
            return random.integers(0, vocabulary, (self.batch, count), dtype=np.int32)

        contestant.clear()
        if self.depth:
            contestant.step(draw(self.depth))
        pieces = (
            [draw(self.tokens)] if self.kind == "prefill" else [draw(1) for _ in range(self.tokens)]
        )
        start = time.perf_counter()
        for piece in pieces:
            contestant.step(piece)
        return self.batch * self.tokens / (time.perf_counter() - start)


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
        kv_type: "f16" or "int8".
        versus: the peer: "llama.cpp", or None.

    Raises:
        UsageError: an unknown peer.
    """

    prefill: int
    decode: int
    batches: Sequence[int]
    depths: Sequence[int]
    repetitions: int
    threads: int | None = None
    kv_type: str = "f16"
    versus: str | None = None

    def __post_init__(self) -> None:
        if self.versus not in (None, LlamaCpp.name):
            raise UsageError(f"--vs {self.versus}: the peer must be {LlamaCpp.name}")

    def works(self) -> list[Work]:
        """Every measurement, prefill first."""
        decodes = [
            Work("decode", self.decode, batch, depth)
            for depth in self.depths
            for batch in self.batches
        ]
        return [Work("prefill", self.prefill, 1, 0), *decodes]


def benchmark(path: Path, plan: BenchPlan, packed: PackedCache | None = None) -> dict[str, Any]:
    """Measure a model file.

    Args:
        path: of the file.
        plan: what is measured.
        packed: where packed weights are kept; None: nowhere.

    Returns:
        `prefill_tokens_per_second` and `decode_tokens_per_second` (batch 1, depth 0), `results`
        with a row for each measurement, and what was measured: model, threads, isa, kv_type,
        load_seconds, peak_memory_bytes.

    Raises:
        LocalLLMError: the peer is not installed, or the model does not fit.
    """
    threads = plan.threads or default_threads()
    works = plan.works()
    room = max(work.batch * _whole_pages(work.depth + work.tokens) for work in works)
    vocabulary = load_definition(GGUFFile.open(path)).config.vocab
    contestants: list[Contestant] = [Localllm(path, room, threads, plan.kv_type, packed)]
    try:
        if plan.versus:
            sequences = max(work.batch for work in works)
            contestants.append(LlamaCpp(path, room, sequences, threads, plan.kv_type))
        rates = _measure(contestants, works, plan.repetitions, vocabulary)
    finally:
        for contestant in contestants:
            contestant.close()
    results = [_row(work, contestants, rates[work]) for work in works]
    speeds = {work: row["tokens_per_second"] for work, row in zip(works, results, strict=True)}
    return {
        "model": str(path),
        "threads": threads,
        "isa": _native.isa(),
        "kv_type": plan.kv_type,
        "prefill_tokens_per_second": speeds[works[0]],
        "decode_tokens_per_second": speeds.get(Work("decode", plan.decode, 1, 0)),
        "load_seconds": contestants[0].load_seconds,
        "peak_memory_bytes": _peak_memory() if not plan.versus else None,
        "results": results,
    }


def benchmark_synthetic(name: str, quantisation: str, plan: BenchPlan) -> dict[str, Any]:
    """Measure random weights in the shape of a catalog model; returns as `benchmark`.

    Raises:
        UsageError: an unknown catalog name or quantisation.
        LocalLLMError: see `benchmark`; or there is no room for the file.
    """
    with _synthetic_file(name, quantisation) as path:
        return benchmark(path, plan) | {"model": name, "quantisation": quantisation}


def _measure(
    contestants: Sequence[Contestant], works: Sequence[Work], repetitions: int, vocabulary: int
) -> dict[Work, list[list[float]]]:
    """Rates by work, then contestant: one a repetition. A first short run warms everything up."""
    random = np.random.default_rng(0)
    for contestant in contestants:
        Work("decode", 2, 1, 0).run(contestant, random, vocabulary)
    rates: dict[Work, list[list[float]]] = {work: [[] for _ in contestants] for work in works}
    for _ in range(repetitions):
        for work in works:
            for contestant, found in zip(contestants, rates[work], strict=True):
                found.append(work.run(contestant, random, vocabulary))
    return rates


def _row(work: Work, contestants: Sequence[Contestant], rates: list[list[float]]) -> dict[str, Any]:
    medians = [statistics.median(found) for found in rates]
    row: dict[str, Any] = {
        "test": work.kind,
        "tokens": work.tokens,
        "batch": work.batch,
        "depth": work.depth,
        "tokens_per_second": medians[0],
        "slowest": min(rates[0]),
        "fastest": max(rates[0]),
    }
    for contestant, median in zip(contestants[1:], medians[1:], strict=True):
        row[contestant.name] = median
        row["ratio"] = medians[0] / median
    return row


class Localllm:
    """This runtime, its program stepped directly: no sampling, as in the peers' own benchmarks."""

    name = "localllm"

    def __init__(
        self, path: Path, room: int, threads: int, kv_type: str, packed: PackedCache | None
    ) -> None:
        start = time.perf_counter()
        file = GGUFFile.open(path)
        model = load_definition(file)
        memory.choose_context(file, model.config, room, available_memory(), kv_type)
        self.runner = NativeRunner(
            model,
            pages=room // PAGE_SIZE,
            page_size=PAGE_SIZE,
            kv_type=kv_type,
            threads=threads,
            place=packed.place if packed else None,
        )
        self.load_seconds = time.perf_counter() - start
        self.past = 0

    def clear(self) -> None:
        """See Contestant."""
        self.past = 0

    def step(self, tokens: Tokens) -> None:
        """See Contestant."""
        sequences, count = tokens.shape
        pages = self.runner.pages // sequences
        tables = np.arange(sequences * pages, dtype=np.int32).reshape(sequences, pages)
        share = max(1, STEP_TOKENS // sequences)
        for start in range(0, count, share):
            part = np.ascontiguousarray(tokens[:, start : start + share])
            length = part.shape[1]
            last = start + length == count
            rows = np.arange(1, sequences + 1, dtype=np.int32) * length - 1
            self.runner.step(
                Batch(
                    tokens=part.reshape(-1),
                    lengths=np.full(sequences, length, np.int32),
                    past=np.full(sequences, self.past, np.int32),
                    tables=tables,
                    rows=rows if last else rows[:0],
                )
            )
            self.past += length

    def close(self) -> None:
        """See Contestant."""
        del self.runner


class LlamaCpp:
    """llama.cpp through llama-cpp-python's low-level interface, with its default settings."""

    name = "llama.cpp"

    def __init__(self, path: Path, room: int, sequences: int, threads: int, kv_type: str) -> None:
        start = time.perf_counter()
        llama_cpp, _ = _silent_llama_cpp()
        self.api = llama_cpp
        self.model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        if not self.model:
            raise LocalLLMError(f"{path}: llama.cpp cannot load it")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = room
        params.n_batch = params.n_ubatch = STEP_TOKENS  # which is its default too
        params.n_seq_max = sequences
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = threads
        if kv_type == "int8":
            params.type_k = params.type_v = llama_cpp.GGML_TYPE_Q8_0
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise LocalLLMError(f"{path}: llama.cpp cannot make a context of {room} tokens")
        self.batch = llama_cpp.llama_batch_init(STEP_TOKENS, 0, 1)
        self.load_seconds = time.perf_counter() - start
        self.past = 0

    def clear(self) -> None:
        """See Contestant."""
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        self.past = 0

    def step(self, tokens: Tokens) -> None:
        """See Contestant."""
        sequences, count = tokens.shape
        share = max(1, STEP_TOKENS // sequences)
        for start in range(0, count, share):
            part = tokens[:, start : start + share]
            length = part.shape[1]
            for i, (sequence, position) in enumerate(np.ndindex(sequences, length)):
                self.batch.token[i] = int(part[sequence, position])
                self.batch.pos[i] = self.past + position
                self.batch.n_seq_id[i] = 1
                self.batch.seq_id[i][0] = sequence
                self.batch.logits[i] = start + position == count - 1
            self.batch.n_tokens = part.size
            if self.api.llama_decode(self.context, self.batch):
                raise LocalLLMError("llama.cpp failed to compute a batch")
            self.past += length
        self.api.llama_synchronize(self.context)

    def close(self) -> None:
        """See Contestant."""
        self.api.llama_batch_free(self.batch)
        self.api.llama_free(self.context)
        self.api.llama_model_free(self.model)


@cache
def _silent_llama_cpp() -> tuple[Any, Any]:
    """The peer's module, and its log's callback, which must live as long as the process."""
    try:
        import llama_cpp
    except ImportError as error:
        raise LocalLLMError(
            "--vs llama.cpp: llama-cpp-python is not installed",
            "pip install 'localllm[llamacpp]'",
        ) from error
    log = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(log, None)
    llama_cpp.llama_backend_init()
    return llama_cpp, log


@contextmanager
def _synthetic_file(name: str, quantisation: str) -> Iterator[Path]:
    """A file of random weights in a catalog model's shape, removed afterwards."""
    catalog = load_catalog()
    if name not in catalog:
        raise UsageError(
            f"--synthetic {name}: not in the catalog", "`localllm list` shows the names"
        )
    entry = catalog[name]
    with tempfile.TemporaryDirectory(prefix="localllm-") as folder:
        free = shutil.disk_usage(folder).free
        if 2.2 * entry.bytes > free:  # Q8_0 takes about 1.8 times the size of the default types
            raise LocalLLMError(
                f"--synthetic {name}: {in_bytes(free)} are free in {tempfile.gettempdir()}, "
                f"about {in_bytes(2.2 * entry.bytes)} are needed"
            )
        path = Path(folder) / f"{name}-{quantisation}.gguf"
        catalog_model(path, entry, quantisation)
        yield path


def _whole_pages(tokens: int) -> int:
    return -(-tokens // PAGE_SIZE) * PAGE_SIZE


def _peak_memory() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
