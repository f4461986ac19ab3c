"""The blocks that transformers are made of; architectures choose among them and fill them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from localllm.errors import ModelFileError
from localllm.models.config import ModelConfig
from localllm.models.weights import Weights
from localllm.ops.spec import Attention, Experts, Ops, Rope, V, Weight


@dataclass(frozen=True)
class Linear:
    """A weight and its bias."""

    weight: Weight
    bias: Weight | None = None

    def __call__(self, ops: Ops[V], x: V) -> V:
        """X W^T + b."""
        return ops.linear(x, self.weight, self.bias)

    @classmethod
    def bind(cls, weights: Weights, name: str, out: int, width: int) -> Linear:
        """`name`.weight and, where the file has it, `name`.bias."""
        return cls(weights.get(f"{name}.weight", out, width), weights.optional(f"{name}.bias", out))

    def rows(self, start: int, stop: int) -> Linear:
        """A range of the outputs."""
        bias = None if self.bias is None else self.bias.rows(start, stop)
        return Linear(self.weight.rows(start, stop), bias)


@dataclass(frozen=True)
class Norm:
    """RMS norm, over the row or over groups (heads)."""

    weight: Weight
    eps: float
    group: int | None = None

    def __call__(self, ops: Ops[V], x: V) -> V:
        """The normed rows."""
        return ops.norm(x, self.weight, self.eps, self.group)

    @classmethod
    def bind(cls, weights: Weights, name: str) -> Norm:
        """A norm of the residual stream."""
        config = weights.config
        return cls(weights.get(f"{name}.weight", config.width), config.eps)

    @classmethod
    def bind_heads(cls, weights: Weights, name: str) -> Norm:
        """A norm of every head on its own."""
        config = weights.config
        return cls(weights.get(f"{name}.weight", config.head_dim), config.eps, config.head_dim)


@dataclass(frozen=True)
class SelfAttention:
    """Projections, head norms and rotation where there are any, attention: [T, heads * head_dim].

    The output projection is apart, so that the last layer can drop rows before it.
    """

    q: Linear
    k: Linear
    v: Linear
    rope: Rope | None
    spec: Attention
    q_norm: Norm | None = None
    k_norm: Norm | None = None

    def __call__(self, ops: Ops[V], x: V) -> V:
        """What every token gathers."""
        q, k, v = self.q(ops, x), self.k(ops, x), self.v(ops, x)
        if self.q_norm is not None:
            q = self.q_norm(ops, q)
        if self.k_norm is not None:
            k = self.k_norm(ops, k)
        if self.rope is not None:
            q = ops.rope(q, self.spec.head_dim, self.rope)
            k = ops.rope(k, self.spec.head_dim, self.rope)
        return ops.attention(q, k, v, self.spec)

    @classmethod
    def bind(
        cls,
        weights: Weights,
        layer: int,
        rope: Rope | None,
        *,
        window: int | None = None,
        head_norms: bool = False,
    ) -> SelfAttention:
        """`attn_q`, `attn_k`, `attn_v`, or their rows in a fused `attn_qkv`."""
        c = weights.config
        if window is not None and not c.causal:
            raise ModelFileError(
                f"{weights.file.path}: {c.arch}.attention.causal: a window on both sides of a "
                "token is not supported"
            )
        q_width, kv_width = c.heads * c.head_dim, c.kv_heads * c.head_dim
        if weights.has("attn_qkv.weight"):
            total = q_width + 2 * kv_width
            fused = Linear.bind(weights, "attn_qkv", total, c.width)
            q = fused.rows(0, q_width)
            k = fused.rows(q_width, q_width + kv_width)
            v = fused.rows(q_width + kv_width, total)
        else:
            q = Linear.bind(weights, "attn_q", q_width, c.width)
            k = Linear.bind(weights, "attn_k", kv_width, c.width)
            v = Linear.bind(weights, "attn_v", kv_width, c.width)
        return cls(
            q,
            k,
            v,
            rope,
            Attention(
                layer, c.heads, c.kv_heads, c.head_dim, c.attention_scale, window, causal=c.causal
            ),
            Norm.bind_heads(weights, "attn_q_norm") if head_norms else None,
            Norm.bind_heads(weights, "attn_k_norm") if head_norms else None,
        )


@dataclass(frozen=True)
class GatedMLP:
    """down(act(gate x) * up x)."""

    gate: Linear
    up: Linear
    down: Linear
    kind: str = "silu"

    def __call__(self, ops: Ops[V], x: V) -> V:
        """The MLP of every row."""
        gate, up = self.gate(ops, x), self.up(ops, x)
        return self.down(ops, ops.gated_act(gate, up, self.kind))

    @classmethod
    def bind(cls, weights: Weights, kind: str = "silu") -> GatedMLP:
        """`ffn_gate`, `ffn_up`, `ffn_down`; without a gate, `ffn_up` holds both, gate first."""
        c = weights.config
        down = Linear.bind(weights, "ffn_down", c.width, c.ffn)
        if weights.has("ffn_gate.weight"):
            gate = Linear.bind(weights, "ffn_gate", c.ffn, c.width)
            return cls(gate, Linear.bind(weights, "ffn_up", c.ffn, c.width), down, kind)
        fused = Linear.bind(weights, "ffn_up", 2 * c.ffn, c.width)
        return cls(fused.rows(0, c.ffn), fused.rows(c.ffn, 2 * c.ffn), down, kind)


@dataclass(frozen=True)
class ExpertMLP:
    """A mixture of gated MLPs."""

    experts: Experts

    def __call__(self, ops: Ops[V], x: V) -> V:
        """The mixture for every row."""
        return ops.moe(x, self.experts)

    @classmethod
    def bind(cls, weights: Weights) -> ExpertMLP:
        """`ffn_gate_inp` and the stacked `ffn_gate_exps`, `ffn_up_exps`, `ffn_down_exps`."""
        c = weights.config
        if c.experts is None:
            raise ModelFileError(
                f"{weights.file.path}: {c.arch}.expert_count: there must be experts"
            )
        count, ffn = c.experts.count, c.experts.ffn
        return cls(
            Experts(
                router=weights.get("ffn_gate_inp.weight", count, c.width),
                gate=weights.get("ffn_gate_exps.weight", count, ffn, c.width),
                up=weights.get("ffn_up_exps.weight", count, ffn, c.width),
                down=weights.get("ffn_down_exps.weight", count, c.width, ffn),
                used=c.experts.used,
            )
        )


@dataclass(frozen=True)
class Layer:
    """Attention and MLP on the residual stream, each normed before and, in some models, after."""

    attention_norm: Norm
    attention: SelfAttention
    attention_out: Linear
    mlp_norm: Norm
    mlp: GatedMLP | ExpertMLP
    attention_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None

    def __call__(self, ops: Ops[V], x: V, last: bool) -> V:
        """The stream after this layer; the last one goes on with the selected rows only."""
        mixed = self.attention(ops, self.attention_norm(ops, x))
        if last:
            mixed, x = ops.select(mixed), ops.select(x)
        mixed = self.attention_out(ops, mixed)
        if self.attention_post_norm is not None:
            mixed = self.attention_post_norm(ops, mixed)
        x = ops.add(x, mixed)
        inner = self.mlp(ops, self.mlp_norm(ops, x))
        if self.mlp_post_norm is not None:
            inner = self.mlp_post_norm(ops, inner)
        return ops.add(x, inner)

    @classmethod
    def bind(
        cls,
        weights: Weights,
        attention: SelfAttention,
        mlp: GatedMLP | ExpertMLP,
        *,
        post_norms: bool = False,
    ) -> Layer:
        """`attn_norm`, `attn_output`, `ffn_norm` around the given attention and MLP."""
        c = weights.config
        return cls(
            attention_norm=Norm.bind(weights, "attn_norm"),
            attention=attention,
            attention_out=Linear.bind(weights, "attn_output", c.width, c.heads * c.head_dim),
            mlp_norm=Norm.bind(weights, "ffn_norm"),
            mlp=mlp,
            attention_post_norm=Norm.bind(weights, "post_attention_norm") if post_norms else None,
            mlp_post_norm=Norm.bind(weights, "post_ffw_norm") if post_norms else None,
        )


@dataclass(frozen=True)
class Model:
    """What every definition of a model has.

    Attributes:
        config: what the file says of it.
        embedding: of tokens, (vocab, width).
    """

    config: ModelConfig
    embedding: Weight

    def forward(self, ops: Ops[V]) -> None:
        """Says the whole model to `ops`."""
        raise NotImplementedError

    def linears(self) -> Iterator[Linear]:
        """All linears; those of experts are no `Linear`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Decoder(Model):
    """A decoder-only transformer.

    Attributes:
        layers: in order.
        norm: the last one; its result is the output "hidden".
        head: its result is the output "logits".
        embedding_scale: factor on the embedding.
    """

    layers: tuple[Layer, ...]
    norm: Norm
    head: Linear
    embedding_scale: float = 1.0

    def forward(self, ops: Ops[V]) -> None:
        """See `Model`; outputs "hidden" [R, width] and "logits" [R, vocab]."""
        x = ops.embed(self.embedding, self.embedding_scale)
        for number, layer in enumerate(self.layers, 1):
            x = layer(ops, x, last=number == len(self.layers))
        x = self.norm(ops, x)
        ops.output("hidden", x)
        logits = self.head(ops, x)
        if self.config.logit_softcap is not None:
            logits = ops.softcap(logits, self.config.logit_softcap)
        ops.output("logits", logits)

    def linears(self) -> Iterator[Linear]:
        """See `Model`; those of all layers and the head."""
        for layer in self.layers:
            yield from (layer.attention.q, layer.attention.k, layer.attention.v)
            yield layer.attention_out
            if isinstance(layer.mlp, GatedMLP):
                yield from (layer.mlp.gate, layer.mlp.up, layer.mlp.down)
        yield self.head

    @classmethod
    def bind(
        cls,
        weights: Weights,
        layer: Callable[[Weights, int], Layer],
        *,
        embedding_scale: float = 1.0,
    ) -> Decoder:
        """`token_embd`, `layer(weights of the block, number)` for every block, `output`.

        A file without `output.weight` uses the embedding as its head.
        """
        c = weights.config
        embedding = weights.get("token_embd.weight", c.vocab, c.width)
        head = weights.optional("output.weight", c.vocab, c.width)
        model = cls(
            config=c,
            embedding=embedding,
            layers=tuple(layer(weights.layer(number), number) for number in range(c.layers)),
            norm=Norm.bind(weights, "output_norm"),
            head=Linear(head or embedding, weights.optional("output.bias", c.vocab)),
            embedding_scale=embedding_scale,
        )
        weights.check_all_used()
        return model
