"""What `bench` measures in turns: this runtime, and llama.cpp where it is asked for."""

from __future__ import annotations

import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from localllm.engine import memory
from localllm.engine.batch import Batch
from localllm.engine.machine import available_memory
from localllm.engine.pages import PAGE_SIZE
from localllm.engine.runner import NativeRunner
from localllm.engine.scheduler import STEP_TOKENS
from localllm.errors import LocalLLMError, UsageError
from localllm.gguf import GGUFFile
from localllm.models import load_definition
from localllm.models.config import require_generating
from localllm.ops.packed import PackedCache

Tokens = npt.NDArray[np.int32]

# Of the peer's module; not every version of it has them all.
_USED = (
    "__version__",
    "GGML_TYPE_F16",
    "GGML_TYPE_F32",
    "GGML_TYPE_Q8_0",
    "llama_batch_free",
    "llama_batch_init",
    "llama_context_default_params",
    "llama_decode",
    "llama_free",
    "llama_get_memory",
    "llama_init_from_model",
    "llama_max_parallel_sequences",
    "llama_memory_seq_rm",
    "llama_model_default_params",
    "llama_model_free",
    "llama_model_load_from_file",
    "llama_synchronize",
)


class Contestant(Protocol):
    """Runs batches of several sequences of random tokens; each sequence's cache grows."""

    name: str
    load_seconds: float

    def rewind(self, depth: int) -> None:
        """Forget all but the first `depth` tokens of every sequence."""

    def step(self, tokens: Tokens) -> None:
        """Append int32 [sequences, n] tokens to the sequences and compute the last ones' logits."""

    def close(self) -> None:
        """Give the memory back."""


class Localllm:
    """This runtime, its program stepped directly: no sampling, as in the peers' own benchmarks."""

    name = "localllm"

    def __init__(
        self, path: Path, room: int, threads: int, kv_type: str, packed: PackedCache | None
    ) -> None:
        start = time.perf_counter()
        self.file = file = GGUFFile.open(path)
        model = load_definition(file)
        require_generating(file, model.config)
        need = memory.estimate(file, model.config, room, kv_type)
        available = available_memory()
        if need.total > available:
            hint = "fewer sequences, a smaller --depth or a smaller model need less"
            raise memory.shortage(file, need, available, hint)
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

    def rewind(self, depth: int) -> None:
        """See Contestant."""
        self.past = depth

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
            self.file.require_unchanged()  # embeddings are read from the mapped file
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
        llama_cpp, _ = silent_llama_cpp()
        most = llama_cpp.llama_max_parallel_sequences()
        if sequences > most:
            raise UsageError(f"--batch {sequences}: llama.cpp holds at most {most} sequences")
        self.api = llama_cpp
        self.model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        if not self.model:
            raise LocalLLMError(f"{path}: llama.cpp cannot load it")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = room
        tokens = max(STEP_TOKENS, sequences)  # of a step: its default too, or one of each sequence
        params.n_batch = params.n_ubatch = tokens
        params.n_seq_max = sequences
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = threads
        names = {"f32": "GGML_TYPE_F32", "f16": "GGML_TYPE_F16", "int8": "GGML_TYPE_Q8_0"}
        params.type_k = params.type_v = getattr(llama_cpp, names[kv_type])
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise LocalLLMError(f"{path}: llama.cpp cannot make a context of {room} tokens")
        self.batch = llama_cpp.llama_batch_init(tokens, 0, 1)
        self.load_seconds = time.perf_counter() - start
        self.past = 0

    def rewind(self, depth: int) -> None:
        """See Contestant."""
        held = self.api.llama_get_memory(self.context)
        if not self.api.llama_memory_seq_rm(held, -1, depth, -1):  # -1: every sequence, to the end
            raise LocalLLMError("llama.cpp cannot forget a part of this model's cache")
        self.past = depth

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
def silent_llama_cpp() -> tuple[Any, Any]:
    """The peer's module, and its log's callback, which must live as long as the process.

    Raises:
        LocalLLMError: it is not installed, or cannot be used; says why.
    """
    hint = "pip install 'localllm[llamacpp]'"
    if find_spec("llama_cpp") is None:
        raise LocalLLMError("--vs llama.cpp: llama-cpp-python is not installed", hint)
    try:
        import llama_cpp

        for name in _USED:
            getattr(llama_cpp, name)
        log = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(log, None)
        llama_cpp.llama_backend_init()
    except Exception as error:  # whatever a library of another machine or version comes to
        why = str(error) or type(error).__name__
        raise LocalLLMError(
            f"--vs llama.cpp: the installed llama-cpp-python cannot be used: {why}", hint
        ) from error
    return llama_cpp, log
