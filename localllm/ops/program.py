"""A recorded computation: a flat list of instructions over numbered buffers.

Two forms share one type. As recorded, every buffer is written once. After `tracer.allocate` buffers
are reused and some instructions write in place (`out` equals an input). `Program.forward` replays
either on any `Ops`, which makes a program a definition like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from localllm.ops.spec import Attention, Experts, Ops, Rope, V, Weight


@dataclass(frozen=True)
class Instruction:
    """One operation.

    Fields named in `READS` and `WRITES` hold buffer numbers, tuples of them, or None.
    """

    READS: ClassVar[tuple[str, ...]] = ()
    WRITES: ClassVar[tuple[str, ...]] = ()

    @property
    def reads(self) -> tuple[int, ...]:
        """Buffers read, in order."""
        return self._buffers(self.READS)

    @property
    def writes(self) -> tuple[int, ...]:
        """Buffers written, in order."""
        return self._buffers(self.WRITES)

    def _buffers(self, names: Sequence[str]) -> tuple[int, ...]:
        found: list[int] = []
        for name in names:
            value = getattr(self, name)
            if isinstance(value, tuple):
                found.extend(value)
            elif value is not None:
                found.append(value)
        return tuple(found)

    def renamed(self, names: dict[int, int]) -> Any:
        """The same instruction on other buffers; numbers not in `names` stay."""

        def rename(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(rename(one) for one in value)
            return value if value is None else names.get(value, value)

        return replace(
            self, **{name: rename(getattr(self, name)) for name in (*self.READS, *self.WRITES)}
        )

    def run(self, ops: Ops[V], buffers: dict[int, V]) -> None:
        """Says this instruction to `ops`."""
        raise NotImplementedError

    def __str__(self) -> str:
        buffers = (*self.READS, *self.WRITES)
        args = [f"b{number}" for number in self.reads]
        args += [
            f"{item.name}={_show(getattr(self, item.name))}"
            for item in fields(self)
            if item.name not in buffers and getattr(self, item.name) is not None
        ]
        outs = ", ".join(f"b{number}" for number in self.writes)
        call = f"{type(self).__name__.lower()}({', '.join(args)})"
        return f"{outs} = {call}" if outs else call


def _show(value: Any) -> str:
    if isinstance(value, Weight):
        return value.name
    if isinstance(value, tuple):
        return "(" + ", ".join(_show(one) for one in value) + ")"
    if isinstance(value, Rope):
        pairs = "neighbours" if value.interleaved else "halves"
        return f"<{value.dims} dims, {pairs}, scale {value.scale:.4g}>"
    if isinstance(value, Experts):
        parts = (value.router, value.gate, value.up, value.down)
        return f"<top {value.used} of {value.router.shape[0]}: {_show(parts)}>"
    if isinstance(value, Attention):
        window = "" if value.window is None else f", window {value.window}"
        cap = "" if value.softcap is None else f", softcap {value.softcap:g}"
        heads = f"{value.heads}/{value.kv_heads} heads of {value.head_dim}"
        sight = "" if value.causal else ", both ways"
        return f"<layer {value.layer}, {heads}{window}{cap}{sight}>"
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Embed(Instruction):
    """Buffer `out` = rows of the table."""

    out: int
    table: Weight
    scale: float
    index: str
    WRITES = ("out",)

    def run(self, ops: Ops[V], buffers: dict[int, V]) -> None:
        """See `Ops.embed`."""
        buffers[self.out] = ops.embed(self.table, self.scale, self.index)


@dataclass(frozen=True)
class Norm(Instruction):
    """Buffer `out` = RMS norm of `x`."""

    out: int
    x: int
    weight: Weight
    eps: float
    group: int | None
    READS = ("x",)
    WRITES = ("out",)

    def run(self, ops: Ops[V], buffers: dict[int, V]) -> None:
        """See `Ops.norm`."""
        buffers[self.out] = ops.norm(buffers[self.x], self.weight, self.eps, self.group)


@dataclass(frozen=True)
class LayerNorm(Instruction):
    """Buffer `out` = layer norm of `x`."""

    out: int
    x: int
    weight: Weight
    bias: Weight
    eps: float
    READS = ("x",)
    WRITES = ("out",)

    def run(self, ops: Ops[V], buffers: dict[int, V]) -> None:
        """See `Ops.layer_norm`."""
        buffers[self.out] = ops.layer_norm(buffers[self.x], self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class Linear(Instruction):
    """Several weights on one input, one output each; with `residual`, out = residual + x W^T.

    With a norm (weight, eps), `x` is normalised first, over the whole row. With `act` there is one
    output: act(x W^T), or of two weights, a gate's and what it lets through, act(gate) * up.
    """

    outs: tuple[int, ...]
    x: int
    weights: tuple[Weight, ...]
    biases: tuple[Weight | None, ...]
    residual: int | None = None
    norm: tuple[Weight, float] | None = None
    act: str | None = None
    READS = ("x", "residual")
    WRITES = ("outs",)

    @property
    def accumulate(self) -> bool:
        """The result is added to a residual (after allocation: to what `outs[0]` holds)."""
        return self.residual is not None

    def run(self, ops: Ops[V], buffers: dict[int, V]) -> None:
        """See `Ops.norm`, `Ops.linear`, `Ops.act`, `Ops.gated_act` and `Ops.add`."""
        x = buffers[self.x]
        if self.norm is not None:
            x = ops.norm(x, *self.norm)
        results = [
            ops.linear(x, weight, bias)
            for weight, bias in zip(self.weights, self.biases, strict=True)
        ]
        if self.act is not None:
            first, *gated = results
            results = [
                ops.gated_act(first, gated[0], self.act) if gated else ops.act(first, self.act)
            ]
        if self.residual is not None:
            results = [ops.add(buffers[self.residual], results[0])]
        buffers.update(zip(self.outs, results, strict=True))


@dataclass(frozen=True)
class Rotate(Instruction):
    """Buffer `out` = `x` turned by position."""

    out: int
    x: int
    head_dim: int
    rope: Rope
    READS = ("x",)
    WRITES = ("out",)

    def run(self, ops: Ops[V], buffers: dict[int, V]) -> None:
        """See `Ops.rope`."""
        buffers[self.out] = ops.rope(buffers[self.x], self.head_dim, self.rope)


@dataclass(frozen=True)
class Attend(Instruction):
    """Buffer `out` = attention of q over the cache, to which k and v are appended.

    With norms (weight, eps), the heads of q or k are normalised first; with `rope`, both are then
    turned by position.
    """

    out: int
    q: int
    k: int
    v: int
    spec: Attention
    q_norm: tuple[Weight, float] | None = None
    k_norm: tuple[Weight, float] | None = None
    rope: Rope | None = None
    READS = ("q", "k", "v")
    WRITES = ("out",)

    def run(self, ops: Ops[V], buffers: dict[int, V]) -> None:
        """See `Ops.norm`, `Ops.rope` and `Ops.attention`."""
        q, k, v = buffers[self.q], buffers[self.k], buffers[self.v]
        head_dim = self.spec.head_dim
        if self.q_norm is not None:
            q = ops.norm(q, *self.q_norm, head_dim)
        if self.k_norm is not None:
            k = ops.norm(k, *self.k_norm, head_dim)
        if self.rope is not None:
            q, k = ops.rope(q, head_dim, self.rope), ops.rope(k, head_dim, self.rope)
        buffers[self.out] = ops.attention(q, k, v, self.spec)


@dataclass(frozen=True)
class Act(Instruction):
    """Buffer `out` = act(x)."""

    out: int
    x: int
    kind: str
    READS = ("x",)
    WRITES = ("out",)

    def run(self, ops: Ops[V], buffers: dict[int, V]) -> None:
        """See `Ops.act`."""
        buffers[self.out] = ops.act(buffers[self.x], self.kind)


@dataclass(frozen=True)
class GatedAct(Instruction):
    """Buffer `out` = act(gate) * up."""

    out: int
    gate: int
    up: int
    kind: str
    READS = ("gate", "up")
    WRITES = ("out",)

    def run(self, ops: Ops[V], buffers: dict[int, V]) -> None:
        """See `Ops.gated_act`."""
        buffers[self.out] = ops.gated_act(buffers[self.gate], buffers[self.up], self.kind)


@dataclass(frozen=True)
class Moe(Instruction):
    """Buffer `out` = the mixture of experts on x."""

    out: int
    x: int
    experts: Experts
    READS = ("x",)
    WRITES = ("out",)

    def run(self, ops: Ops[V], buffers: dict[int, V]) -> None:
        """See `Ops.moe`."""
        buffers[self.out] = ops.moe(buffers[self.x], self.experts)


@dataclass(frozen=True)
class Add(Instruction):
    """Buffer `out` = a + b."""

    out: int
    a: int
    b: int
    READS = ("a", "b")
    WRITES = ("out",)

    def run(self, ops: Ops[V], buffers: dict[int, V]) -> None:
        """See `Ops.add`."""
        buffers[self.out] = ops.add(buffers[self.a], buffers[self.b])


@dataclass(frozen=True)
class Select(Instruction):
    """Buffer `out` = the rows of x whose outputs were asked for."""

    out: int
    x: int
    READS = ("x",)
    WRITES = ("out",)

    def run(self, ops: Ops[V], buffers: dict[int, V]) -> None:
        """See `Ops.select`."""
        buffers[self.out] = ops.select(buffers[self.x])


@dataclass(frozen=True)
class Softcap(Instruction):
    """Buffer `out` = cap * tanh(x / cap)."""

    out: int
    x: int
    cap: float
    READS = ("x",)
    WRITES = ("out",)

    def run(self, ops: Ops[V], buffers: dict[int, V]) -> None:
        """See `Ops.softcap`."""
        buffers[self.out] = ops.softcap(buffers[self.x], self.cap)


@dataclass(frozen=True)
class Output(Instruction):
    """Buffer `x` is the result called `name`."""

    name: str
    x: int
    READS = ("x",)

    def run(self, ops: Ops[V], buffers: dict[int, V]) -> None:
        """See `Ops.output`."""
        ops.output(self.name, buffers[self.x])


@dataclass(frozen=True)
class Program:
    """A computation over buffers of float32 [T, width], or [R, width] after a select.

    Attributes:
        instructions: in order.
        widths: of every buffer.
    """

    instructions: tuple[Instruction, ...]
    widths: tuple[int, ...]

    def forward(self, ops: Ops[V]) -> None:
        """Replays the program; the meaning of every pass is that this does not change."""
        buffers: dict[int, V] = {}
        for instruction in self.instructions:
            instruction.run(ops, buffers)

    @property
    def arena(self) -> int:
        """Floats of activation memory per row of a batch."""
        return sum(self.widths)

    def __str__(self) -> str:
        widths = " ".join(f"b{number}:{width}" for number, width in enumerate(self.widths))
        lines = [
            f"{number:4d}  {instruction}" for number, instruction in enumerate(self.instructions)
        ]
        return "\n".join([f"buffers {widths} ({self.arena} floats a row)", *lines])
