"""Attention on the paged cache: shapes, windows, caps, batches, the same answer in any order."""

import numpy as np
import pytest

from localllm import _native

from . import reference
from .building import PAGE, Net, Sequences

VOCABULARY = 64
CACHES = ["f32", "f16", "int8"]
TOLERANCE = {"f32": 1e-5, "f16": 1e-5, "int8": 5e-4}  # the weights of values in bytes have 14 bits


class Layer:
    """One attention layer whose q, k and v are functions of the token alone."""

    def __init__(self, heads, kv_heads, head_dim, *, isa="", threads=1, cache="f16", **options):
        random = np.random.default_rng([heads, kv_heads, head_dim])
        self.shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
        self.options = {"scale": head_dim**-0.5, "window": 0, "softcap": 0.0, **options}
        self.kind = cache
        widths = heads * head_dim, kv_heads * head_dim, kv_heads * head_dim
        self.tables = [
            random.standard_normal((VOCABULARY, width)).astype(np.float32) for width in widths
        ]
        self.net = Net(isa, threads)
        q, k, v = map(self.net.input, self.tables)
        out = self.net.buffer(widths[0])
        self.net.attention(out, q, k, v, 0, **self.shape, **self.options)
        self.net.finish({"y": (out, widths[0])})

    def sequences(self, count=1, pages=24, seed=0):
        shape = self.shape["kv_heads"], self.shape["head_dim"]
        cache = _native.Cache(1, *shape, pages, PAGE, self.kind)
        return Sequences(cache, pages, count, seed)

    def expected(self, tokens, new):
        """The last `new` rows of a sequence."""
        q, k, v = (table[tokens] for table in self.tables)
        past = len(tokens) - new
        return reference.attention(
            q[past:], k, v, past, **self.shape, **self.options, cache=self.kind
        )

    def check(self, sequences, work, tolerance=None):
        found = sequences.step(self.net, work)["y"]
        expected = [self.expected(sequences.tokens[which], len(new)) for which, new in work]
        tolerance = tolerance or TOLERANCE[self.kind]
        np.testing.assert_allclose(found, np.concatenate(expected), rtol=0, atol=tolerance)
        return found


def tokens_of(seed, count):
    return np.random.default_rng(seed).integers(0, VOCABULARY, count).tolist()


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"),
    [(4, 4, 16), (6, 2, 32), (8, 1, 48), (5, 1, 80), (4, 2, 256), (9, 3, 112)],
)
def test_shapes(isa, cache, heads, kv_heads, head_dim):
    layer = Layer(heads, kv_heads, head_dim, isa=isa, cache=cache)
    sequences = layer.sequences(3)
    layer.check(sequences, [(0, tokens_of(1, 1))])
    layer.check(sequences, [(1, tokens_of(2, 45)), (0, tokens_of(3, 2)), (2, tokens_of(4, 1))])
    for seed in range(5, 9):
        layer.check(
            sequences, [(which, tokens_of(seed * 3 + which, 1 + which)) for which in (2, 0, 1)]
        )
    layer.check(sequences, [(0, tokens_of(40, 70)), (2, tokens_of(41, 13))])


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("window", [1, 3, 31, 32, 33, 100])
def test_window(isa, cache, window):
    layer = Layer(4, 2, 32, isa=isa, cache=cache, window=window)
    sequences = layer.sequences(2)
    layer.check(sequences, [(0, tokens_of(1, 90)), (1, tokens_of(2, 5))])
    for i in range(6):
        layer.check(sequences, [(0, tokens_of(10 + i, 1)), (1, tokens_of(20 + i, 3))])


def test_pages_before_the_window_are_not_read(isa):
    """Their entries in the table may name any page."""
    layer = Layer(4, 2, 32, isa=isa, window=40)
    sequences = layer.sequences(1)
    layer.check(sequences, [(0, tokens_of(1, 110))])
    sequences.tables[0, :2] = sequences.tables[0, 3]
    layer.check(sequences, [(0, tokens_of(2, 1))])


@pytest.mark.parametrize("cache", CACHES)
def test_softcap_and_scale(isa, cache):
    layer = Layer(4, 2, 32, isa=isa, cache=cache, softcap=2.0, scale=0.7)
    sequences = layer.sequences(2)
    layer.check(sequences, [(0, tokens_of(1, 40)), (1, tokens_of(2, 3))])
    layer.check(sequences, [(1, tokens_of(3, 1)), (0, tokens_of(4, 1))])


@pytest.mark.parametrize("cache", CACHES)
def test_large_scores(isa, cache):
    """Scores far apart: the largest wins, nothing overflows."""
    layer = Layer(4, 2, 32, isa=isa, cache=cache, scale=60.0)
    sequences = layer.sequences(1)
    layer.check(sequences, [(0, tokens_of(1, 100))], tolerance=2e-3)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_what_is_not_a_number_stays_so(isa, cache, softcap):
    """In the rows and heads that see it, and in no other."""
    tokens = [1, 2, 3, 5, 4]
    layer = Layer(4, 2, 32, isa=isa, cache=cache, softcap=softcap)
    whole = layer.sequences(1).step(layer.net, [(0, tokens)])["y"].reshape(5, 4, 32)
    for which, (rows, heads) in enumerate([(slice(3, 4), slice(1)), (slice(3, 5), slice(2))]):
        layer = Layer(4, 2, 32, isa=isa, cache=cache, softcap=softcap)
        layer.tables[which][5, 0] = np.nan  # the table is read in place: query or key of one head
        found = layer.sequences(1).step(layer.net, [(0, tokens)])["y"].reshape(5, 4, 32)
        expected = whole.copy()
        expected[rows, heads] = np.nan
        np.testing.assert_array_equal(found, expected)


def test_f16_cache_holds_the_largest_half_for_what_is_larger(isa):
    layer = Layer(4, 2, 32, isa=isa, scale=1e-6)
    for table in layer.tables[1:]:
        table[3, ::2] = 1e6
        table[5, 1::3] = -np.inf
    found = layer.sequences(1).step(layer.net, [(0, [1, 3, 2, 5])])["y"]
    np.testing.assert_allclose(found, layer.expected([1, 3, 2, 5], 4), rtol=1e-5)


def test_int8_stays_near_f16(isa):
    results = []
    for cache in ("f16", "int8"):
        layer = Layer(8, 2, 64, isa=isa, cache=cache)
        results.append(layer.check(layer.sequences(1), [(0, tokens_of(1, 120))]))
    wanted, found = results
    assert np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(wanted)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("options", [{}, {"window": 37}, {"softcap": 3.0}])
def test_chunks_equal_one_prefill_to_the_bit(isa, cache, options):
    layer = Layer(6, 2, 32, isa=isa, cache=cache, **options)
    tokens = tokens_of(1, 131)
    whole = layer.sequences(1).step(layer.net, [(0, tokens)])["y"]
    for chunks in ([1] * 131, [64, 64, 3], [31, 1, 1, 33, 65], [130, 1]):
        sequences = layer.sequences(1, seed=2)
        done, parts = 0, []
        for length in chunks:
            parts.append(sequences.step(layer.net, [(0, tokens[done : done + length])])["y"])
            done += length
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("options", [{}, {"window": 300}])
def test_long_histories_do_not_depend_on_how_they_are_cut(isa, cache, options):
    """Alone the last rows are cut into splits for several threads; among many rows they are not."""
    tokens = tokens_of(1, 1100)
    expected = None
    for threads, chunks in [(1, [1100]), (3, [1097, 1, 2]), (7, [600, 499, 1]), (2, [1096, 4])]:
        layer = Layer(6, 2, 32, isa=isa, threads=threads, cache=cache, **options)
        sequences = layer.sequences(2, pages=80)
        done, parts = 0, []
        for length in chunks:
            work = [(0, tokens[done : done + length])]
            if threads == 7:  # beside another sequence
                work.append((1, tokens[:length]))
            parts.append(sequences.step(layer.net, work)["y"][:length])
            done += length
        found = np.concatenate(parts)
        if expected is None:
            expected = found
            wanted = layer.expected(tokens, 1100)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE[cache])
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("cache", CACHES)
def test_copied_page_continues_alike_and_apart(cache):
    layers = 3
    random = np.random.default_rng(5)
    net = Net()
    tables = [random.standard_normal((VOCABULARY, 64)).astype(np.float32) for _ in range(3)]
    q, k, v = map(net.input, tables)
    outs = [net.buffer(64) for _ in range(layers)]
    for layer, out in enumerate(outs):
        net.attention(out, q, k, v, layer, 2, 2, 32, 0.2, 0, 0.0)
    net.finish({str(layer): (out, 64) for layer, out in enumerate(outs)})
    sequences = Sequences(_native.Cache(layers, 2, 32, 8, PAGE, cache), 8, 2)
    sequences.step(net, [(0, tokens_of(1, 50))])
    # the second sequence shares the first page and has its own copy of the second
    sequences.tables[1, 0] = sequences.tables[0, 0]
    sequences.cache.copy_page(int(sequences.tables[0, 1]), int(sequences.tables[1, 1]))
    sequences.tokens[1] = list(sequences.tokens[0])
    found = sequences.step(net, [(0, [7]), (1, [7])])
    for rows in found.values():
        np.testing.assert_array_equal(rows[0], rows[1])
    sequences.step(net, [(1, [1, 2, 3])])
    alone = Sequences(_native.Cache(layers, 2, 32, 8, PAGE, cache), 8, 2)
    alone.step(net, [(0, [*tokens_of(1, 50), 7])])
    expected = alone.step(net, [(0, [9])])
    found = sequences.step(net, [(0, [9])])
    for layer in found:
        np.testing.assert_array_equal(found[layer], expected[layer])


def test_stale_pages_do_not_matter(isa):
    """A reused page still holds another sequence's tokens behind the new ones."""
    layer = Layer(4, 2, 32, isa=isa)
    fresh = layer.sequences(1).step(layer.net, [(0, tokens_of(1, 5))])["y"]
    used = layer.sequences(1)
    used.step(layer.net, [(0, tokens_of(2, 120))])
    used.tokens = [[]]
    np.testing.assert_array_equal(used.step(layer.net, [(0, tokens_of(1, 5))])["y"], fresh)
