"""Recording and the passes: each changes the form it is for, and never the meaning."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.ops.program import Add, Attend, GatedAct, Linear, Norm, Output, Rotate, Softcap
from localllm.ops.spec import Attention, Experts, Rope
from localllm.ops.tracer import (
    allocate,
    drop_unused,
    fold_activations,
    fold_norms,
    fold_residuals,
    fold_rotations,
    merge_linears,
    record,
    trace,
)
from tests.ops.building import assert_same, definition, run, weight

WIDTH = 8
TABLE = weight("table", 10, WIDTH)
ROPE = Rope(np.float32([1.0, 0.1]), interleaved=True)
SPEC = Attention(layer=0, heads=2, kv_heads=1, head_dim=4, scale=0.5)


def square(name):
    return weight(name, WIDTH, WIDTH)


def block(ops, x, name, layer=0):
    """A transformer layer as model files write it."""
    h = ops.norm(x, weight(f"{name}.norm", WIDTH), 1e-5)
    q = ops.linear(h, square(f"{name}.q"), weight(f"{name}.q.bias", WIDTH))
    k = ops.linear(h, weight(f"{name}.k", 4, WIDTH))
    v = ops.linear(h, weight(f"{name}.v", 4, WIDTH))
    q, k = ops.rope(q, 4, ROPE), ops.rope(k, 4, ROPE)
    spec = Attention(layer, heads=2, kv_heads=1, head_dim=4, scale=0.5)
    x = ops.add(x, ops.linear(ops.attention(q, k, v, spec), square(f"{name}.o")))
    h = ops.norm(x, weight(f"{name}.norm2", WIDTH), 1e-5)
    gate = ops.linear(h, weight(f"{name}.gate", 12, WIDTH))
    up = ops.linear(h, weight(f"{name}.up", 12, WIDTH))
    down = ops.linear(ops.gated_act(gate, up, "silu"), weight(f"{name}.down", WIDTH, 12))
    return ops.add(x, down)


@definition
def two_layers(ops):
    x = ops.embed(TABLE, 2.0)
    x = block(ops, block(ops, x, "a", 0), "b", 1)
    x = ops.select(x)
    ops.output("hidden", x)
    ops.output("logits", ops.softcap(ops.linear(x, TABLE), 5.0))


def kinds(program, kind):
    return [one for one in program.instructions if isinstance(one, kind)]


def outputs_of(body):
    """A definition that embeds, runs the body, and outputs its result."""

    def forward(ops):
        ops.output("result", ops.select(body(ops, ops.embed(TABLE))))

    return definition(forward)


def test_a_recorded_program_replays_to_the_same_result():
    program = record(two_layers)
    written = [buffer for one in program.instructions for buffer in one.writes]
    assert len(written) == len(set(written)) == len(program.widths)
    assert_same(run(program), run(two_layers))


def test_a_trace_is_the_same_computation_in_fewer_instructions_and_buffers():
    program = trace(two_layers)
    assert_same(run(program), run(two_layers))
    rows = torch.tensor([4, 0])
    assert_same(run(program, rows=rows), run(two_layers, rows=rows))
    assert len(program.instructions) < len(record(two_layers).instructions) - 8
    assert program.arena < record(two_layers).arena / 3


def test_tracing_a_program_changes_nothing_more():
    program = record(two_layers)
    assert trace(program) == trace(two_layers)


def test_unasked_outputs_are_dropped_with_all_that_served_them_only():
    program = record(two_layers)
    kept = drop_unused(program, {"hidden"})
    assert kinds(kept, Output) == [kinds(program, Output)[0]]
    assert not kinds(kept, Softcap)
    assert run(kept).keys() == {"hidden"}
    assert_same(run(kept), {"hidden": run(program)["hidden"]})


def test_attention_is_kept_for_the_cache_it_fills():
    @definition
    def forgetful(ops):
        x = ops.embed(TABLE)
        kv = ops.linear(x, weight("kv", 4, WIDTH))
        ops.attention(x, kv, kv, SPEC)
        ops.output("result", ops.select(x))

    assert kinds(drop_unused(record(forgetful)), Attend)


def test_an_unknown_output_is_refused():
    with pytest.raises(ValueError, match="no output"):
        trace(two_layers, ["loggits"])


def test_linears_on_one_input_become_one_with_their_biases():
    before = record(two_layers)
    after = merge_linears(before)
    assert_same(run(after), run(before))
    names = [[w.name for w in one.weights] for one in kinds(after, Linear)]
    assert names == [
        ["a.q", "a.k", "a.v"],
        ["a.o"],
        ["a.gate", "a.up"],
        ["a.down"],
        ["b.q", "b.k", "b.v"],
        ["b.o"],
        ["b.gate", "b.up"],
        ["b.down"],
        ["table"],
    ]
    biases = [bias and bias.name for bias in kinds(after, Linear)[0].biases]
    assert biases == ["a.q.bias", None, None]


def test_residual_adds_become_accumulation():
    before = merge_linears(record(two_layers))
    after = fold_residuals(before)
    assert_same(run(after), run(before))
    assert not kinds(after, Add)
    folded = [one.weights[0].name for one in kinds(after, Linear) if one.accumulate]
    assert folded == ["a.o", "a.down", "b.o", "b.down"]


def test_an_add_folds_whichever_side_the_linear_stands():
    def body(ops, x):
        return ops.add(ops.linear(x, square("w")), ops.norm(x, weight("n", WIDTH), 1e-5))

    program = record(outputs_of(body))
    after = fold_residuals(program)
    assert not kinds(after, Add)
    assert_same(run(after), run(program))


def residual_read_later(ops, x):
    h = ops.norm(x, weight("n", WIDTH), 1e-5)
    y = ops.add(x, ops.linear(h, square("w")))
    return ops.add(y, x)


def linear_read_twice(ops, x):
    y = ops.linear(ops.norm(x, weight("n", WIDTH), 1e-5), square("w"))
    return ops.add(ops.add(x, y), y)


def linear_of_the_residual(ops, x):
    return ops.add(x, ops.linear(x, square("w")))


@pytest.mark.parametrize(
    ("body", "adds"),
    [(residual_read_later, 2), (linear_read_twice, 2), (linear_of_the_residual, 1)],
)
def test_adds_that_would_destroy_a_needed_value_stay(body, adds):
    program = record(outputs_of(body))
    after = fold_residuals(program)
    assert len(kinds(after, Add)) == adds
    assert_same(run(after), run(program))
    assert_same(run(trace(program)), run(program))


def overtaken_by_accumulation(ops, x):
    h = ops.norm(x, weight("n", WIDTH), 1e-5)
    late = ops.linear(h, square("late"))
    other = ops.add(h, ops.linear(x, square("early")))  # h ends here, unless `late` moves past
    return ops.add(ops.norm(other, weight("m", WIDTH), 1e-5), late)


def overtaken_by_softcap(ops, x):
    h = ops.norm(x, weight("n", WIDTH), 1e-5)
    late = ops.linear(h, square("late"))
    return ops.add(ops.softcap(h, 2.0), late)


@pytest.mark.parametrize("body", [overtaken_by_accumulation, overtaken_by_softcap])
def test_a_linear_does_not_move_past_the_end_of_its_input(body):
    program = outputs_of(body)
    assert_same(run(trace(program)), run(program))


def test_norms_and_activations_become_part_of_the_linears():
    before = fold_residuals(merge_linears(record(two_layers)))
    after = fold_activations(fold_norms(before))
    assert_same(run(after), run(before))
    assert not kinds(after, Norm)
    assert not kinds(after, GatedAct)
    normed = [one.weights[0].name for one in kinds(after, Linear) if one.norm]
    assert normed == ["a.q", "a.gate", "b.q", "b.gate"]
    assert [one.act for one in kinds(after, Linear) if len(one.weights) == 2] == ["silu", "silu"]


def norm_read_twice(ops, x):
    h = ops.norm(x, weight("n", WIDTH), 1e-5)
    return ops.add(h, ops.linear(h, square("w")))


def norm_of_heads(ops, x):
    return ops.linear(ops.norm(x, weight("n", 4), 1e-5, 4), square("w"))


def norm_of_what_ends(ops, x):
    h = ops.norm(x, weight("n", WIDTH), 1e-5)
    return ops.add(ops.softcap(x, 2.0), ops.linear(h, square("w")))


def norm_of_the_residual(ops, x):
    return ops.add(x, ops.linear(ops.norm(x, weight("n", WIDTH), 1e-5), square("w")))


@pytest.mark.parametrize(
    "body", [norm_read_twice, norm_of_heads, norm_of_what_ends, norm_of_the_residual]
)
def test_norms_that_others_need_stay(body):
    program = fold_residuals(record(outputs_of(body)))
    after = fold_norms(program)
    assert len(kinds(after, Norm)) == len(kinds(program, Norm)) == 1
    assert_same(run(trace(outputs_of(body))), run(program))


def gate_read_twice(ops, x):
    gate, up = ops.linear(x, square("gate")), ops.linear(x, square("up"))
    return ops.add(gate, ops.gated_act(gate, up, "silu"))


def gate_for_itself(ops, x):
    gate = ops.linear(x, square("gate"))
    return ops.gated_act(gate, gate, "gelu")


@pytest.mark.parametrize("body", [gate_read_twice, gate_for_itself])
def test_activations_whose_inputs_others_need_stay(body):
    program = merge_linears(record(outputs_of(body)))
    assert kinds(fold_activations(program), GatedAct)
    assert_same(run(trace(outputs_of(body))), run(program))


def test_rotations_and_the_norms_of_heads_become_part_of_attention():
    def body(ops, x):
        q = ops.linear(x, square("q"))
        k, v = ops.linear(x, weight("k", 4, WIDTH)), ops.linear(x, weight("v", 4, WIDTH))
        q = ops.rope(ops.norm(q, weight("q.norm", 4), 1e-5, 4), 4, ROPE)
        k = ops.rope(ops.norm(k, weight("k.norm", 4), 1e-6, 4), 4, ROPE)
        return ops.attention(q, k, v, SPEC)

    program = record(outputs_of(body))
    after = fold_rotations(program)
    assert not kinds(after, Rotate)
    assert not kinds(after, Norm)
    assert kinds(after, Attend)[0].k_norm[1] == 1e-6
    assert_same(run(after), run(program))
    assert_same(run(trace(outputs_of(body))), run(program))


def rotated_key_read_twice(ops, x):
    k = ops.rope(ops.linear(x, weight("k", 4, WIDTH)), 4, ROPE)
    return ops.attention(ops.rope(x, 4, ROPE), k, k, SPEC)


def unequal_rotations(ops, x):
    k, v = ops.linear(x, weight("k", 4, WIDTH)), ops.linear(x, weight("v", 4, WIDTH))
    other = Rope(np.float32([0.5]), interleaved=False)
    return ops.attention(
        ops.rope(ops.linear(x, square("q")), 4, ROPE), ops.rope(k, 4, other), v, SPEC
    )


def rotated_what_others_read(ops, x):
    k, v = ops.linear(x, weight("k", 4, WIDTH)), ops.linear(x, weight("v", 4, WIDTH))
    q = ops.linear(x, square("q"))
    mixed = ops.attention(ops.rope(q, 4, ROPE), ops.rope(k, 4, ROPE), v, SPEC)
    return ops.add(mixed, q)


@pytest.mark.parametrize(
    "body", [rotated_key_read_twice, unequal_rotations, rotated_what_others_read]
)
def test_rotations_that_others_need_stay(body):
    program = record(outputs_of(body))
    assert len(kinds(fold_rotations(program), Rotate)) == 2


def test_buffers_do_not_grow_with_depth():
    def deep(layers):
        @definition
        def forward(ops):
            x = ops.embed(TABLE)
            for number in range(layers):
                x = block(ops, x, f"l{number}", number)
            ops.output("result", ops.select(x))

        return trace(forward)

    assert deep(3).widths == deep(12).widths
    assert_same(run(allocate(record(two_layers))), run(two_layers))


def test_an_output_keeps_its_buffer_to_the_end():
    @definition
    def forward(ops):
        x = ops.select(ops.embed(TABLE))
        ops.output("first", x)
        for number in range(3):
            x = ops.linear(x, square(f"w{number}"))
        ops.output("second", x)

    program = trace(forward)
    first = kinds(program, Output)[0].x
    after = program.instructions[program.instructions.index(kinds(program, Output)[0]) + 1 :]
    assert all(first not in one.writes for one in after)


@pytest.mark.parametrize("kind", ["rope", "softcap"])
def test_what_only_works_in_place_must_not_be_read_later(kind):
    def body(ops, x):
        y = ops.rope(x, 4, ROPE) if kind == "rope" else ops.softcap(x, 2.0)
        return ops.add(x, y)

    with pytest.raises(ValueError, match="works in place, but b0 is read later"):
        trace(outputs_of(body))


def misfits():
    x4 = weight("x4", 4, WIDTH)

    def after_select(ops, x):
        ops.select(x)
        return ops.add(x, x)

    yield "linear", lambda ops, x: ops.linear(x, weight("w", 4, 4))
    yield "bias", lambda ops, x: ops.linear(x, x4, weight("b", WIDTH))
    yield "norm: norm", lambda ops, x: ops.norm(x, weight("norm", 4), 1e-5)
    yield "groups of 3", lambda ops, x: ops.norm(x, weight("n", 3), 1e-5, 3)
    yield "rope", lambda ops, x: ops.rope(x, 3, ROPE)
    yield "rope", lambda ops, x: ops.rope(x, 2, ROPE)
    yield "attention", lambda ops, x: ops.attention(x, x, x, SPEC)
    yield "gated_act: relu", lambda ops, x: ops.gated_act(x, x, "relu")
    yield "gated_act", lambda ops, x: ops.gated_act(x, ops.linear(x, x4), "silu")
    yield "add", lambda ops, x: ops.add(x, ops.linear(x, x4))
    yield "add", lambda ops, x: ops.add(x, ops.select(x))
    yield "select of selected", lambda ops, x: ops.select(ops.select(x))
    yield "all rows after a select", after_select
    yield "3 of 2", lambda ops, x: ops.moe(x, experts(used=3))
    yield "moe", lambda ops, x: ops.moe(ops.linear(x, x4), experts())


def experts(used=1):
    return Experts(
        weight("router", 2, WIDTH),
        weight("gate", 2, 6, WIDTH),
        weight("up", 2, 6, WIDTH),
        weight("down", 2, WIDTH, 6),
        used,
    )


@pytest.mark.parametrize(("message", "body"), list(misfits()))
def test_what_does_not_fit_together_is_refused(message, body):
    with pytest.raises(ValueError, match=f"does not fit together: .*{message}"):
        record(outputs_of(body))


def test_an_output_of_all_rows_is_refused():
    with pytest.raises(ValueError, match="rows were not selected"):
        record(definition(lambda ops: ops.output("x", ops.embed(TABLE))))


def test_a_listing_names_buffers_and_weights():
    listing = str(trace(two_layers)).splitlines()
    assert listing[0].startswith("buffers b0:8 ")
    assert listing[1].split(None, 1)[1] == "b0 = embed(table=table, scale=2, index=token)"
    assert listing[2].split(None, 1)[1] == (
        "b1, b2, b3 = linear(b0, weights=(a.q, a.k, a.v), biases=(a.q.bias, None, None), "
        "norm=(a.norm, 1e-05))"
    )
    assert listing[3].split(None, 1)[1] == (
        "b4 = attend(b1, b2, b3, spec=<layer 0, 2/1 heads of 4>, "
        "rope=<4 dims, neighbours, scale 1>)"
    )


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["norm", "linear", "add", "gated", "moe", "rope", "softcap", "attention"]),
        st.integers(0, 99),
        st.integers(0, 99),
    ),
    max_size=30,
)


def random_definition(steps):
    """Any sequence of operations on any earlier values, all of one width."""

    @definition
    def forward(ops):
        values = [ops.embed(TABLE)]
        for number, (kind, first, second) in enumerate(steps):
            a, b = values[first % len(values)], values[second % len(values)]
            if kind == "norm":
                values.append(ops.norm(a, weight(f"n{number}", 4), 1e-5, 4))
            elif kind == "linear":
                values.append(ops.linear(a, square(f"w{number}"), weight(f"b{number}", WIDTH)))
            elif kind == "add":
                values.append(ops.add(a, b))
            elif kind == "gated":
                values.append(ops.gated_act(a, b, "gelu"))
            elif kind == "moe":
                values.append(ops.moe(a, experts()))
            elif kind == "attention":
                spec = Attention(number, 2, 2, 4, 0.5, window=3)
                values.append(ops.attention(a, b, b, spec))
            elif len(values) > 1:  # in place: the value is gone for whoever comes later
                values.pop(first % len(values))
                values.append(ops.rope(a, 4, ROPE) if kind == "rope" else ops.softcap(a, 3.0))
        for number, value in enumerate(ops.select(value) for value in values[-2:]):
            ops.output(f"result{number}", value)

    return forward


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_any_trace_means_what_was_said(steps):
    random = random_definition(steps)
    expected = run(random)
    program = record(random)
    for step in (drop_unused, merge_linears, fold_residuals, allocate):
        program = step(program)
        assert_same(run(program), expected, 1e-4)
