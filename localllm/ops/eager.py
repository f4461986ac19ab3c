"""The operations on torch tensors: the meaning of each, on any device, differentiable.

Written to be read, not to be fast. The only file of its room that imports torch; nothing on the CPU
path imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from localllm.ops.low_rank import Terms
from localllm.ops.spec import Attention, Definition, Experts, Rope, Weight


class WeightStore:
    """Weights as tensors, dequantised on first use and kept; row ranges are views of the whole.

    Args:
        device: where the tensors live.
        dtype: what they are converted to.
    """

    def __init__(self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32):
        self.device = torch.device(device)
        self.dtype = dtype
        self.tensors: dict[str, Tensor] = {}  # by tensor name in the file; may be replaced

    def __call__(self, weight: Weight) -> Tensor:
        """The values of a weight, of its shape."""
        name = weight.info.name
        if name not in self.tensors:
            shape = tuple(weight.info.shape)
            whole = Weight(name, shape, weight.info).float32()
            self.tensors[name] = torch.tensor(whole, dtype=self.dtype, device=self.device)
        tensor = self.tensors[name]
        if weight.shape != tuple(tensor.shape):
            tensor = tensor[weight.first_row : weight.first_row + weight.shape[0]]
        return tensor


class EagerCache:
    """Keys and values of some sequences: per sequence and layer, [tokens, kv_heads, head_dim]."""

    def __init__(self, sequences: int = 1):
        self.layers: list[dict[int, tuple[Tensor, Tensor]]] = [{} for _ in range(sequences)]

    def length(self, sequence: int) -> int:
        """Tokens cached for a sequence."""
        return next((len(keys) for keys, _ in self.layers[sequence].values()), 0)

    def append(self, sequence: int, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds new tokens; returns all keys and values of the layer."""
        if layer in self.layers[sequence]:
            past_k, past_v = self.layers[sequence][layer]
            k, v = torch.cat([past_k, k]), torch.cat([past_v, v])
        self.layers[sequence][layer] = (k, v)
        return k, v


class EagerOps:
    """One step over a batch; results gather in `outputs`.

    Args:
        tokens: int [T]; rows of one sequence stand together.
        store: the weights.
        lengths: rows of each sequence; default: one sequence.
        cache: what came before; it grows by this step. Default: nothing, and nothing is kept.
        rows: batch rows whose outputs are wanted; default: all.
        adapters: of each sequence, or None; default: none has one.
    """

    def __init__(
        self,
        tokens: Tensor,
        store: WeightStore,
        *,
        lengths: Sequence[int] | None = None,
        cache: EagerCache | None = None,
        rows: Tensor | None = None,
        adapters: Sequence[Terms | None] | None = None,
    ):
        self.tokens = tokens.to(store.device)
        self.store = store
        self.lengths = [len(tokens)] if lengths is None else list(lengths)
        if sum(self.lengths) != len(tokens):
            raise ValueError(f"lengths {self.lengths} do not sum to {len(tokens)} tokens")
        self.cache = EagerCache(len(self.lengths)) if cache is None else cache
        self.rows = rows
        self.positions = torch.cat(
            [
                torch.arange(length, device=store.device) + self.cache.length(sequence)
                for sequence, length in enumerate(self.lengths)
            ]
        )
        self.outputs: dict[str, Tensor] = {}
        self._adapters = [None] * len(self.lengths) if adapters is None else list(adapters)
        # the sequence of each row that is worked on
        self._owners = torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths))
        self._all_owners = self._owners

    def embed(self, table: Weight, scale: float = 1.0, index: str = "token") -> Tensor:
        """See `Ops.embed`."""
        rows = {
            "token": self.tokens,
            "position": self.positions,
            "segment": torch.zeros_like(self.tokens),
        }
        return F.embedding(rows[index], self.store(table)) * scale

    def norm(self, x: Tensor, weight: Weight, eps: float, group: int | None = None) -> Tensor:
        """See `Ops.norm`."""
        groups = _split(x, group or x.shape[-1]).float()
        mean_square = groups.square().mean(-1, keepdim=True)
        normed = (groups * torch.rsqrt(mean_square + eps)).to(x.dtype)
        return (normed * self.store(weight)).flatten(-2)

    def layer_norm(self, x: Tensor, weight: Weight, bias: Weight, eps: float) -> Tensor:
        """See `Ops.layer_norm`."""
        return F.layer_norm(x, x.shape[-1:], self.store(weight), self.store(bias), eps)

    def linear(self, x: Tensor, weight: Weight, bias: Weight | None = None) -> Tensor:
        """See `Ops.linear`."""
        out = F.linear(x, self.store(weight), None if bias is None else self.store(bias))
        for sequence, terms in enumerate(self._adapters):
            if terms is None or weight.name not in terms:
                continue
            rows = (self._owners == sequence).nonzero().flatten().to(x.device)
            a, b = (
                torch.as_tensor(part).to(x.device, x.dtype)
                for part in (terms[weight.name].a, terms[weight.name].b)
            )
            out = out.index_add(0, rows, F.linear(F.linear(x[rows], a), b))
        return out

    def rope(self, x: Tensor, head_dim: int, rope: Rope) -> Tensor:
        """See `Ops.rope`."""
        frequencies = torch.tensor(rope.inverse_frequencies, device=x.device)
        angles = self.positions.float()[:, None, None] * frequencies  # [T, 1, n]
        cos, sin = angles.cos() * rope.scale, angles.sin() * rope.scale
        heads = _split(x, head_dim)
        turning, passing = heads[..., : rope.dims].float(), heads[..., rope.dims :]
        if rope.interleaved:
            a, b = turning[..., 0::2], turning[..., 1::2]
        else:
            a, b = turning.chunk(2, -1)
        pair = (a * cos - b * sin, a * sin + b * cos)
        turned = torch.stack(pair, -1).flatten(-2) if rope.interleaved else torch.cat(pair, -1)
        return torch.cat([turned.to(x.dtype), passing], -1).flatten(-2)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, spec: Attention) -> Tensor:
        """See `Ops.attention`."""
        width = spec.head_dim
        results, start = [], 0
        for sequence, length in enumerate(self.lengths):
            rows = slice(start, start + length)
            start += length
            queries, keys, values = (_split(part[rows], width) for part in (q, k, v))
            if spec.causal:
                keys, values = self.cache.append(sequence, spec.layer, keys, values)
            results.append(_attend(queries, keys, values, self.positions[rows], spec))
        return torch.cat(results)

    def act(self, x: Tensor, kind: str) -> Tensor:
        """See `Ops.act`."""
        return _ACTIVATIONS[kind](x)

    def gated_act(self, gate: Tensor, up: Tensor, kind: str) -> Tensor:
        """See `Ops.gated_act`."""
        return _ACTIVATIONS[kind](gate) * up

    def moe(self, x: Tensor, experts: Experts) -> Tensor:
        """See `Ops.moe`."""
        probabilities = F.linear(x, self.store(experts.router)).float().softmax(-1)
        shares, chosen = probabilities.topk(experts.used, -1)  # [T, used]
        if experts.normalise:
            shares = shares / shares.sum(-1, keepdim=True)
        shares = (shares * experts.scale).to(x.dtype)
        gate, up = self.store(experts.gate), self.store(experts.up)
        down = self.store(experts.down)
        out = x.new_zeros(len(x), down.shape[1])
        for expert in sorted(set(chosen.flatten().tolist())):
            rows, slots = (chosen == expert).nonzero(as_tuple=True)
            act = _ACTIVATIONS[experts.kind](F.linear(x[rows], gate[expert]))
            result = F.linear(act * F.linear(x[rows], up[expert]), down[expert])
            out = out.index_add(0, rows, result * shares[rows, slots, None])
        return out

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """See `Ops.add`."""
        return a + b

    def select(self, x: Tensor) -> Tensor:
        """See `Ops.select`."""
        if self.rows is None:
            return x
        self._owners = self._all_owners[self.rows.cpu()]
        return x[self.rows.to(x.device)]

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        """See `Ops.softcap`."""
        return cap * torch.tanh(x / cap)

    def output(self, name: str, x: Tensor) -> None:
        """See `Ops.output`."""
        self.outputs[name] = x


def run(
    definition: Definition,
    tokens: Tensor,
    store: WeightStore | None = None,
    *,
    lengths: Sequence[int] | None = None,
    cache: EagerCache | None = None,
    rows: Tensor | None = None,
    adapters: Sequence[Terms | None] | None = None,
) -> dict[str, Tensor]:
    """One step of a definition; arguments as of `EagerOps`. Returns its outputs by name."""
    ops = EagerOps(
        tokens,
        store or WeightStore(),
        lengths=lengths,
        cache=cache,
        rows=rows,
        adapters=adapters,
    )
    definition.forward(ops)
    return ops.outputs


def _split(x: Tensor, width: int) -> Tensor:
    """Cuts the last dimension: [..., n * width] -> [..., n, width]."""
    return x.reshape(*x.shape[:-1], -1, width)


def _attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, spec: Attention) -> Tensor:
    """One sequence: q [n, heads, d], k and v [past + n, kv_heads, d] -> [n, heads * d]."""
    repeat = spec.heads // spec.kv_heads
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * spec.scale
    if spec.softcap is not None:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    distance = positions[:, None] - torch.arange(len(k), device=q.device)  # [n, past + n]
    hidden = (distance < 0) & spec.causal
    if spec.window is not None:
        hidden = hidden | (distance >= spec.window)
    weights = scores.masked_fill(hidden, float("-inf")).float().softmax(-1).to(v.dtype)
    return torch.einsum("hqk,khd->qhd", weights, v).flatten(-2)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": _gelu_tanh,
    "gelu_erf": F.gelu,
}
