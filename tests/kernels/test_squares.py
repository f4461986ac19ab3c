"""The squares of weights' inputs, as Python is given them; kernels/tests has the sums."""

import numpy as np
import pytest

from .building import Net


def test_shapes_and_refusals():
    net = Net()
    random = np.random.default_rng(0)
    values = random.standard_normal((5, 32)).astype(np.float32)
    x = net.input(values)
    first, _ = net.random_weight(random, "Q8_0", (16, 32))
    net.linear(x, first, 16)
    with pytest.raises(ValueError, match="not collected"):
        net.squares(first)
    net.collect_squares()
    sums, rows = net.squares(first)
    assert (sums.shape, sums.dtype, sums.any()) == ((1, 32), np.float64, False)
    assert (rows.tolist(), rows.dtype) == ([0], np.int64)

    # a weight that comes later is collected, too
    second, _ = net.random_weight(random, "F32", (3, 8, 32))
    with pytest.raises(ValueError, match="not collected"):
        net.squares(second)
    third, _ = net.random_weight(random, "F32", (8, 32))
    net.finish({"y": (net.linear(x, third, 8), 8)}).run([0, 3, 3])
    expected = (values[[0, 3, 3]].astype(np.float64) ** 2).sum(0)
    for weight in (first, third):
        sums, rows = net.squares(weight)
        np.testing.assert_allclose(sums[0], expected, rtol=1e-12)
        assert rows.tolist() == [3]
    assert net.squares(second)[0].shape == (3, 32)
    for number in (-1, 3):
        with pytest.raises(ValueError, match="no such weight"):
            net.squares(number)
