"""The operation vocabulary: what a model definition may say, and the constants it says it with.

A definition is a function of an `Ops`. Activations are rows, one a token: [T, width]. Rows of one
sequence stand together; positions, sequences and the cache belong to whoever runs the operations: a
definition never sees them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from localllm.gguf import QuantType, TensorInfo

V = TypeVar("V")
Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

INDICES = ("token", "position", "segment")  # what chooses a row's row of an embedding
ACTIVATIONS = ("silu", "gelu", "gelu_erf")  # gelu: its tanh approximation


@dataclass(frozen=True)
class Weight:
    """A tensor of the model file, or a range of its rows; no data is copied.

    Args:
        name: unique within the file; a row range carries its range in the name.
        shape: row-major: (out, in) of a linear weight, (experts, out, in) of stacked ones, (n,) of
            a vector.
        info: the tensor of the file that holds the data.
        first_row: where the range begins; 0 for the whole tensor.
    """

    name: str
    shape: tuple[int, ...]
    info: TensorInfo = field(compare=False, repr=False)
    first_row: int = 0

    @property
    def type(self) -> QuantType:
        """The storage format of the data."""
        return self.info.type

    @property
    def data(self) -> Bytes:
        """The stored bytes, uint8 [n]: a view. Rows are contiguous and blocks never cross them."""
        row = self.info.nbytes // self.info.shape[0]
        return self.info.data[self.first_row * row : (self.first_row + self.shape[0]) * row]

    def rows(self, start: int, stop: int) -> Weight:
        """The rows [start, stop) of a matrix, or those elements of a vector.

        Raises:
            ValueError: the range leaves the weight.
        """
        if not 0 <= start < stop <= self.shape[0]:
            raise ValueError(f"rows {start}:{stop} of {self.name} {self.shape}")
        name = f"{self.info.name}[{self.first_row + start}:{self.first_row + stop}]"
        return Weight(name, (stop - start, *self.shape[1:]), self.info, self.first_row + start)

    def float32(self) -> Float32:
        """The values, dequantised: float32 of `shape`."""
        from localllm.gguf.dequantize import dequantize

        values: Float32 = dequantize(self.data, self.type, self.shape)
        return values


@dataclass(frozen=True, eq=False)
class Rope:
    """Rotary position embedding (RoFormer, https://arxiv.org/abs/2104.09864); compared by identity.

    Args:
        inverse_frequencies: float32 [n]; the angle of pair i at position p is p times its i-th. The
            first 2n dimensions of each head turn, the others pass.
        interleaved: pairs are neighbours (2i, 2i+1); otherwise the two halves (i, n+i).
        scale: factor on cosine and sine (the attention scale of YaRN and LongRoPE).
    """

    inverse_frequencies: Float32
    interleaved: bool
    scale: float = 1.0

    @property
    def dims(self) -> int:
        """How many dimensions of each head turn."""
        return 2 * len(self.inverse_frequencies)


@dataclass(frozen=True)
class Attention:
    """One layer's attention: causal, with a cache of keys and values, or among a text's own tokens.

    Args:
        layer: which layer of the cache.
        heads: query heads; a multiple of `kv_heads` (grouped-query attention).
        kv_heads: heads of keys and values.
        head_dim: width of one head.
        scale: factor on the scores.
        window: a token sees itself and `window - 1` before it; None: all before it.
        softcap: scores become cap * tanh(score / cap).
        causal: a token sees those before it and itself. Otherwise all tokens of its text, which
            are in one step, and nothing is cached; then there is no window and no cap.
    """

    layer: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None
    softcap: float | None = None
    causal: bool = True


@dataclass(frozen=True)
class Experts:
    """A mixture-of-experts MLP: softmax over all router scores, then the top `used`.

    Args:
        router: (experts, in).
        gate: (experts, ffn, in).
        up: (experts, ffn, in).
        down: (experts, out, ffn).
        used: experts a token runs through.
        normalise: the chosen probabilities are made to sum to 1.
        scale: factor on the chosen probabilities.
        kind: activation of the gate.
    """

    router: Weight
    gate: Weight
    up: Weight
    down: Weight
    used: int
    normalise: bool = True
    scale: float = 1.0
    kind: str = "silu"


class Ops(Protocol[V]):
    """What a definition may call; `V` is a torch tensor (eager) or a traced value."""

    def embed(self, table: Weight, scale: float = 1.0, index: str = "token") -> V:
        """Rows of the table, times `scale`: [T, width].

        `index` says which: those of the batch's tokens ("token"), of their positions ("position"),
        or the first one for all ("segment": a text is one, number 0).
        """

    def norm(self, x: V, weight: Weight, eps: float, group: int | None = None) -> V:
        """RMS norm over groups of `group` (default: the row), times the weight [group]."""

    def layer_norm(self, x: V, weight: Weight, bias: Weight, eps: float) -> V:
        """Mean 0 and variance 1 over the row, times the weight [width], plus the bias."""

    def linear(self, x: V, weight: Weight, bias: Weight | None = None) -> V:
        """X W^T + b: [T, out]."""

    def rope(self, x: V, head_dim: int, rope: Rope) -> V:
        """Turns each head of [T, heads * head_dim] by its token's position."""

    def attention(self, q: V, k: V, v: V, spec: Attention) -> V:
        """Appends k and v to the layer's cache, then attends: [T, heads * head_dim].

        Not causal, it attends to the k and v of the text's rows in this step.
        """

    def act(self, x: V, kind: str) -> V:
        """act(x); `kind` is one of `ACTIVATIONS`."""

    def gated_act(self, gate: V, up: V, kind: str) -> V:
        """act(gate) * up."""

    def moe(self, x: V, experts: Experts) -> V:
        """The mixture of experts: [T, out]."""

    def add(self, a: V, b: V) -> V:
        """A + b."""

    def select(self, x: V) -> V:
        """Only the rows whose outputs were asked for: [R, width]."""

    def softcap(self, x: V, cap: float) -> V:
        """Cap * tanh(x / cap)."""

    def output(self, name: str, x: V) -> None:
        """Names x as a result: "logits" or "hidden"."""


class Definition(Protocol):
    """Anything that can be run on an `Ops`: a model, or a recorded program."""

    def forward(self, ops: Ops[Any]) -> None:
        """Says the whole computation once."""
