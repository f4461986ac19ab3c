"""Records a definition as a `Program` and fuses it, so that model files stay plain.

`trace` = `record`, then the passes in order. Every pass is `Program -> Program` and keeps its
meaning:

- `drop_unused`: instructions whose results nobody reads.
- `merge_linears`: linears on one input become one with several weights (q/k/v; gate/up).
- `fold_residuals`: x + linear(h) becomes a linear that accumulates into x.
- `fold_norms`: linear(norm(x)) becomes a linear that normalises its input.
- `fold_activations`: act(x) of a linear, or act(gate) * up of two, becomes a linear that does it.
- `fold_rotations`: attention normalises and turns the heads of its own q and k.
- `allocate`: buffers are reused once their value is dead; what can work in place does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

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
from localllm.ops.spec import ACTIVATIONS, INDICES, Attention, Definition, Experts, Rope, Weight


def trace(definition: Definition, outputs: Collection[str] | None = None) -> Program:
    """The fused program of a definition; `outputs` keeps only the named results."""
    program = drop_unused(record(definition), outputs)
    for fuse in (merge_linears, fold_residuals, fold_norms, fold_activations, fold_rotations):
        program = fuse(program)
    return allocate(program)


def record(definition: Definition) -> Program:
    """The program as said: every buffer written once, nothing fused."""
    recorder = _Recorder()
    definition.forward(recorder)
    return Program(tuple(recorder.instructions), tuple(recorder.widths))


@dataclass(frozen=True)
class Value:
    """A traced activation: which buffer, how wide, and whether its rows are the selected ones."""

    buffer: int
    width: int
    selected: bool


class _Recorder:
    """An `Ops` that writes down what it is told, and refuses what cannot be meant."""

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []
        self.widths: list[int] = []
        self._selecting = False

    def embed(self, table: Weight, scale: float = 1.0, index: str = "token") -> Value:
        _expect(index in INDICES, f"embed: {index}")
        out = self._value(table.shape[1], selected=False)
        return self._add(Embed(out.buffer, table, scale, index), out)

    def norm(self, x: Value, weight: Weight, eps: float, group: int | None = None) -> Value:
        _expect(x.width % (group or x.width) == 0, f"norm: {x.width} in groups of {group}")
        _expect(weight.shape == (group or x.width,), f"norm: {weight.name} {weight.shape}")
        out = self._like(x)
        return self._add(Norm(out.buffer, x.buffer, weight, eps, group), out)

    def layer_norm(self, x: Value, weight: Weight, bias: Weight, eps: float) -> Value:
        _expect(weight.shape == bias.shape == (x.width,), f"layer_norm: {weight.name} on {x.width}")
        out = self._like(x)
        return self._add(LayerNorm(out.buffer, x.buffer, weight, bias, eps), out)

    def linear(self, x: Value, weight: Weight, bias: Weight | None = None) -> Value:
        _expect(weight.shape[1] == x.width, f"linear: {weight.name} {weight.shape} on {x.width}")
        _expect(bias is None or bias.shape == weight.shape[:1], f"linear: bias of {weight.name}")
        out = self._value(weight.shape[0], x.selected)
        return self._add(Linear((out.buffer,), x.buffer, (weight,), (bias,)), out)

    def rope(self, x: Value, head_dim: int, rope: Rope) -> Value:
        _expect(x.width % head_dim == 0 and rope.dims <= head_dim, f"rope: {x.width}/{head_dim}")
        out = self._like(x)
        return self._add(Rotate(out.buffer, x.buffer, head_dim, rope), out)

    def attention(self, q: Value, k: Value, v: Value, spec: Attention) -> Value:
        kv_width = spec.kv_heads * spec.head_dim
        widths = (spec.heads * spec.head_dim, kv_width, kv_width)
        _expect((q.width, k.width, v.width) == widths, f"attention: {spec}")
        _expect(spec.heads % spec.kv_heads == 0, f"attention: {spec}")
        _expect(not (q.selected or k.selected or v.selected), "attention after a select")
        limited = spec.window is not None or spec.softcap is not None
        _expect(spec.causal or not limited, f"attention: {spec}")
        out = self._like(q)
        return self._add(Attend(out.buffer, q.buffer, k.buffer, v.buffer, spec), out)

    def act(self, x: Value, kind: str) -> Value:
        _expect(kind in ACTIVATIONS, f"act: {kind}")
        out = self._like(x)
        return self._add(Act(out.buffer, x.buffer, kind), out)

    def gated_act(self, gate: Value, up: Value, kind: str) -> Value:
        _expect(kind in ACTIVATIONS, f"gated_act: {kind}")
        _expect(_alike(gate, up), f"gated_act: {gate} and {up}")
        out = self._like(gate)
        return self._add(GatedAct(out.buffer, gate.buffer, up.buffer, kind), out)

    def moe(self, x: Value, experts: Experts) -> Value:
        count, width, ffn = experts.down.shape
        _expect(experts.kind in ACTIVATIONS, f"moe: {experts.kind}")
        _expect(0 < experts.used <= count, f"moe: {experts.used} of {count}")
        _expect(experts.router.shape == (count, x.width), f"moe: {experts.router}")
        for weight in (experts.gate, experts.up):
            _expect(weight.shape == (count, ffn, x.width), f"moe: {weight}")
        out = self._value(width, x.selected)
        return self._add(Moe(out.buffer, x.buffer, experts), out)

    def add(self, a: Value, b: Value) -> Value:
        _expect(_alike(a, b), f"add: {a} and {b}")
        out = self._like(a)
        return self._add(Add(out.buffer, a.buffer, b.buffer), out)

    def select(self, x: Value) -> Value:
        _expect(not x.selected, "select of selected rows")
        self._selecting = True
        out = self._value(x.width, selected=True)
        return self._add(Select(out.buffer, x.buffer), out)

    def softcap(self, x: Value, cap: float) -> Value:
        out = self._like(x)
        return self._add(Softcap(out.buffer, x.buffer, cap), out)

    def output(self, name: str, x: Value) -> None:
        _expect(x.selected, f"output {name}: rows were not selected")
        self.instructions.append(Output(name, x.buffer))

    def _value(self, width: int, selected: bool) -> Value:
        # the core computes selected rows only from the first select on
        _expect(selected or not self._selecting, "all rows after a select")
        self.widths.append(width)
        return Value(len(self.widths) - 1, width, selected)

    def _like(self, x: Value) -> Value:
        return self._value(x.width, x.selected)

    def _add(self, instruction: Instruction, out: Value) -> Value:
        self.instructions.append(instruction)
        return out


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"a definition does not fit together: {message}")


def _alike(a: Value, b: Value) -> bool:
    return (a.width, a.selected) == (b.width, b.selected)


def drop_unused(program: Program, outputs: Collection[str] | None = None) -> Program:
    """Drops outputs that are not in `outputs`, and every instruction that then serves nothing.

    Raises:
        ValueError: `outputs` names a result that the program does not have.
    """
    names = {one.name for one in program.instructions if isinstance(one, Output)}
    wanted = names if outputs is None else set(outputs)
    if not wanted <= names:
        raise ValueError(f"no output {sorted(wanted - names)}; there are {sorted(names)}")
    kept: list[Instruction] = []
    live: set[int] = set()
    for instruction in reversed(program.instructions):
        if isinstance(instruction, Output):
            needed = instruction.name in wanted
        else:  # attention also writes the cache, which later steps read
            caches = isinstance(instruction, Attend) and instruction.spec.causal
            needed = caches or not live.isdisjoint(instruction.writes)
        if needed:
            live.update(instruction.reads)
            kept.append(instruction)
    return replace(program, instructions=tuple(reversed(kept)))


def merge_linears(program: Program) -> Program:
    """Linears that read one buffer become one instruction, where the first of them stood."""
    together: dict[int, list[Linear]] = {}
    for instruction in program.instructions:
        if isinstance(instruction, Linear) and not instruction.accumulate:
            together.setdefault(instruction.x, []).append(instruction)
    merged: list[Instruction] = []
    for instruction in program.instructions:
        group = together.get(instruction.x, []) if isinstance(instruction, Linear) else []
        if instruction not in group:
            merged.append(instruction)
        elif instruction is group[0]:
            merged.append(
                Linear(
                    outs=tuple(out for one in group for out in one.outs),
                    x=group[0].x,
                    weights=tuple(weight for one in group for weight in one.weights),
                    biases=tuple(bias for one in group for bias in one.biases),
                )
            )
    return replace(program, instructions=tuple(merged))


def fold_residuals(program: Program) -> Program:
    """An add of a linear's only result onto a value that dies there becomes accumulation."""
    reads = Counter(buffer for one in program.instructions for buffer in one.reads)
    last_read = _last_reads(program)
    made_by = {out: (at, one) for at, one in enumerate(program.instructions) for out in one.writes}
    # values that an instruction works on in place: a linear that reads one must not move past it
    overwritten = {value for one in program.instructions for value in _destroyed(one)}

    def folded(at: int, add: Add) -> tuple[int, Linear] | None:
        """Where the linear stood, and the linear that takes the place of the add."""
        for value, residual in ((add.b, add.a), (add.a, add.b)):
            where, linear = made_by[value]
            if (
                isinstance(linear, Linear)
                and len(linear.outs) == 1
                and not linear.accumulate
                and reads[value] == 1
                and last_read[residual] == at
                and residual != linear.x
                and linear.x not in overwritten
            ):
                return where, replace(linear, outs=(add.out,), residual=residual)
        return None

    instructions: dict[int, Instruction] = dict(enumerate(program.instructions))
    for at, instruction in enumerate(program.instructions):
        fused = folded(at, instruction) if isinstance(instruction, Add) else None
        if fused is not None:
            del instructions[fused[0]]
            instructions[at] = fused[1]
            overwritten.update(fused[1].reads[1:])
    return replace(program, instructions=tuple(one for _, one in sorted(instructions.items())))


def fold_norms(program: Program) -> Program:
    """A norm over whole rows that only one linear reads becomes part of it."""
    reads = Counter(buffer for one in program.instructions for buffer in one.reads)
    norms = {one.out: one for one in program.instructions if isinstance(one, Norm)}
    # where a value is destroyed by what works in place: it must not be read later than that
    ends = {value: at for at, one in enumerate(program.instructions) for value in _destroyed(one)}
    instructions: dict[int, Instruction] = dict(enumerate(program.instructions))
    for at, one in enumerate(program.instructions):
        if not isinstance(one, Linear):
            continue
        norm = norms.get(one.x)
        if (
            norm is not None
            and norm.group is None
            and reads[norm.out] == 1
            and norm.x != one.residual
            and ends.get(norm.x, at) >= at
        ):
            instructions[at] = replace(one, x=norm.x, norm=(norm.weight, norm.eps))
            del instructions[program.instructions.index(norm)]
    return replace(program, instructions=tuple(instructions.values()))


def fold_activations(program: Program) -> Program:
    """An activation of a linear's one or two results, read by nothing else, becomes part of it."""
    reads = Counter(buffer for one in program.instructions for buffer in one.reads)
    acts = {one.reads: one for one in program.instructions if isinstance(one, Act | GatedAct)}
    instructions: dict[int, Instruction] = dict(enumerate(program.instructions))
    for at, one in enumerate(program.instructions):
        if not isinstance(one, Linear):
            continue
        act = acts.get(one.outs)
        if act is not None and not one.accumulate and all(reads[out] == 1 for out in one.outs):
            instructions[at] = replace(one, outs=(act.out,), act=act.kind)
            del instructions[program.instructions.index(act)]
    return replace(program, instructions=tuple(instructions.values()))


def fold_rotations(program: Program) -> Program:
    """Rotations of q and k that only attention reads become part of it, and norms before them."""
    reads = Counter(buffer for one in program.instructions for buffer in one.reads)
    rotations = {one.out: one for one in program.instructions if isinstance(one, Rotate)}
    norms = {one.out: one for one in program.instructions if isinstance(one, Norm)}
    instructions: dict[int, Instruction] = dict(enumerate(program.instructions))

    def drop(one: Instruction) -> None:
        del instructions[program.instructions.index(one)]

    for at, one in enumerate(program.instructions):
        if not isinstance(one, Attend) or not one.spec.causal:
            continue
        q, k = rotations.get(one.q), rotations.get(one.k)
        if q is None or k is None or q.rope != k.rope:
            continue
        # attention works on its heads in place: nobody else may read what it turns
        if any(reads[value] > 1 for value in (one.q, one.k, q.x, k.x)):
            continue
        if not q.head_dim == k.head_dim == one.spec.head_dim:
            continue
        changes: dict[str, Any] = {"rope": q.rope}
        for side, turned in (("q", q), ("k", k)):
            changes[side] = turned.x
            drop(turned)
            norm = norms.get(turned.x)
            if norm is not None and norm.group == turned.head_dim and reads[norm.x] == 1:
                changes |= {side: norm.x, f"{side}_norm": (norm.weight, norm.eps)}
                drop(norm)
        instructions[at] = replace(one, **changes)
    return replace(program, instructions=tuple(instructions.values()))


def allocate(program: Program) -> Program:
    """Maps values to few buffers: in place where an input dies, else a free one of the same width.

    Raises:
        ValueError: an operation that only works in place would destroy a value needed later.
    """
    last_read = _last_reads(program)
    for instruction in program.instructions:
        if isinstance(instruction, Output):  # outputs are fetched when everything has run
            last_read[instruction.x] = len(program.instructions)
    widths: list[int] = []
    free: dict[int, list[int]] = {}
    buffer: dict[int, int] = {}
    instructions: list[Instruction] = []
    for at, instruction in enumerate(program.instructions):
        dying = {value for value in instruction.reads if last_read[value] == at}
        taken: set[int] = set()
        for value, inputs in _in_place(instruction):
            host = next((one for one in inputs if one in dying - taken), None)
            if host is not None:
                buffer[value] = buffer[host]
                taken.add(host)
            elif isinstance(instruction, Linear | Rotate | Softcap):
                raise ValueError(f"works in place, but b{inputs[0]} is read later: {instruction}")
        for value in instruction.writes:
            if value not in buffer:
                width = program.widths[value]
                pool = free.setdefault(width, [])
                if not pool:
                    pool.append(len(widths))
                    widths.append(width)
                buffer[value] = pool.pop()
        unread = {value for value in instruction.writes if value not in last_read}
        for value in sorted((dying - taken) | unread):
            free.setdefault(program.widths[value], []).append(buffer[value])
        instructions.append(instruction.renamed(buffer))
    return Program(tuple(instructions), tuple(widths))


def _in_place(instruction: Instruction) -> list[tuple[int, tuple[int, ...]]]:
    """Results that may stand where an input stood: (result, the inputs to try in order)."""
    if isinstance(instruction, Linear) and instruction.residual is not None:
        return [(instruction.outs[0], (instruction.residual,))]
    if isinstance(instruction, Norm | LayerNorm | Rotate | Act | Softcap):
        return [(instruction.out, (instruction.x,))]
    if isinstance(instruction, GatedAct):
        return [(instruction.out, (instruction.gate, instruction.up))]
    if isinstance(instruction, Add):
        return [(instruction.out, (instruction.a, instruction.b))]
    return []


def _destroyed(instruction: Instruction) -> tuple[int, ...]:
    """Values that an instruction can only work on in place."""
    if isinstance(instruction, Linear) and instruction.residual is not None:
        return (instruction.residual,)
    return (instruction.x,) if isinstance(instruction, Rotate | Softcap) else ()


def _last_reads(program: Program) -> dict[int, int]:
    """For every buffer that is read: the last instruction that reads it."""
    return {
        value: at
        for at, instruction in enumerate(program.instructions)
        for value in instruction.reads
    }
