"""Adapters in the core: every way a linear can be fused, against the sums; and bad input."""

import numpy as np
import pytest

from localllm import _native

from .building import PAGE, Net

REFUSED = (ValueError, TypeError)
ROWS = 37


class Adapted:
    """Two weights on one input, each with an adapter of its own rank, and sequences in turns.

    Args:
        isa: the instruction set.
        columns: of the weights.
        ranks: of the two adapters.
        way: "plain", "accumulate", "gated" or "normed".
        selected: whether the linear comes after a select.
    """

    def __init__(self, isa, columns, ranks, way="plain", selected=False, threads=3):
        random = np.random.default_rng([columns, *ranks])
        self.way = way
        self.x = random.standard_normal((40, columns), np.float32)
        self.before = random.standard_normal((40, ROWS), np.float32)
        self.norm = random.uniform(0.5, 1.5, columns).astype(np.float32)
        self.net = net = Net(isa, threads)
        source, out = net.input(self.x), net.input(self.before)
        if selected:
            picked = [net.buffer(columns), net.buffer(ROWS)]
            net.native.select(picked[0], source)
            net.native.select(picked[1], out)
            source, out = picked
        ids, self.weights = zip(
            *(net.random_weight(random, "F32", (ROWS, columns)) for _ in "ab"), strict=True
        )
        other = net.buffer(ROWS)
        norm = net.vector(self.norm) if way == "normed" else -1
        if way == "gated":
            net.native.linear(source, list(ids), [out, out], [-1, -1], False, act="silu")
        elif way == "accumulate":
            net.native.linear(source, [ids[0]], [out], [-1], True)
            net.native.linear(source, [ids[1]], [other], [-1], False)
        else:
            net.native.linear(source, list(ids), [out, other], [-1, -1], False, norm=norm, eps=1e-5)
        outputs = {"y": out} | ({} if way == "gated" else {"z": other})
        if selected:
            for name, buffer in outputs.items():
                net.native.output(name, buffer)
        else:
            net.finish({name: (buffer, ROWS) for name, buffer in outputs.items()})
        # the second adapter leaves the first weight alone
        self.terms = []
        for rank, which in zip(ranks, ((0, 1), (1,)), strict=True):
            a = {w: random.standard_normal((rank, columns), np.float32) for w in which}
            b = {w: random.standard_normal((ROWS, rank), np.float32) for w in which}
            number = net.native.adapter([ids[w] for w in which], list(a.values()), list(b.values()))
            assert number == len(self.terms)
            self.terms.append({w: b[w].astype(np.float64) @ a[w] for w in which})

    def step(self, lengths, adapters, rows):
        total = sum(lengths)
        return self.net.native.step(
            _native.Cache(1, 1, 16, len(lengths), PAGE, "f16"),
            np.arange(total, dtype=np.int32),
            np.array(lengths, np.int32),
            np.zeros(len(lengths), np.int32),
            np.arange(len(lengths), dtype=np.int32)[:, None],
            np.array(rows, np.int32),
            adapters=None if adapters is None else np.array(adapters, np.int32),
        )

    def expected(self, lengths, adapters, rows):
        """The same outputs in double precision."""
        owner = np.repeat(adapters, lengths)
        found = {"y": [], "z": []}
        for row in rows:
            x = self.x[row].astype(np.float64)
            if self.way == "normed":
                x = x / np.sqrt((x**2).mean() + 1e-5) * self.norm
            terms = {} if owner[row] < 0 else self.terms[owner[row]]
            y, z = (self.weights[w] @ x + terms.get(w, np.zeros((ROWS, 1)) * x) @ x for w in (0, 1))
            if self.way == "gated":
                y = y / (1 + np.exp(-np.maximum(y, -700))) * z
            found["y"].append(y + self.before[row] if self.way == "accumulate" else y)
            found["z"].append(z)
        return found


def assert_close(found, expected):
    for name, values in found.items():
        wanted = np.reshape(expected[name], (-1, ROWS))
        size = np.abs(wanted).max(initial=0)
        np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-5 * size)


@pytest.mark.parametrize("way", ["plain", "accumulate", "gated", "normed"])
@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize(("columns", "ranks"), [(33, (1, 17)), (1025, (16, 256)), (2500, (40, 3))])
def test_sums(isa, columns, ranks, way, selected):
    model = Adapted(isa, columns, ranks, way, selected)
    for lengths, adapters in (
        ([1], [0]),
        ([1, 1, 1], [1, -1, 0]),
        ([5, 9, 1, 20], [0, 0, -1, 1]),
        ([20, 20], [-1, 1]),
    ):
        rows = list(range(sum(lengths)))
        for chosen in (rows, rows[::-3], []):
            assert_close(
                model.step(lengths, adapters, chosen), model.expected(lengths, adapters, chosen)
            )


@pytest.mark.parametrize("way", ["plain", "accumulate", "gated", "normed"])
def test_neighbours_change_no_bit(isa, way):
    model = Adapted(isa, 2500, (16, 40), way)
    lengths, adapters = [9, 1, 14, 3], [0, 1, -1, 0]
    together = model.step(lengths, adapters, range(27))
    other = Adapted(isa, 2500, (16, 40), way, threads=1)
    for lone in ([0, -1, -1, -1], [-1, 1, -1, -1], [-1, -1, -1, 0], [1, 0, -1, 1]):
        found = other.step(lengths, lone, range(27))
        rows = np.repeat(np.array(lone) == adapters, lengths)
        for name, values in found.items():
            np.testing.assert_array_equal(values[rows], together[name][rows])
    plain = model.step(lengths, None, range(27))
    for name, values in plain.items():
        np.testing.assert_array_equal(values[10:24], together[name][10:24])


def test_dropped_numbers_do_not_come_back():
    model = Adapted("", 64, (4, 4))
    model.net.native.drop_adapter(0)
    for number in (0, 7, -2):
        with pytest.raises(REFUSED, match="step: no such adapter"):
            model.step([2], [number], [0])
    for number in (0, -1, 7):
        with pytest.raises(REFUSED, match="drop_adapter: no such adapter"):
            model.net.native.drop_adapter(number)
    assert model.net.native.adapter([0], [np.ones((2, 64), np.float32)], [np.ones((ROWS, 2), "f4")])
    assert_close(model.step([3], [1], range(3)), model.expected([3], [1], range(3)))
    with pytest.raises(REFUSED, match="differ in number"):
        model.step([2], [1, 1], [0])


@pytest.mark.parametrize(
    ("weights", "a", "b"),
    [
        ([], [], []),
        ([0], [], []),
        ([2], [(4, 64)], [(ROWS, 4)]),
        ([-1], [(4, 64)], [(ROWS, 4)]),
        ([9], [(4, 64)], [(ROWS, 4)]),
        ([0, 0], [(4, 64)] * 2, [(ROWS, 4)] * 2),
        ([0], [(4, 63)], [(ROWS, 4)]),
        ([0], [(4, 64)], [(ROWS + 1, 4)]),
        ([0], [(4, 64)], [(ROWS, 5)]),
        ([0], [(0, 64)], [(ROWS, 0)]),
        ([0], [(256,)], [(ROWS, 4)]),
        ([0], [(4, 64, 1)], [(ROWS, 4)]),
        ([2**40], [(4, 64)], [(ROWS, 4)]),
    ],
)
def test_adapters_that_are_refused(weights, a, b):
    model = Adapted("", 64, (4, 4))
    model.net.native.weight("F32", 1, ROWS, 64, np.zeros(ROWS * 256, np.uint8))  # read by no linear
    with pytest.raises(REFUSED):
        model.net.native.adapter(
            weights, [np.ones(s, np.float32) for s in a], [np.ones(s, np.float32) for s in b]
        )
    for kind in (np.float64, np.int32):
        with pytest.raises(REFUSED):
            model.net.native.adapter([0], [np.ones((4, 64), kind)], [np.ones((ROWS, 4), kind)])
    assert_close(model.step([3], [0], range(3)), model.expected([3], [0], range(3)))
