"""The encoders: transformers that see a whole text at once and make vectors of it.

Norms follow the residual sums (BERT, https://arxiv.org/abs/1810.04805).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from localllm.models.blocks import Linear, Model, SelfAttention
from localllm.models.weights import Weights
from localllm.ops.spec import Ops, V, Weight


@dataclass(frozen=True)
class LayerNorm:
    """Mean 0 and variance 1, then a weight and a bias."""

    weight: Weight
    bias: Weight
    eps: float

    def __call__(self, ops: Ops[V], x: V) -> V:
        """The normed rows."""
        return ops.layer_norm(x, self.weight, self.bias, self.eps)

    @classmethod
    def bind(cls, weights: Weights, name: str) -> LayerNorm:
        """`name`.weight and `name`.bias."""
        c = weights.config
        weight = weights.get(f"{name}.weight", c.width)
        return cls(weight, weights.get(f"{name}.bias", c.width), c.eps)


@dataclass(frozen=True)
class MLP:
    """down(act(up x))."""

    up: Linear
    down: Linear
    kind: str

    def __call__(self, ops: Ops[V], x: V) -> V:
        """The MLP of every row."""
        return self.down(ops, ops.act(self.up(ops, x), self.kind))

    @classmethod
    def bind(cls, weights: Weights, kind: str) -> MLP:
        """`ffn_up` and `ffn_down`."""
        c = weights.config
        up = Linear.bind(weights, "ffn_up", c.ffn, c.width)
        return cls(up, Linear.bind(weights, "ffn_down", c.width, c.ffn), kind)


@dataclass(frozen=True)
class EncoderLayer:
    """Attention and MLP, each added to what it read, and the sum normed."""

    attention: SelfAttention
    attention_out: Linear
    attention_norm: LayerNorm
    mlp: MLP
    mlp_norm: LayerNorm

    def __call__(self, ops: Ops[V], x: V, last: bool) -> V:
        """The rows after this layer; the last one goes on with the selected rows only."""
        mixed = self.attention(ops, x)
        if last:
            mixed, x = ops.select(mixed), ops.select(x)
        x = self.attention_norm(ops, ops.add(x, self.attention_out(ops, mixed)))
        return self.mlp_norm(ops, ops.add(x, self.mlp(ops, x)))

    @classmethod
    def bind(cls, weights: Weights, attention: SelfAttention, mlp: MLP) -> EncoderLayer:
        """`attn_output`, `attn_output_norm`, `layer_output_norm` around attention and MLP."""
        c = weights.config
        return cls(
            attention=attention,
            attention_out=Linear.bind(weights, "attn_output", c.width, c.heads * c.head_dim),
            attention_norm=LayerNorm.bind(weights, "attn_output_norm"),
            mlp=mlp,
            mlp_norm=LayerNorm.bind(weights, "layer_output_norm"),
        )


@dataclass(frozen=True)
class Encoder(Model):
    """An encoder-only transformer.

    Attributes:
        positions: of the tokens' places in the text, (context, width).
        segments: of the segments of a text, of which the first is used; (n, width).
        norm: of the sum of these.
        layers: in order; the result of the last is the output "hidden".
    """

    positions: Weight
    segments: Weight | None
    norm: LayerNorm
    layers: tuple[EncoderLayer, ...]

    def forward(self, ops: Ops[V]) -> None:
        """See `Model`; the output is "hidden" [R, width]."""
        x = ops.embed(self.embedding)
        if self.segments is not None:
            x = ops.add(x, ops.embed(self.segments, index="segment"))
        x = self.norm(ops, ops.add(x, ops.embed(self.positions, index="position")))
        for number, layer in enumerate(self.layers, 1):
            x = layer(ops, x, last=number == len(self.layers))
        ops.output("hidden", x)

    def linears(self) -> Iterator[Linear]:
        """See `Model`."""
        for layer in self.layers:
            yield from (layer.attention.q, layer.attention.k, layer.attention.v)
            yield from (layer.attention_out, layer.mlp.up, layer.mlp.down)

    @classmethod
    def bind(
        cls, weights: Weights, layer: Callable[[Weights, int], EncoderLayer], segments: int
    ) -> Encoder:
        """`token_embd`, `position_embd`, `token_types` with so many rows, `token_embd_norm`.

        `layer(weights of the block, number)` makes every block.
        """
        c = weights.config
        model = cls(
            config=c,
            embedding=weights.get("token_embd.weight", c.vocab, c.width),
            positions=weights.get("position_embd.weight", c.context_length, c.width),
            segments=weights.optional("token_types.weight", segments, c.width),
            norm=LayerNorm.bind(weights, "token_embd_norm"),
            layers=tuple(layer(weights.layer(number), number) for number in range(c.layers)),
        )
        weights.check_all_used()
        return model
