"""Lowers a traced program to the CPU core: one call an instruction, numbers for what it names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatchmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from localllm.ops.program import (
    Act,
    Add,
    Attend,
    Embed,
    GatedAct,
    Instruction,
    LayerNorm,
    Linear,
    Moe,
    Norm,
    Output,
    Program,
    Rotate,
    Select,
    Softcap,
)
from localllm.ops.spec import Float32, Rope, Weight

# Gives a core (`_native.Program`) weights, and says their numbers.
Place = Callable[[Any, Sequence[Weight]], list[int]]

_NONE = -1


def lower(program: Program, threads: int, place: Place | None = None) -> tuple[Any, dict[str, int]]:
    """The `_native.Program` of an allocated program (`tracer.trace`), weights packed.

    Args:
        program: what to run; its operations that work in place must do so.
        threads: of the core's pool.
        place: gives the core its linear weights; default: `in_memory`.

    Returns:
        the program, and its numbers of the linear weights by their names.
    """
    from localllm import _native

    lowering = _Lowering(_native.Program(threads), program.widths)
    weights = list({weight.name: weight for weight in _linear_weights(program)}.values())
    numbers = (place or in_memory)(lowering.core, weights)
    lowering.weights = dict(zip((weight.name for weight in weights), numbers, strict=True))
    for instruction in program.instructions:
        lowering.add(instruction)
    return lowering.core, lowering.weights


@dataclass(frozen=True)
class InputSquares:
    """What a weight, or each of stacked ones, was multiplied with.

    Attributes:
        sums: float64 [matrices, in], of the squares of each column.
        rows: int64 [matrices], how many rows they are of.
    """

    sums: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int64]


def input_squares(core: Any, weights: Mapping[str, int]) -> dict[str, InputSquares]:
    """What a core collected since `collect_squares`, by the names of tensors.

    Args:
        core: a `_native.Program`.
        weights: its numbers by the weights' names, as of `lower`.
    """
    # The row ranges of one tensor read one input.
    tensors = {name.partition("[")[0]: number for name, number in weights.items()}
    return {name: InputSquares(*core.squares(number)) for name, number in tensors.items()}


def core_shape(weight: Weight) -> tuple[str, int, int, int]:
    """Type, matrices, rows and columns of a linear weight, or of stacked ones."""
    rows, cols = weight.shape[-2:]
    return weight.type.name, weight.shape[0] if len(weight.shape) == 3 else 1, rows, cols


def in_memory(core: Any, weights: Sequence[Weight]) -> list[int]:
    """Pack weights into the core's memory; their numbers."""
    numbers = []
    for weight in weights:
        numbers.append(core.weight(*core_shape(weight), weight.data))
        weight.info.release()  # the packed copy is read from now on
    return numbers


def _linear_weights(program: Program) -> Iterator[Weight]:
    """The weights that are multiplied by, in the order of their use; a shared one comes again."""
    for one in program.instructions:
        if isinstance(one, Linear):
            yield from one.weights
        elif isinstance(one, Moe):
            yield from (one.experts.router, one.experts.gate, one.experts.up, one.experts.down)


class _Lowering:
    """What is known so far: the core's numbers of weights, vectors, tables and buffers."""

    def __init__(self, core: Any, widths: tuple[int, ...]) -> None:
        self.core = core
        self.widths = widths
        self.buffers = [core.buffer(width) for width in widths]
        self.weights: dict[str, int] = {}
        self.numbers: dict[tuple[str, str | Rope], int] = {}

    @singledispatchmethod
    def add(self, instruction: Instruction) -> None:
        raise TypeError(f"nothing in the core runs {instruction}")

    @add.register
    def _(self, one: Embed) -> None:
        self.core.embed(self.buffers[one.out], self._table(one.table), one.scale, one.index)

    @add.register
    def _(self, one: Norm) -> None:
        group = one.group or self.widths[one.x]
        out, x = self.buffers[one.out], self.buffers[one.x]
        self.core.norm(out, x, self._vector(one.weight), one.eps, group)

    @add.register
    def _(self, one: LayerNorm) -> None:
        out, x = self.buffers[one.out], self.buffers[one.x]
        self.core.layer_norm(out, x, self._vector(one.weight), self._vector(one.bias), one.eps)

    @add.register
    def _(self, one: Linear) -> None:
        if one.residual is not None:
            _expect_in_place(one, one.outs[0], one.residual)
        norm, eps = one.norm or (None, 0.0)
        outs = one.outs * len(one.weights) if one.act else one.outs
        self.core.linear(
            self.buffers[one.x],
            [self._weight(weight) for weight in one.weights],
            [self.buffers[out] for out in outs],
            [self._vector_or_none(bias) for bias in one.biases],
            one.accumulate,
            self._vector_or_none(norm),
            eps,
            one.act or "",
        )

    @add.register
    def _(self, one: Rotate) -> None:
        _expect_in_place(one, one.out, one.x)
        self.core.rope(
            self.buffers[one.x],
            self._frequencies(one.rope),
            self.widths[one.x] // one.head_dim,
            one.head_dim,
            one.rope.interleaved,
            one.rope.scale,
        )

    @add.register
    def _(self, one: Attend) -> None:
        spec = one.spec
        buffers = [self.buffers[number] for number in (one.out, one.q, one.k, one.v)]
        if not spec.causal:
            shape = spec.heads, spec.kv_heads, spec.head_dim
            self.core.attention_both_ways(*buffers, *shape, spec.scale)
            return
        self.core.attention(
            *buffers,
            spec.layer,
            spec.heads,
            spec.kv_heads,
            spec.head_dim,
            spec.scale,
            spec.window or 0,
            spec.softcap or 0.0,
            *self._heads(one.q_norm),
            *self._heads(one.k_norm),
            *self._turn(one.rope),
        )

    @add.register
    def _(self, one: Act) -> None:
        self.core.act(self.buffers[one.out], self.buffers[one.x], one.kind)

    @add.register
    def _(self, one: GatedAct) -> None:
        out, gate, up = (self.buffers[number] for number in (one.out, one.gate, one.up))
        self.core.gated_act(out, gate, up, one.kind)

    @add.register
    def _(self, one: Moe) -> None:
        experts = one.experts
        self.core.moe(
            self.buffers[one.out],
            self.buffers[one.x],
            self._weight(experts.router),
            self._weight(experts.gate),
            self._weight(experts.up),
            self._weight(experts.down),
            experts.used,
            experts.normalise,
            experts.scale,
            experts.kind,
        )

    @add.register
    def _(self, one: Add) -> None:
        self.core.add(self.buffers[one.out], self.buffers[one.a], self.buffers[one.b])

    @add.register
    def _(self, one: Select) -> None:
        self.core.select(self.buffers[one.out], self.buffers[one.x])

    @add.register
    def _(self, one: Softcap) -> None:
        _expect_in_place(one, one.out, one.x)
        self.core.softcap(self.buffers[one.x], one.cap)

    @add.register
    def _(self, one: Output) -> None:
        self.core.output(one.name, self.buffers[one.x])

    def _once(self, kind: str, key: str | Rope, make: Callable[[], int]) -> int:
        if (kind, key) not in self.numbers:
            self.numbers[kind, key] = make()
        return self.numbers[kind, key]

    def _weight(self, weight: Weight) -> int:
        """A linear weight, or stacked ones; a row range is one of its own."""
        return self.weights[weight.name]

    def _table(self, table: Weight) -> int:
        """An embedding, read in place: from the mapped file, where it comes from one."""
        args = (table.type.name, *table.shape, table.data)
        return self._once("table", table.name, lambda: self.core.table(*args))

    def _vector(self, vector: Weight) -> int:
        """A norm or bias, as float32 whatever it is stored as."""
        return self._once("vector", vector.name, lambda: self._floats(vector.float32()))

    def _vector_or_none(self, vector: Weight | None) -> int:
        return _NONE if vector is None else self._vector(vector)

    def _heads(self, norm: tuple[Weight, float] | None) -> tuple[int, float]:
        return (_NONE, 0.0) if norm is None else (self._vector(norm[0]), norm[1])

    def _turn(self, rope: Rope | None) -> tuple[int, bool, float]:
        if rope is None:
            return _NONE, False, 1.0
        return self._frequencies(rope), rope.interleaved, rope.scale

    def _frequencies(self, rope: Rope) -> int:
        return self._once("rope", rope, lambda: self._floats(rope.inverse_frequencies))

    def _floats(self, values: Float32) -> int:
        number: int = self.core.vector(np.ascontiguousarray(values, np.float32))
        return number


def _expect_in_place(instruction: Instruction, out: int, x: int) -> None:
    if out != x:
        raise ValueError(f"the core runs this in place only: {instruction}")
