"""The operations that work on each row alone."""

import gc

import numpy as np
import pytest

from localllm.gguf import quant_type

from . import reference
from .building import TYPES, Net, random_weight, raw

WIDTHS = (1, 3, 15, 16, 17, 64, 1030, 2500)


def rows_of(random, count, width):
    return (random.standard_normal((count, width)) * 3).astype(np.float32)


@pytest.mark.parametrize("name", TYPES)
def test_embed(name):
    random = np.random.default_rng(1)
    width = 2 * quant_type(name).block_size
    data, values = random_weight(random, name, (9, width))
    tokens = [8, 0, 3, 3, 7]
    for scale in (1.0, 22.627417):
        net = Net()
        out = net.buffer(width)
        net.embed(out, net.table(name, 9, width, data), scale)
        found = net.finish({"y": (out, width)}).run(tokens)["y"]
        np.testing.assert_array_equal(found, values[tokens] * np.float32(scale))


def test_a_table_is_read_in_place_and_kept_alive():
    random = np.random.default_rng(2)
    values = rows_of(random, 1000, 256)
    kept = values.copy()
    net = Net()
    out = net.buffer(256)
    data = raw(values)
    data.flags.writeable = False  # as a mapped file is
    net.embed(out, net.table("F32", 1000, 256, data), 1.0)
    net.finish({"y": (out, 256)})
    values[5] = kept[5] = 7.0
    del data, values
    gc.collect()
    junk = [np.ones((1000, 256), np.float32) for _ in range(8)]
    np.testing.assert_array_equal(net.run([5, 999])["y"], kept[[5, 999]])
    del junk


def test_norm(isa):
    random = np.random.default_rng(3)
    for width in WIDTHS:
        for group in {width, 1 if width < 20 else width // 2 if width % 2 == 0 else width}:
            x = rows_of(random, 5, width)
            x[1] *= 1e-4
            x[2] = 0
            weight = random.standard_normal(group).astype(np.float32)
            net = Net(isa)
            out = net.buffer(width)
            net.norm(out, net.input(x), net.vector(weight), 1e-5, group)
            found = net.finish({"y": (out, width)}).run(range(5))["y"]
            expected = reference.norm(x, weight, 1e-5, group)
            np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-30)


def test_norm_of_large_values_in_place(isa):
    x = np.full((2, 1030), 1e17, np.float32)
    net = Net(isa)
    source = net.input(x)
    net.norm(source, source, net.vector(np.ones(1030, np.float32)), 1e-6, 1030)
    np.testing.assert_allclose(net.finish({"y": (source, 1030)}).run([0, 1])["y"], 1, rtol=1e-6)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize(("head_dim", "pairs"), [(64, 32), (64, 16), (48, 5), (2, 1), (32, 0)])
def test_rope(interleaved, head_dim, pairs):
    random = np.random.default_rng(4)
    heads = 3
    x = rows_of(random, 70, heads * head_dim)
    inverse = (10000.0 ** (-np.arange(pairs) / max(pairs, 1))).astype(np.float32)
    for scale in (1.0, 1.19):
        net = Net()
        source = net.input(x)
        net.rope(source, net.vector(inverse), heads, head_dim, interleaved, scale)
        found = net.finish({"y": (source, heads * head_dim)}).run(range(70))["y"]
        expected = reference.rope(x, np.arange(70), inverse, heads, head_dim, interleaved, scale)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=4e-6)
        rest = slice(2 * pairs, None)
        np.testing.assert_array_equal(
            found.reshape(70, heads, head_dim)[..., rest], x.reshape(70, heads, head_dim)[..., rest]
        )


def test_two_ropes_with_different_frequencies():
    random = np.random.default_rng(5)
    x = rows_of(random, 10, 64)
    first, second = (np.float32(base) ** (-np.arange(16) / 16) for base in (1e4, 1e6))
    net = Net()
    source, other = net.input(x), net.input(x)
    net.rope(source, net.vector(np.float32(first)), 2, 32, False, 1.0)
    net.rope(other, net.vector(np.float32(second)), 2, 32, False, 2.0)
    found = net.finish({"a": (source, 64), "b": (other, 64)}).run(range(10))
    for name, inverse, scale in (("a", first, 1.0), ("b", second, 2.0)):
        expected = reference.rope(x, np.arange(10), inverse, 2, 32, False, scale)
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=4e-6)


@pytest.mark.parametrize("kind", ["silu", "gelu"])
def test_gated_act(isa, kind):
    random = np.random.default_rng(6)
    for width in WIDTHS:
        gate, up = rows_of(random, 7, width), rows_of(random, 7, width)
        gate[0] *= 20
        gate[1] *= 1e-4
        net = Net(isa)
        a, b, out = net.input(gate), net.input(up), net.buffer(width)
        net.gated_act(out, a, b, kind)
        found = net.finish({"y": (out, width)}).run(range(7))["y"]
        with np.errstate(over="ignore"):
            expected = reference.activation(gate, kind) * up
        # the tail of GELU is a difference of nearly equal numbers
        atol = 1e-6 * np.abs(gate * up) + 1e-30
        assert (np.abs(found - expected) <= 1e-6 * np.abs(expected) + atol).all()


def test_gated_act_at_the_ends(isa):
    gate = np.array([[-1e30, -1000, -100, -0.0, 0.0, 100, 1000, 1e30]], np.float32)
    for kind in ("silu", "gelu"):
        net = Net(isa)
        a, b = net.input(gate), net.input(np.ones_like(gate))
        net.gated_act(a, a, b, kind)
        found = net.finish({"y": (a, 8)}).run([0])["y"][0]
        np.testing.assert_allclose(found[3:], gate[0, 3:], rtol=1e-6)
        assert (np.abs(found[1:3]) < 1e-30).all()
        assert np.isfinite(found).all()


def test_add_and_softcap(isa):
    random = np.random.default_rng(7)
    for width in WIDTHS:
        a, b = rows_of(random, 7, width), rows_of(random, 7, width)
        a[0] *= 100
        net = Net(isa)
        first, second, out = net.input(a), net.input(b), net.buffer(width)
        net.add(out, first, second)
        net.softcap(first, 5.0)
        found = net.finish({"sum": (out, width), "capped": (first, width)}).run(range(7))
        np.testing.assert_array_equal(found["sum"], a + b)
        expected = 5 * np.tanh(a.astype(np.float64) / 5)
        np.testing.assert_allclose(found["capped"], expected, rtol=1e-6, atol=2e-6)


def test_softcap_at_the_ends(isa):
    x = np.array([[np.nan, np.inf, -np.inf, 1e30, 0.0]], np.float32)
    net = Net(isa)
    source = net.input(x)
    net.softcap(source, 5.0)
    found = net.finish({"y": (source, 5)}).run([0])["y"][0]
    np.testing.assert_array_equal(found, np.array([np.nan, 5, -5, 5, 0], np.float32))
