"""What only encoders have: layer norm, plain activations, positions, attention both ways."""

import math

import numpy as np
import pytest

from localllm import _native

from . import reference
from .building import Net, raw
from .test_rows import WIDTHS, rows_of

KINDS = ("silu", "gelu", "gelu_erf")


def activation(x, kind):
    if kind != "gelu_erf":
        return reference.activation(x, kind)
    x = x.astype(np.float64)
    return 0.5 * x * np.vectorize(math.erfc)(-x / math.sqrt(2))


def step(net, texts, past=None):
    """The outputs of every row of some texts, without pages."""
    lengths = np.array([len(text) for text in texts], np.int32)
    return net.native.step(
        _native.Cache(1, 1, 16, 1, 32, "f16"),
        np.concatenate(texts).astype(np.int32),
        lengths,
        np.zeros(len(texts), np.int32) if past is None else np.array(past, np.int32),
        np.zeros((len(texts), 0), np.int32),
        np.arange(lengths.sum(), dtype=np.int32),
    )


@pytest.mark.parametrize("shift", [0, 100])
def test_layer_norm(isa, shift):
    random = np.random.default_rng(3)
    for width in WIDTHS:
        x = rows_of(random, 5, width) + np.float32(shift)
        x[4] = x[4, 0]  # nothing but the mean: what is left of it is divided by the root of eps
        weight, bias = random.standard_normal((2, width)).astype(np.float32)
        net = Net(isa)
        source = net.input(x)
        net.layer_norm(source, source, net.vector(weight), net.vector(bias), 1e-5)
        found = net.finish({"y": (source, width)}).run(range(5))["y"]
        wide = x.astype(np.float64)
        centred = wide - wide.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        expected, atol = normed * weight + bias, 1e-4 if shift else 1e-5
        np.testing.assert_allclose(found[:4], expected[:4], rtol=0, atol=atol)
        np.testing.assert_allclose(found[4], expected[4], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_act(isa, kind):
    random = np.random.default_rng(6)
    for width in WIDTHS:
        x = rows_of(random, 7, width)
        x[0] *= 20
        x[1] *= 1e-4
        net = Net(isa)
        source, out = net.input(x), net.buffer(width)
        net.act(out, source, kind)
        found = net.finish({"y": (out, width)}).run(range(7))["y"]
        with np.errstate(over="ignore"):
            expected = activation(x, kind)
        assert (np.abs(found - expected) <= 1e-6 * np.abs(x) + 1e-30).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 9])
def test_a_linear_with_its_activation_is_both(isa, rows, kind):
    random = np.random.default_rng(7)
    x = rows_of(random, rows, 96)
    bias = random.standard_normal(50).astype(np.float32)
    net = Net(isa, threads=2)
    weight, _ = net.random_weight(random, "Q8_0", (50, 96))
    fused, plain = net.buffer(50), net.buffer(50)
    source, vector = net.input(x), net.vector(bias)
    net.native.linear(source, [weight], [fused], [vector], False, act=kind)
    net.native.linear(source, [weight], [plain], [vector], False)
    net.act(plain, plain, kind)
    found = net.finish({"fused": (fused, 50), "plain": (plain, 50)}).run(range(rows))
    np.testing.assert_array_equal(found["fused"], found["plain"])


def test_embed_by_position_and_segment():
    random = np.random.default_rng(8)
    values = rows_of(random, 6, 32)
    net = Net()
    table = net.table("F32", *values.shape, raw(values))
    places, segments = net.buffer(32), net.buffer(32)
    net.input(np.zeros((3, 1), np.float32))  # says how many tokens there are
    net.embed(places, table, 1.0, "position")
    net.embed(segments, table, 2.0, "segment")
    net.finish({"place": (places, 32), "segment": (segments, 32)})
    found = step(net, [[2, 1, 2], [0], [1] * 6])
    np.testing.assert_array_equal(found["place"], values[[0, 1, 2, 0, 0, 1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(found["segment"], np.tile(values[:1] * 2, (10, 1)))
    with pytest.raises(ValueError, match="longer than there are positions"):
        step(net, [[0] * 7])


def both_ways(q, k, v, heads, kv_heads, head_dim, scale):
    """All tokens of one text attend to all."""
    q, k, v = (a.astype(np.float64).reshape(len(a), -1, head_dim) for a in (q, k, v))
    k, v = (a.repeat(heads // kv_heads, 1) for a in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) * scale
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights, v).reshape(len(q), -1)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(12, 12, 32), (2, 2, 64), (3, 1, 16), (4, 2, 80)]
)
def test_attention_both_ways(isa, heads, kv_heads, head_dim):
    random = np.random.default_rng([heads, head_dim])
    widths = heads * head_dim, kv_heads * head_dim, kv_heads * head_dim
    tables = [random.standard_normal((40, width)).astype(np.float32) for width in widths]
    texts = [random.integers(0, 40, length) for length in (1, 2, 31, 200, 7, 64)]
    results = []
    for threads in (1, 3):
        net = Net(isa, threads)
        inputs = [net.input(table) for table in tables]
        out = net.buffer(widths[0])
        shape = heads, kv_heads, head_dim
        net.attention_both_ways(out, *inputs, *shape, head_dim**-0.5)
        net.finish({"y": (out, widths[0])})
        together = step(net, texts)["y"]
        for text, found in zip(
            texts, np.split(together, np.cumsum([len(one) for one in texts])[:-1]), strict=True
        ):
            expected = both_ways(*(table[text] for table in tables), *shape, head_dim**-0.5)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
            np.testing.assert_array_equal(step(net, [text])["y"], found)
        results.append(together)
    np.testing.assert_array_equal(*results)
    with pytest.raises(ValueError, match="come without it"):
        step(net, [[1, 2]], past=[3])


def test_impossible_encoders_are_refused():
    net = Net()
    x, other, out = net.buffer(32), net.buffer(16), net.buffer(32)
    vector, short = (net.vector(np.ones(size, np.float32)) for size in (32, 16))
    table = net.table("F32", 2, 32, raw(np.zeros((2, 32), np.float32)))
    weight = net.weight("F32", 1, 32, 32, raw(np.zeros((32, 32), np.float32)))
    refused = {
        "no such index": lambda: net.embed(x, table, 1.0, "row"),
        "layer_norm: the vector has another length": lambda: net.layer_norm(
            out, x, vector, short, 1e-5
        ),
        "layer_norm: the buffer has another width": lambda: net.layer_norm(
            other, x, vector, vector, 1e-5
        ),
        "activation must be": lambda: net.act(out, x, "relu"),
        "act: the buffer has another width": lambda: net.act(other, x, "gelu"),
        "an activation is that of one weight": lambda: net.native.linear(
            x, [weight], [out], [-1], True, act="gelu"
        ),
        "attention: the output is an input": lambda: net.attention_both_ways(
            x, x, x, x, 2, 2, 16, 1.0
        ),
        "attention: the buffer has another width": lambda: net.attention_both_ways(
            out, x, other, x, 2, 2, 16, 1.0
        ),
        "multiple of kv_heads": lambda: net.attention_both_ways(out, x, x, x, 2, 3, 16, 1.0),
        "multiple of 16": lambda: net.attention_both_ways(out, x, x, x, 4, 4, 8, 1.0),
    }
    for message, ask in refused.items():
        with pytest.raises(ValueError, match=message):
            ask()
