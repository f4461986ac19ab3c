"""What a model will take of the machine's memory, before any of it is taken."""

from __future__ import annotations

from dataclasses import dataclass

from localllm.errors import LocalLLMError, UsageError
from localllm.gguf import GGUFFile
from localllm.models.config import ModelConfig
from localllm.units import in_bytes

# Long enough for a conversation with a reasoning model; the memory is only taken as it fills.
DEFAULT_CONTEXT = 8192
SMALLEST_CONTEXT = 512  # where less than this fits, the model is too large for the machine
KV_BYTES = {"f16": 2.0, "int8": 1.0}


@dataclass(frozen=True)
class Need:
    """Bytes a loaded model takes.

    Attributes:
        weights: packed at load into about the bytes of the file.
        kv: keys and values of ``context`` tokens.
        working: activations of one step, and logits.
        context: tokens.
    """

    weights: int
    kv: int
    working: int
    context: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv + self.working

    def __str__(self) -> str:
        return (
            f"{in_bytes(self.total)}: {in_bytes(self.weights)} weights, {in_bytes(self.kv)} "
            f"KV cache for {self.context} tokens, {in_bytes(self.working)} working memory"
        )


def estimate(
    file: GGUFFile, config: ModelConfig, context: int, kv_type: str = "f16", budget: int = 512
) -> Need:
    """What the model takes with a context of so many tokens and steps of ``budget`` tokens."""
    weights = sum(tensor.nbytes for tensor in file.tensors.values())
    working = 4 * budget * (4 * config.width + 3 * config.ffn + 4 * config.heads * config.head_dim)
    logits = 4 * config.vocab * 8
    return Need(weights, kv_bytes(config, context, kv_type), working + logits, context)


def kv_bytes(config: ModelConfig, context: int, kv_type: str) -> int:
    """Bytes of keys and values of so many tokens."""
    per_head = config.head_dim * KV_BYTES[kv_type] + (4 if kv_type == "int8" else 0)  # and a scale
    return int(2 * config.layers * config.kv_heads * per_head * context)


def choose_context(
    file: GGUFFile,
    config: ModelConfig,
    asked: int | None,
    available: int,
    kv_type: str = "f16",
    budget: int = 512,
) -> int:
    """The context to load with: as asked, or a default that fits.

    The default is what the model was trained for, at most ``DEFAULT_CONTEXT`` tokens, and less
    where memory is short.

    Raises:
        UsageError: no context has that size.
        LocalLLMError: it does not fit; the message says what is needed and what there is.
    """
    if asked is not None and asked < 1:
        raise UsageError(f"--ctx {asked}: must be >= 1")
    context = min(config.context_length, DEFAULT_CONTEXT) if asked is None else asked
    need = estimate(file, config, context, kv_type, budget)
    if need.total <= available:
        return context
    per_token = kv_bytes(config, 1024, kv_type) / 1024
    room = available - (need.total - need.kv)
    fitting = int(room / per_token) // 256 * 256
    if asked is None and fitting >= min(SMALLEST_CONTEXT, config.context_length):
        return min(fitting, context)
    if SMALLEST_CONTEXT <= fitting < context:
        hint = f"--ctx {fitting} would fit"
        if kv_type == "f16":
            hint += "; --kv-type int8 halves the KV cache"
    else:
        hint = "a smaller quantisation or a smaller model needs less"
    raise LocalLLMError(
        f"{file.path}: not enough memory: it needs {need}; {in_bytes(available)} are available", hint
    )
