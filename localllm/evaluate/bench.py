"""Speed of a model on this machine, beside a peer where one is asked for.

The contestants take turns within every repetition, so that a machine that slows down slows them
all; medians and their spread are reported. Tokens are random: nothing depends on what they say.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from localllm.errors import LocalLLMError, UsageError

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


def benchmark(
    path: Path | None,
    *,
    synthetic: str | None = None,
    quantisation: str = "Q4_K_M",
    threads: int | None = None,
    prefill: int = 512,
    decode: int = 64,
    batches: Sequence[int] = (1,),
    depths: Sequence[int] = (0,),
    repetitions: int = 3,
    kv_type: str = "f16",
    versus: str | None = None,
) -> dict[str, Any]:
    """Measure a model file, or random weights of a catalog model's shape.

    Returns:
        `prefill_tokens_per_second` and `decode_tokens_per_second` (batch 1, depth 0), `results`
        with a row for each measurement, and what was measured: model, threads, isa, kv_type,
        load_seconds, peak_memory_bytes.

    Raises:
        UsageError: an unknown catalog name, quantisation or peer.
        LocalLLMError: the peer is not installed, or the model does not fit.
    """
    if versus not in (None, "llama.cpp"):
        raise UsageError(f"--vs {versus}: the peer must be llama.cpp")
    if path is None:
        with _synthetic_file(synthetic or "", quantisation) as made:
            report = benchmark(
                made,
                threads=threads,
                prefill=prefill,
                decode=decode,
                batches=batches,
                depths=depths,
                repetitions=repetitions,
                kv_type=kv_type,
                versus=versus,
            )
        return report | {"model": synthetic, "quantisation": quantisation}

    from localllm import _native
    from localllm.engine.machine import default_threads
    from localllm.gguf import GGUFFile
    from localllm.models import load_definition

    threads = threads or default_threads()
    works = [Work("prefill", prefill, 1, 0)]
    works += [Work("decode", decode, batch, depth) for depth in depths for batch in batches]
    room = max(work.batch * -(-(work.depth + work.tokens) // 32) * 32 for work in works)
    config = load_definition(GGUFFile.open(path)).config
    contestants: list[Contestant] = [Localllm(path, room, threads, kv_type)]
    try:
        if versus:
            sequences = max(work.batch for work in works)
            contestants.append(LlamaCpp(path, room, sequences, threads, kv_type))
        rates = _measure(contestants, works, repetitions, config.vocab)
    finally:
        for contestant in contestants:
            contestant.close()
    results = [_row(work, contestants, rates[work]) for work in works]
    ours = {(row["test"], row["batch"], row["depth"]): row for row in results}
    decode_row = ours.get(("decode", 1, 0))
    return {
        "model": str(path),
        "threads": threads,
        "isa": _native.isa(),
        "kv_type": kv_type,
        "prefill_tokens_per_second": results[0]["tokens_per_second"],
        "decode_tokens_per_second": decode_row["tokens_per_second"] if decode_row else None,
        "load_seconds": contestants[0].load_seconds,
        "peak_memory_bytes": _peak_memory() if not versus else None,
        "results": results,
    }


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
    page_size = 32
    step_tokens = 512

    def __init__(self, path: Path, room: int, threads: int, kv_type: str) -> None:
        from localllm.engine import memory
        from localllm.engine.machine import available_memory
        from localllm.engine.runner import NativeRunner
        from localllm.gguf import GGUFFile
        from localllm.models import load_definition

        start = time.perf_counter()
        file = GGUFFile.open(path)
        model = load_definition(file)
        memory.choose_context(file, model.config, room, available_memory(), kv_type)
        self.runner = NativeRunner(
            model,
            pages=room // self.page_size,
            page_size=self.page_size,
            kv_type=kv_type,
            threads=threads,
        )
        self.load_seconds = time.perf_counter() - start
        self.past = 0

    def clear(self) -> None:
        """See Contestant."""
        self.past = 0

    def step(self, tokens: Tokens) -> None:
        """See Contestant."""
        from localllm.engine.batch import Batch

        sequences, count = tokens.shape
        pages = self.runner.pages // sequences
        tables = np.arange(sequences * pages, dtype=np.int32).reshape(sequences, pages)
        share = max(1, self.step_tokens // sequences)
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
        try:
            import llama_cpp
        except ImportError as error:
            raise LocalLLMError(
                "--vs llama.cpp: llama-cpp-python is not installed",
                "pip install 'localllm[llamacpp]'",
            ) from error
        start = time.perf_counter()
        self.api: Any = llama_cpp
        self.log = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.log, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        if not self.model:
            raise LocalLLMError(f"{path}: llama.cpp cannot load it")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = room
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = sequences
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = threads
        if kv_type == "int8":
            params.type_k = params.type_v = llama_cpp.GGML_TYPE_Q8_0
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise LocalLLMError(f"{path}: llama.cpp cannot make a context of {room} tokens")
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)
        self.load_seconds = time.perf_counter() - start
        self.past = 0

    def clear(self) -> None:
        """See Contestant."""
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        self.past = 0

    def step(self, tokens: Tokens) -> None:
        """See Contestant."""
        sequences, count = tokens.shape
        share = max(1, 512 // sequences)
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


@contextmanager
def _synthetic_file(name: str, quantisation: str) -> Iterator[Path]:
    """A file of random weights in a catalog model's shape, removed afterwards."""
    import shutil

    from localllm.evaluate.synthetic import catalog_model
    from localllm.hub.catalog import load_catalog

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
                f"--synthetic {name}: {free / 1e9:.1f} GB are free in {tempfile.gettempdir()}, "
                f"about {2.2 * entry.bytes / 1e9:.1f} GB are needed"
            )
        path = Path(folder) / f"{name}-{quantisation}.gguf"
        catalog_model(path, entry, quantisation)
        yield path


def _peak_memory() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
