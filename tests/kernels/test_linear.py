"""Linear: every weight type at odd shapes, against sums over equally quantised activations."""

import numpy as np
import pytest

from localllm import _native
from localllm.gguf import quant_type

from . import reference
from .building import (
    QUANTISED_TYPES,
    TYPES,
    Net,
    columns_of,
    random_weight,
    reference_values,
)

ROWS = (1, 15, 16, 17, 37)
TOKENS = 13


def activations(random, count, columns):
    """Rows of different size, one of them zero."""
    x = random.standard_normal((count, columns), np.float32)
    x *= random.uniform(0.01, 10, (count, 1)).astype(np.float32)
    x[count // 2] = 0
    return x


def assert_sums(found, expected, magnitude):
    error = np.abs(found - expected) / np.maximum(magnitude, 1e-30)
    assert error.max() < 2e-6, f"relative to the terms: {error.max():.1e}"


@pytest.mark.parametrize("name", TYPES)
def test_dequantize_equals_the_gguf_package(name):
    random = np.random.default_rng(1)
    quant = quant_type(name)
    blocks = random.integers(0, 256, (997, quant.type_size), dtype=np.uint8)
    if name == "MXFP4":
        blocks[:256, 0] = np.arange(256)
    if name in ("F32", "F16"):
        expected = blocks.view(np.float32 if name == "F32" else np.float16).astype(np.float32)
    else:
        expected = reference_values(blocks, quant)
    out = np.empty(997 * quant.block_size, np.float32)
    _native.dequantize(name, blocks.reshape(-1), out)
    expected = expected.reshape(-1)
    np.testing.assert_array_equal(out, expected)
    same = out.view(np.uint32) == expected.view(np.uint32)
    assert (same | np.isnan(expected)).all()


@pytest.mark.parametrize("name", TYPES)
def test_shapes(isa, name):
    """Weights of several heights share one input; every number of tokens; some have a bias."""
    random = np.random.default_rng(2)
    for columns in columns_of(name):
        x = activations(random, TOKENS, columns)
        net = Net(isa)
        source = net.input(x)
        weights, values = zip(
            *(net.random_weight(random, name, (rows, columns)) for rows in ROWS), strict=True
        )
        biases = [random.standard_normal(rows).astype(np.float32) for rows in ROWS]
        ids = [net.vector(bias) if i % 2 else -1 for i, bias in enumerate(biases)]
        outs = [net.buffer(rows) for rows in ROWS]
        net.native.linear(source, list(weights), outs, ids, False)
        net.finish({str(rows): (out, rows) for rows, out in zip(ROWS, outs, strict=True)})
        for count in range(1, TOKENS + 1):
            found = net.run(range(count))
            for i, rows in enumerate(ROWS):
                exact, magnitude = reference.linear(x[:count], values[i], name, isa)
                if ids[i] >= 0:
                    exact, magnitude = exact + biases[i], magnitude + np.abs(biases[i])
                assert found[str(rows)].shape == (count, rows)
                assert_sums(found[str(rows)], exact, magnitude)


def test_accumulate_adds_to_what_is_there(isa):
    random = np.random.default_rng(3)
    x, start = activations(random, 9, 256), random.standard_normal((9, 37)).astype(np.float32)
    bias = random.standard_normal(37).astype(np.float32)
    for name in ("Q4_K", "Q8_0", "F16"):
        net = Net(isa)
        source, out = net.input(x), net.input(start)
        weight, values = net.random_weight(random, name, (37, 256))
        net.native.linear(source, [weight], [out], [net.vector(bias)], True)
        exact, magnitude = reference.linear(x, values, name, isa)
        found = net.finish({"y": (out, 37)}).run(range(9))["y"]
        assert_sums(found, start + exact + bias, magnitude + np.abs(start) + np.abs(bias))


def test_float_and_quantised_weights_on_one_input(isa):
    random = np.random.default_rng(4)
    names = ("Q4_K", "F16", "Q8_0", "F32", "Q6_K", "BF16")
    x = activations(random, 11, 512)
    net = Net(isa)
    source = net.input(x)
    made = [net.random_weight(random, name, (20 + i, 512)) for i, name in enumerate(names)]
    outs = [net.buffer(20 + i) for i in range(len(names))]
    net.native.linear(source, [weight for weight, _ in made], outs, [-1] * len(names), False)
    net.finish({name: (out, 20 + i) for i, (name, out) in enumerate(zip(names, outs, strict=True))})
    for count in (1, 2, 4, 11):
        found = net.run(range(count))
        for name, (_, values) in zip(names, made, strict=True):
            assert_sums(found[name], *reference.linear(x[:count], values, name, isa))


def test_selected_rows_only(isa):
    """A linear after `select` works on the selected rows, in their order."""
    random = np.random.default_rng(5)
    x = activations(random, 20, 256)
    net = Net(isa)
    source, chosen = net.input(x), net.buffer(256)
    net.select(chosen, source)
    weight, values = net.random_weight(random, "Q5_K", (40, 256))
    net.output("y", net.linear(chosen, weight, 40))
    cache = _native.Cache(1, 1, 16, 1, 32, "f16")
    one = np.array([20], np.int32), np.zeros(1, np.int32), np.zeros((1, 1), np.int32)
    for rows in ([19, 3, 3, 0, 7], [5], [], list(range(20))):
        selected = np.array(rows, np.int32)
        found = net.step(cache, np.arange(20, dtype=np.int32), *one, selected)["y"]
        assert found.shape == (len(rows), 40)
        if rows:
            assert_sums(found, *reference.linear(x[rows], values, "Q5_K", isa))


@pytest.mark.parametrize("name", QUANTISED_TYPES)
def test_error_of_quantised_activations_is_small(isa, name):
    random = np.random.default_rng(6)
    x = random.standard_normal((7, 768), np.float32)
    net = Net(isa)
    weight, values = net.random_weight(random, name, (48, 768))
    found = net.finish({"y": (net.linear(net.input(x), weight, 48), 48)}).run(range(7))["y"]
    exact = x.astype(np.float64) @ values.T
    assert np.linalg.norm(found - exact) < 0.008 * np.linalg.norm(exact)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "Q6_K", "IQ4_NL"])
def test_extreme_codes(isa, name):
    """The largest codes of either sign, on both sides: integer sums must not saturate."""
    quant = quant_type(name)
    x = np.where(np.arange(8 * 256).reshape(8, 256) % 5 < 2, -1, 1).astype(np.float32)
    x[1], x[2] = 1, -1
    for byte in (0x00, 0x7F, 0x80, 0xFF):
        data, _ = random_weight(np.random.default_rng(7), name, (16, 256))
        blocks = data.reshape(-1, quant.type_size)
        inside = {"Q8_0": (2, 34), "Q4_K": (4, 144), "Q6_K": (0, 208), "IQ4_NL": (2, 18)}[name]
        blocks[:, slice(*inside)] = byte
        values = reference_values(blocks, quant).reshape(16, 256)
        net = Net(isa)
        weight = net.weight(name, 1, 16, 256, data)
        found = net.finish({"y": (net.linear(net.input(x), weight, 16), 16)}).run(range(8))["y"]
        assert_sums(found, *reference.linear(x, values, name, isa))


def test_a_weight_may_be_added_after_a_step():
    random = np.random.default_rng(8)
    x = activations(random, 3, 256)
    net = Net()
    source = net.input(x)
    weight, values = net.random_weight(random, "Q4_K", (16, 256))
    net.finish({"y": (net.linear(source, weight, 16), 16)})
    before = net.run(range(3))["y"]
    for _ in range(40):
        net.random_weight(random, "Q4_K", (16, 256))
    np.testing.assert_array_equal(net.run(range(3))["y"], before)
    assert_sums(before, *reference.linear(x, values, "Q4_K", net.isa))
