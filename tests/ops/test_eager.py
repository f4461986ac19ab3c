"""Every eager operation against its formula in numpy; caches and batches against one sequence."""

import math

import numpy as np
import pytest
import torch

from localllm.ops import eager
from localllm.ops.spec import Attention, Experts, Rope
from tests.ops.building import assert_same, definition, of_array, run, weight

T, HEADS, KV_HEADS, DIM = 7, 4, 2, 6
RANDOM = np.random.default_rng(5)
TOKENS = torch.arange(T)


def rows(width, count=T):
    return RANDOM.standard_normal((count, width)).astype(np.float32)


def ops(count=T, **options):
    return eager.EagerOps(torch.arange(count), eager.WeightStore(), **options)


def assert_close(found, expected):
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_embed():
    table = weight("table", 10, 4)
    assert_close(ops().embed(table, 3.0), table.float32()[:T] * 3)


@pytest.mark.parametrize("group", [None, 4])
def test_norm(group):
    x, w = rows(12), weight("n", group or 12)
    groups = x.reshape(T, -1, group or 12)
    expected = groups / np.sqrt((groups**2).mean(-1, keepdims=True) + 0.01) * w.float32()
    assert_close(ops().norm(torch.tensor(x), w, 0.01, group), expected.reshape(T, 12))


def test_linear_of_a_row_range_with_bias():
    x, w, b = rows(6), weight("w", 9, 6), weight("b", 9)
    found = ops().linear(torch.tensor(x), w.rows(2, 7), b.rows(2, 7))
    assert_close(found, x @ w.float32()[2:7].T + b.float32()[2:7])


@pytest.mark.parametrize("interleaved", [True, False])
def test_rope_turns_pairs_as_complex_numbers(interleaved):
    frequencies = np.float32([0.7, 0.01])  # 4 of the 6 dimensions
    x = rows(2 * DIM)
    rope = Rope(frequencies, interleaved, scale=1.5)
    found = ops().rope(torch.tensor(x), DIM, rope).reshape(T, 2, DIM)
    heads = x.reshape(T, 2, DIM)
    real, imaginary = ([0, 2], [1, 3]) if interleaved else ([0, 1], [2, 3])
    turn = 1.5 * np.exp(1j * np.arange(T)[:, None, None] * frequencies)
    turned = (heads[..., real] + 1j * heads[..., imaginary]) * turn
    assert_close(found[..., real], turned.real)
    assert_close(found[..., imaginary], turned.imag)
    assert_close(found[..., 4:], heads[..., 4:])


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (3, None), (None, 2.0), (1, 0.5)])
def test_attention_one_query_at_a_time(window, softcap):
    q, k, v = rows(HEADS * DIM), rows(KV_HEADS * DIM), rows(KV_HEADS * DIM)
    spec = Attention(0, HEADS, KV_HEADS, DIM, 0.7, window, softcap)
    found = ops().attention(*map(torch.tensor, (q, k, v)), spec).reshape(T, HEADS, DIM)
    for t in range(T):
        for head in range(HEADS):
            kv = slice(head // 2 * DIM, head // 2 * DIM + DIM)
            seen = range(max(0, t + 1 - (window or T)), t + 1)
            query = q[t, head * DIM : head * DIM + DIM]
            scores = np.array([query @ k[s, kv] * 0.7 for s in seen])
            if softcap:
                scores = softcap * np.tanh(scores / softcap)
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            assert_close(
                found[t, head], sum(p * v[s, kv] for p, s in zip(shares, seen, strict=True))
            )


def act(kind, x):
    if kind == "silu":
        return x / (1 + np.exp(-x))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("kind", ["silu", "gelu"])
def test_gated_act(kind):
    gate, up = rows(5), rows(5)
    found = ops().gated_act(torch.tensor(gate), torch.tensor(up), kind)
    assert_close(found, act(kind, gate) * up)


@pytest.mark.parametrize(
    ("normalise", "scale", "kind"), [(True, 1.0, "silu"), (False, 2.0, "gelu")]
)
def test_moe_row_by_row(normalise, scale, kind):
    experts = Experts(
        weight("router", 5, 6, gain=2.0),
        weight("gate", 5, 8, 6),
        weight("up", 5, 8, 6),
        weight("down", 5, 6, 8),
        used=2,
        normalise=normalise,
        scale=scale,
        kind=kind,
    )
    router, gate, up, down = (
        w.float32() for w in (experts.router, experts.gate, experts.up, experts.down)
    )
    x = rows(6)
    found = ops().moe(torch.tensor(x), experts)
    for t in range(T):
        scores = np.exp(router @ x[t])
        scores /= scores.sum()
        best = np.argsort(-scores)[:2]
        shares = scores[best] / (scores[best].sum() if normalise else 1) * scale
        expected = sum(
            share * (down[e] @ (act(kind, gate[e] @ x[t]) * (up[e] @ x[t])))
            for share, e in zip(shares, best, strict=True)
        )
        assert_close(found[t], expected)


def test_add_softcap_select():
    a, b = rows(4), rows(4)
    assert_close(ops().add(torch.tensor(a), torch.tensor(b)), a + b)
    assert_close(ops().softcap(torch.tensor(a), 0.5), 0.5 * np.tanh(a / 0.5))
    assert_close(ops(rows=torch.tensor([5, 2])).select(torch.tensor(a)), a[[5, 2]])


@definition
def small(ops):
    """Two attention layers with rope: all that depends on positions."""
    x = ops.embed(weight("table", 20, 8))
    for layer, window in enumerate((None, 3)):
        q = ops.linear(x, weight(f"q{layer}", 8, 8))
        k, v = (ops.linear(x, weight(f"{name}{layer}", 4, 8)) for name in "kv")
        rope = Rope(np.float32([1.0, 0.1]), interleaved=False)
        q, k = ops.rope(q, 4, rope), ops.rope(k, 4, rope)
        x = ops.add(x, ops.attention(q, k, v, Attention(layer, 2, 1, 4, 0.5, window)))
    ops.output("x", ops.select(x))


def test_cached_steps_equal_one_run():
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    cache = eager.EagerCache()
    steps = [run(small, tokens[a:b], cache=cache)["x"] for a, b in ((0, 3), (3, 4), (4, 8))]
    assert cache.length(0) == 8
    assert_same({"x": np.concatenate(steps)}, run(small, tokens))


def test_a_batch_equals_its_sequences():
    first, second = [3, 1, 4, 1], [5, 9]
    cache = eager.EagerCache(2)
    whole = run(small, first + second, lengths=[4, 2], cache=cache)["x"]
    assert_same({"x": whole[:4]}, run(small, first))
    assert_same({"x": whole[4:]}, run(small, second))
    whole = run(small, [7, 8, 8], lengths=[1, 2], cache=cache)["x"]
    assert_same({"x": whole[:1]}, {"x": run(small, [*first, 7])["x"][-1:]})
    assert_same({"x": whole[1:]}, {"x": run(small, [*second, 8, 8])["x"][-2:]})


def test_lengths_must_sum_to_the_batch():
    with pytest.raises(ValueError, match="do not sum to 3"):
        run(small, [1, 2, 3], lengths=[1, 1])


def test_gradients_reach_weights_and_row_ranges_share_them():
    store = eager.WeightStore()
    w = weight("w", 8, 8)
    store(w).requires_grad_()

    @definition
    def forward(ops):
        x = ops.linear(ops.embed(weight("table", 20, 8)), w.rows(2, 5))
        ops.output("x", ops.select(x))

    eager.run(forward, torch.arange(4), store)["x"].square().sum().backward()
    gradient = store.tensors["w"].grad
    assert gradient is not None
    assert gradient[2:5].abs().min() > 0
    assert gradient[:2].abs().max() == gradient[5:].abs().max() == 0


def test_a_weight_is_rows_of_stored_bytes():
    w = of_array("w", np.arange(12, dtype=np.float32).reshape(4, 3))
    part = w.rows(1, 4).rows(1, 2)
    assert part.name == "w[2:3]"
    assert part.float32().tolist() == [[6, 7, 8]]
    assert part.data.base is not None
    for start, stop in ((-1, 2), (2, 2), (3, 5)):
        with pytest.raises(ValueError, match="rows"):
            w.rows(start, stop)
