"""What a model will take of the machine's memory, before any of it is taken."""

from __future__ import annotations

from dataclasses import dataclass

from localllm.decoding.drafting import MOST_DRAFTS
from localllm.engine.scheduler import STEP_TOKENS
from localllm.errors import LocalLLMError, UsageError
from localllm.gguf import GGUFFile
from localllm.models.config import ModelConfig
from localllm.units import in_bytes

# Long enough for a conversation with a reasoning model; the memory is only taken as it fills.
DEFAULT_CONTEXT = 8192
SMALLEST_CONTEXT = 512  # where less than this fits, the model is too large for the machine
KV_BYTES = {"f32": 4, "f16": 2, "int8": 1}  # of one number

_CONTEXT_STEP = 256  # a context that was made to fit is a multiple of this
_FLOAT = 4  # bytes of an activation, of a logit, and of the scale of an int8 head
_DRAWN_ROWS = MOST_DRAFTS + 1  # rows of logits in memory at once: those that draw in one step


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


class ShortageError(LocalLLMError):
    """The machine has too little memory now; it may have more when other models are unloaded."""


def require_known(kv_type: str) -> None:
    """Raises UsageError for a type that the KV cache does not have."""
    if kv_type not in KV_BYTES:
        raise UsageError(f"--kv-type {kv_type}: must be one of {', '.join(KV_BYTES)}")


def estimate(file: GGUFFile, config: ModelConfig, context: int, kv_type: str = "f16") -> Need:
    """What the model takes with a context of so many tokens and steps of `STEP_TOKENS`.

    A text whose tokens see all others is one step, however long.
    """
    weights = sum(tensor.nbytes for tensor in file.tensors.values())
    # The residual stream and what is normed of it, both again for the selected rows; q, k, v and
    # what attention makes of them; gate and up, and the same quantised for the products.
    row = 4 * config.width + 4 * config.heads * config.head_dim + 3 * config.ffn
    rows, logits = STEP_TOKENS, _DRAWN_ROWS * config.vocab
    if not config.causal:
        rows, logits = max(rows, min(context, config.context_length)), 0
    working = _FLOAT * (rows * row + logits)
    return Need(weights, kv_bytes(config, context, kv_type), working, context)


def kv_bytes(config: ModelConfig, context: int, kv_type: str) -> int:
    """Bytes of keys and values of so many tokens; 0 where none are kept."""
    if not config.causal:
        return 0
    head = config.head_dim * KV_BYTES[kv_type] + (_FLOAT if kv_type == "int8" else 0)
    return 2 * config.layers * config.kv_heads * head * context


def choose_context(
    file: GGUFFile,
    config: ModelConfig,
    asked: int | None,
    available: int,
    kv_type: str = "f16",
) -> int:
    """The context to load with: as asked, or a default that fits.

    The default is what the model was trained for, at most ``DEFAULT_CONTEXT`` tokens, and less
    where memory is short.

    Raises:
        UsageError: no context has that size.
        ShortageError: it does not fit; the message says what is needed and what there is.
    """
    if asked is not None and asked < 1:
        raise UsageError(f"--ctx {asked}: must be >= 1")
    if asked is not None and asked > config.context_length and not config.causal:
        raise UsageError(f"--ctx {asked}: this model has {config.context_length} positions")
    context = min(config.context_length, DEFAULT_CONTEXT) if asked is None else asked
    need = estimate(file, config, context, kv_type)
    if need.total <= available:
        return context
    if not config.causal:
        raise shortage(
            file, need, available, "a smaller quantisation or a smaller --ctx needs less"
        )
    room = available - (need.total - need.kv)
    fitting = room // kv_bytes(config, _CONTEXT_STEP, kv_type) * _CONTEXT_STEP
    if asked is None and fitting >= min(SMALLEST_CONTEXT, config.context_length):
        return min(fitting, context)
    if SMALLEST_CONTEXT <= fitting < context:
        hint = f"--ctx {fitting} would fit"
        smaller = {"f32": "f16", "f16": "int8"}.get(kv_type)
        if smaller:
            hint += f"; --kv-type {smaller} halves the KV cache"
    else:
        hint = "a smaller quantisation or a smaller model needs less"
    raise shortage(file, need, available, hint)


def notes(config: ModelConfig, asked: int | None, context: int) -> list[str]:
    """What the user should know of the context that was chosen."""
    trained = config.context_length
    if asked is not None and asked > trained:
        return [f"--ctx {asked} is more than the {trained} tokens the model was trained for"]
    if asked is None and context < min(trained, DEFAULT_CONTEXT):
        return [f"the context is {context} tokens: memory is short"]
    return []


def shortage(file: GGUFFile, need: Need, available: int, hint: str) -> ShortageError:
    """The error for a need of more than the `available` bytes; the hint says what would help."""
    return ShortageError(
        f"{file.path}: not enough memory: it needs {need}; {in_bytes(available)} are available",
        hint,
    )


def choose_room(
    file: GGUFFile, config: ModelConfig, context: int, texts: int, available: int, kv_type: str
) -> int:
    """Tokens of KV memory for so many texts of that context, at least one, that fit the memory."""
    fixed = estimate(file, config, 0, kv_type).total
    fitting = (available - fixed) // kv_bytes(config, context, kv_type)
    return context * max(1, min(texts, fitting))
