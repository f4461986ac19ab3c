"""Whatever comes from Python: a ValueError or TypeError, never a crash, and it still runs."""

import threading

import numpy as np
import pytest

from localllm import _native

from .building import PAGE, Net, Sequences, raw

REFUSED = (ValueError, TypeError)


@pytest.fixture
def program():
    """Weight 0: 16 x 256, vector 0: 256, vector 1: 16 pairs, buffers 0..2: 256, 3: 16; table 0."""
    native = _native.Program(2)
    native.weight("F32", 1, 16, 256, np.zeros(16 * 256 * 4, np.uint8))
    native.weight("Q4_0", 2, 256, 256, np.zeros(2 * 256 * 144, np.uint8))
    native.vector(np.ones(256, np.float32))
    native.vector(np.ones(16, np.float32))
    for width in (256, 256, 256, 16):
        native.buffer(width)
    native.table("F32", 10, 256, np.zeros(10 * 1024, np.uint8))
    return native


@pytest.mark.parametrize("threads", [0, -1, 2000, 2**40, 1.5, None, "2"])
def test_threads(threads):
    with pytest.raises(REFUSED):
        _native.Program(threads)


@pytest.mark.parametrize("isa", ["nonsense", "AVX2", None, 3])
def test_isa(isa):
    with pytest.raises(REFUSED):
        _native.Program(1, isa=isa)


@pytest.mark.parametrize(
    "arguments",
    [
        ("Q4_0", 1, 16, 33, 16 * 18),
        ("Q4_K", 1, 16, 32, 16 * 144),
        ("Q4_0", 1, 16, 32, 16 * 18 - 1),
        ("Q4_0", 1, 16, 32, 16 * 18 + 18),
        ("Q4_0", 2, 16, 32, 16 * 18),
        ("Q4_0", 1, 0, 32, 0),
        ("Q4_0", 0, 16, 32, 0),
        ("Q4_0", 1, 16, 0, 0),
        ("Q4_0", 1, -16, 32, 16 * 18),
        ("Q4_0", -1, -16, 32, 16 * 18),
        ("Q4_0", 1, 2**31, 32, 16 * 18),
        ("Q4_0", 2**31 - 1, 2**31 - 1, 32, 16 * 18),
        ("Q4_0", 1, 2**63, 32, 16 * 18),
        ("F32", 1, 2**30, 2**30, 0),
        ("Q9_9", 1, 16, 32, 16 * 18),
        ("", 1, 16, 32, 16 * 18),
        (3, 1, 16, 32, 16 * 18),
    ],
    ids=str,
)
def test_weight_shapes(program, arguments):
    *shape, size = arguments
    with pytest.raises(REFUSED):
        program.weight(*shape, np.zeros(size, np.uint8))
    name, _, rows, cols = shape
    if shape[1] == 1:
        with pytest.raises(REFUSED):
            program.table(name, rows, cols, np.zeros(size, np.uint8))


@pytest.mark.parametrize(
    "data",
    [
        np.zeros(16 * 18 * 2, np.uint8)[::2],
        np.zeros((16, 18), np.uint8),
        np.zeros(16 * 18, np.int8),
        np.zeros(16 * 18, np.float32),
        np.zeros(16 * 9, np.uint16),
        None,
        [0] * (16 * 18),
    ],
    ids=lambda data: f"{type(data).__name__}-{getattr(data, 'dtype', '')}",
)
def test_weight_arrays(program, data):
    with pytest.raises(REFUSED):
        program.weight("Q4_0", 1, 16, 32, data)
    with pytest.raises(REFUSED):
        program.table("Q4_0", 16, 32, data)


@pytest.mark.parametrize(
    "data",
    [np.zeros(8), np.zeros(8, np.float16), np.zeros((2, 4), np.float32), np.zeros(9, "f4")[::2]],
    ids=lambda data: f"{data.dtype}-{data.shape}",
)
def test_vectors(program, data):
    with pytest.raises(REFUSED):
        program.vector(data)


@pytest.mark.parametrize("width", [0, -1, 1 << 24, 2**31, 2**40, 1.5])
def test_buffers(program, width):
    with pytest.raises(REFUSED):
        program.buffer(width)


BIG = 2**31 - 1
WRAPS = (2**32 + 256) // 64  # heads * 64 is 256 modulo 2^32

OPERATIONS = [
    ("embed", 3, 0, 1.0),
    ("embed", 0, 1, 1.0),
    ("embed", 0, -1, 1.0),
    ("embed", 9, 0, 1.0),
    ("embed", -1, 0, 1.0),
    ("norm", 0, 3, 0, 1e-6, 256),
    ("norm", 0, 1, 1, 1e-6, 256),
    ("norm", 0, 1, 0, 1e-6, 0),
    ("norm", 0, 1, 0, 1e-6, -256),
    ("norm", 0, 1, 0, 1e-6, 100),
    ("norm", 0, 1, -1, 1e-6, 256),
    ("norm", 0, 1, 2, 1e-6, 256),
    ("norm", 0, 4, 0, 1e-6, 256),
    ("linear", 0, [0], [1], [-1], False),
    ("linear", 3, [0], [3], [-1], False),
    ("linear", 0, [1], [1], [-1], False),
    ("linear", 0, [7], [3], [-1], False),
    ("linear", 0, [-1], [3], [-1], False),
    ("linear", 0, [0], [3], [0], False),
    ("linear", 0, [0], [3], [5], False),
    ("linear", 0, [0], [], [-1], False),
    ("linear", 0, [0, 0], [3], [-1], False),
    ("linear", 0, [], [], [], False),
    ("linear", 0, [0], [-1], [-1], False),
    ("linear", 0, 0, 3, -1, False),
    ("rope", 0, 0, 4, 64, True, 1.0),
    ("rope", 0, 5, 4, 64, True, 1.0),
    ("rope", 0, 1, 3, 64, True, 1.0),
    ("rope", 0, 1, -4, -64, True, 1.0),
    ("rope", 0, 1, 16, 16, True, 1.0),
    ("rope", 0, 1, WRAPS, 64, True, 1.0),
    ("attention", 0, 1, 2, 2, 0, 4, 4, 64, 1.0, 0, 0.0, "out of the way"),
    ("attention", 0, 0, 1, 2, 0, 4, 4, 64, 1.0, 0, 0.0),
    ("attention", 0, 1, 2, 2, 0, 4, 3, 64, 1.0, 0, 0.0),
    ("attention", 0, 1, 2, 2, 0, 4, 0, 64, 1.0, 0, 0.0),
    ("attention", 0, 1, 2, 2, 0, 4, -4, 64, 1.0, 0, 0.0),
    ("attention", 0, 1, 2, 2, 0, 32, 32, 8, 1.0, 0, 0.0),
    ("attention", 0, 1, 2, 2, 0, 4, 2, 64, 1.0, 0, 0.0),
    ("attention", 0, 1, 2, 2, -1, 4, 4, 64, 1.0, 0, 0.0),
    ("attention", 0, 1, 2, 2, BIG, 4, 4, 64, 1.0, 0, 0.0),
    ("attention", 0, 1, 2, 2, 0, WRAPS, WRAPS, 64, 1.0, 0, 0.0),
    ("attention", 0, 1, 2, 9, 0, 4, 4, 64, 1.0, 0, 0.0),
    ("gated_act", 0, 1, 3, "silu"),
    ("gated_act", 3, 1, 2, "silu"),
    ("gated_act", 0, 1, 2, "relu"),
    ("gated_act", 0, 9, 2, "silu"),
    ("add", 0, 1, 3),
    ("add", 0, 1, -1),
    ("add", 3, 1, 2),
    ("softcap", 0, 0.0),
    ("softcap", 0, -1.0),
    ("softcap", 0, float("nan")),
    ("softcap", 9, 1.0),
    ("select", 0, 0),
    ("select", 0, 3),
    ("select", 0, -2),
    ("moe", 0, 1, 0, 1, 1, 1, 2, True, 1.0, "silu"),
    ("moe", 0, 1, 1, 1, 1, 1, 2, True, 1.0, "silu"),
    ("moe", 0, 1, 0, 0, 0, 0, 2, True, 1.0, "silu"),
    ("output", "y", 0),
    ("output", "y", 99),
]


@pytest.mark.parametrize("call", OPERATIONS, ids=str)
def test_operations(program, call):
    name, *arguments = call
    with pytest.raises(REFUSED):
        getattr(program, name)(*arguments)


def test_a_buffer_and_a_name_are_one_output_at_most(program):
    program.select(1, 0)
    program.output("y", 1)
    with pytest.raises(REFUSED):
        program.output("z", 1)
    program.select(2, 0)
    with pytest.raises(REFUSED):
        program.output("y", 2)


@pytest.mark.parametrize("count", [0, -1, 2**63, 1.5])
def test_counts_of_largest(count):
    with pytest.raises(REFUSED):
        _native.largest(np.zeros(4, np.float32), count)


@pytest.mark.parametrize(
    "values",
    [np.zeros(8, np.float16), np.zeros(8, int), np.zeros((2, 4)), np.zeros(9, np.float32)[::2]],
    ids=lambda values: f"{values.dtype}-{values.shape}",
)
def test_values_of_largest(values):
    with pytest.raises(REFUSED):
        _native.largest(values, 2)


def test_largest_of_few():
    assert _native.largest(np.zeros(0, np.float32), 3).tolist() == []
    assert _native.largest(np.array([1.0, 2.0]), 2**62).tolist() == [1, 0]


def moe_arguments(**changes):
    return {"used": 2, "normalise": True, "scale": 1.0, "kind": "silu", **changes}


def test_moe_arguments(program):
    router = program.weight("F32", 1, 2, 256, np.zeros(2048, np.uint8))
    for changes in ({"used": 0}, {"used": 3}, {"used": -1}, {"kind": "relu"}):
        with pytest.raises(REFUSED):
            program.moe(0, 1, router, 1, 1, 1, **moe_arguments(**changes))
    with pytest.raises(REFUSED):
        program.moe(1, 1, router, 1, 1, 1, **moe_arguments())
    program.moe(0, 1, router, 1, 1, 1, **moe_arguments())


def test_layers_of_different_shape(program):
    program.attention(0, 1, 2, 2, 0, 4, 4, 64, 1.0, 0, 0.0)
    with pytest.raises(REFUSED):
        program.attention(0, 1, 2, 2, 1, 8, 8, 32, 1.0, 0, 0.0)


@pytest.mark.parametrize(
    "arguments",
    [
        (0, 2, 32, 4, 32, "f16"),
        (1, 0, 32, 4, 32, "f16"),
        (1, 2, 0, 4, 32, "f16"),
        (1, 2, 24, 4, 32, "f16"),
        (1, 2, 528, 4, 32, "f16"),
        (1, 2, 32, 0, 32, "f16"),
        (1, 2, 32, -4, 32, "f16"),
        (1, 2, 32, 4, 16, "f16"),
        (1, 2, 32, 4, 32, "f64"),
        (BIG, BIG, 512, BIG, 32, "f16"),
        (2**16, 2**16, 512, 2**20, 32, "f16"),
        (1, 2, 32, 2**40, 32, "f16"),
    ],
    ids=str,
)
def test_caches(arguments):
    with pytest.raises((*REFUSED, MemoryError)):
        _native.Cache(*arguments)


def test_copy_page():
    cache = _native.Cache(2, 2, 32, 4, PAGE, "f16")
    for source, target in ((0, 4), (4, 0), (-1, 0), (0, -1), (0, 2**31)):
        with pytest.raises(REFUSED):
            cache.copy_page(source, target)
    cache.copy_page(1, 1)


def attention_net():
    net = Net()
    x = net.input(np.random.default_rng(1).standard_normal((10, 64)))
    out = net.buffer(64)
    net.attention(out, x, x, x, 1, 2, 2, 32, 1.0, 0, 0.0)
    return net.finish({"y": (out, 64)})


def step_arguments(**changes):
    return {
        "cache": _native.Cache(2, 2, 32, 4, PAGE, "f16"),
        "tokens": np.array([1, 2, 3, 4, 5], np.int32),
        "lengths": np.array([2, 3], np.int32),
        "past": np.array([0, 40], np.int32),
        "tables": np.array([[0, 1], [2, 3]], np.int32),
        "rows": np.array([1, 4], np.int32),
    } | changes


def ints(*values):
    return np.array(values, np.int32)


STEPS = [
    {"tokens": ints(1, 2, 3, 4, 10)},
    {"tokens": ints(1, 2, 3, 4, -1)},
    {"tokens": ints(1, 2, 3, 4, BIG)},
    {"tokens": ints(1, 2, 3, 4)},
    {"tokens": ints(1, 2, 3, 4, 5, 6)},
    {"tokens": ints()},
    {"tokens": np.array([1, 2, 3, 4, 5])},
    {"tokens": np.array([1, 2, 3, 4, 5], np.float32)},
    {"tokens": np.zeros(10, np.int32)[::2]},
    {"tokens": np.zeros((5, 1), np.int32)},
    {"tokens": [1, 2, 3, 4, 5]},
    {"tokens": None},
    {"lengths": ints(2, 2)},
    {"lengths": ints(2, 4)},
    {"lengths": ints(5, 0)},
    {"lengths": ints(6, -1)},
    {"lengths": ints(BIG, BIG)},
    {"lengths": ints(5)},
    {"lengths": ints(1, 1, 3)},
    {"lengths": np.array([2, 3])},
    {"lengths": ints()},
    {"past": ints(0, -1)},
    {"past": ints(0, 62)},
    {"past": ints(0, BIG)},
    {"past": ints(63, 0)},
    {"past": ints(0)},
    {"past": np.array([0, 40], np.uint32)},
    {"tables": ints(0, 1, 2, 3)},
    {"tables": np.array([[0, 1], [2, 4]], np.int32)},
    {"tables": np.array([[0, 1], [-1, 3]], np.int32)},
    {"tables": np.array([[4, 1], [2, 3]], np.int32)},
    {"tables": np.array([[0], [2]], np.int32)},
    {"tables": np.array([[0, 1]], np.int32)},
    {"tables": np.zeros((2, 0), np.int32)},
    {"tables": np.array([[0, 2], [1, 3]], np.int32).T},
    {"tables": np.zeros((2, 4), np.int32)[:, ::2]},
    {"tables": np.array([[0, 1], [2, 3]])},
    {"rows": ints(5)},
    {"rows": ints(-1)},
    {"rows": ints(0, 1, 2, 3, 4, 0)},
    {"rows": np.array([1])},
    {"rows": None},
    {"cache": _native.Cache(1, 2, 32, 4, PAGE, "f16")},
    {"cache": _native.Cache(2, 1, 32, 4, PAGE, "f16")},
    {"cache": _native.Cache(2, 2, 48, 4, PAGE, "f16")},
    {"cache": _native.Cache(2, 2, 32, 3, PAGE, "f16")},
    {"cache": None},
    {"only": "x"},
    {"only": None},
]


@pytest.mark.parametrize("changes", STEPS, ids=lambda changes: str(changes)[:60])
def test_steps(changes):
    net = attention_net()
    with pytest.raises(REFUSED):
        net.step(**step_arguments(**changes))
    assert net.step(**step_arguments())["y"].shape == (2, 64)


def test_unused_pages_may_be_anything():
    net = attention_net()
    tables = np.array([[0, -1, 99], [2, 3, BIG]], np.int32)
    assert np.isfinite(net.step(**step_arguments(tables=tables))["y"]).all()


def test_an_empty_program_gives_nothing():
    net = _native.Program(2)
    assert net.step(**step_arguments()) == {}


def test_dequantize():
    out = np.zeros(32, np.float32)
    for name, data, to in [
        ("Q8_0", np.zeros(33, np.uint8), out),
        ("Q8_0", np.zeros(68, np.uint8), out),
        ("Q8_0", np.zeros(34, np.uint8), np.zeros(31, np.float32)),
        ("Q8_0", np.zeros(34, np.uint8), np.zeros(32)),
        ("Q8_0", np.zeros(34, np.uint8), np.zeros(64, np.float32)[::2]),
        ("Q8_0", np.zeros(0, np.uint8), np.zeros(0, np.float32)),
        ("IQ2_XXS", np.zeros(66, np.uint8), np.zeros(256, np.float32)),
    ]:
        with pytest.raises(REFUSED):
            _native.dequantize(name, data, to)
    frozen = np.zeros(32, np.float32)
    frozen.flags.writeable = False
    with pytest.raises(REFUSED):
        _native.dequantize("Q8_0", np.zeros(34, np.uint8), frozen)


def test_two_threads_on_one_program():
    """The second waits for the first."""
    random = np.random.default_rng(1)
    values = random.standard_normal((40, 256)).astype(np.float32)
    net = Net()
    weight, _ = net.random_weight(random, "Q4_K", (64, 256))
    net.finish({"y": (net.linear(net.input(values), weight, 64), 64)})
    wanted = {i: net.run(range(i, i + 8))["y"] for i in range(0, 32, 8)}
    wrong = []

    def work(first):
        for _ in range(25):
            if not np.array_equal(net.run(range(first, first + 8))["y"], wanted[first]):
                wrong.append(first)

    threads = [threading.Thread(target=work, args=(first,)) for first in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_sequences_survive_a_refused_step():
    net = attention_net()
    sequences = Sequences(_native.Cache(2, 2, 32, 4, PAGE, "f16"), 4, 2)
    sequences.step(net, [(0, [1, 2])])
    with pytest.raises(REFUSED):
        sequences.step(net, [(0, [99])])
    other = Sequences(_native.Cache(2, 2, 32, 4, PAGE, "f16"), 4, 2)
    other.step(net, [(0, [1, 2])])
    np.testing.assert_array_equal(
        sequences.step(net, [(0, [3])])["y"], other.step(net, [(0, [3])])["y"]
    )


def test_raw_is_bytes():
    assert raw(np.ones(2, np.float32)).tolist() == [0, 0, 128, 63] * 2
