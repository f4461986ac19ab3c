"""Equal bits: whatever the number of threads, and whichever other rows are in the batch."""

import numpy as np
import pytest

from localllm import _native

from .building import PAGE, TYPES, Net, Sequences

VOCABULARY, WIDTH, HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 50, 256, 512, 8, 2, 32


def transformer(isa, threads, types, kind="silu"):
    """Two layers, the second a mixture of experts, with every operation in use."""
    random = np.random.default_rng(1)
    inner, router = types
    net = Net(isa, threads)
    hidden = net.input(random.standard_normal((VOCABULARY, WIDTH)))
    normed = net.buffer(WIDTH)
    ones = net.vector(random.uniform(0.5, 1.5, WIDTH).astype(np.float32))
    head_norm = net.vector(random.uniform(0.5, 1.5, HEAD_DIM).astype(np.float32))
    inverse = net.vector((1e4 ** (-np.arange(HEAD_DIM // 2) * 2 / HEAD_DIM)).astype(np.float32))
    widths = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    q, k, v = map(net.buffer, widths)
    mixed = net.buffer(widths[0])
    gate, up = net.buffer(HIDDEN), net.buffer(HIDDEN)
    branch = net.buffer(WIDTH)

    def weight(name, *shape):
        return net.random_weight(random, name, shape)[0]

    for layer in range(2):
        net.norm(normed, hidden, ones, 1e-6, WIDTH)
        heads = [weight(inner, width, WIDTH) for width in widths]
        bias = net.vector(random.standard_normal(widths[2]).astype(np.float32))
        net.native.linear(normed, heads, [q, k, v], [-1, -1, bias], False)
        net.norm(q, q, head_norm, 1e-6, HEAD_DIM)
        net.norm(k, k, head_norm, 1e-6, HEAD_DIM)
        net.rope(q, inverse, HEADS, HEAD_DIM, layer == 0, 1.0)
        net.rope(k, inverse, KV_HEADS, HEAD_DIM, layer == 0, 1.0)
        window, cap = (0, 0.0) if layer else (40, 20.0)
        net.attention(mixed, q, k, v, layer, HEADS, KV_HEADS, HEAD_DIM, HEAD_DIM**-0.5, window, cap)
        net.native.linear(mixed, [weight(inner, WIDTH, WIDTH)], [hidden], [-1], True)
        net.norm(normed, hidden, ones, 1e-6, WIDTH)
        if layer == 0:
            both = [weight(inner, HIDDEN, WIDTH) for _ in range(2)]
            net.native.linear(normed, both, [gate, up], [-1, -1], False)
            net.gated_act(gate, gate, up, kind)
            net.native.linear(gate, [weight(inner, WIDTH, HIDDEN)], [branch], [-1], False)
        else:
            experts = [weight(inner, 4, HIDDEN, WIDTH) for _ in range(2)]
            down = weight(inner, 4, WIDTH, HIDDEN)
            net.moe(branch, normed, weight(router, 4, WIDTH), *experts, down, 2, True, 1.0, kind)
        net.add(hidden, hidden, branch)
    chosen, logits = net.buffer(WIDTH), net.buffer(VOCABULARY)
    net.select(chosen, hidden)
    net.norm(chosen, chosen, ones, 1e-6, WIDTH)
    net.native.linear(chosen, [weight(inner, VOCABULARY, WIDTH)], [logits], [-1], False)
    net.softcap(logits, 30.0)
    net.output("logits", logits)
    return net


def sequences(cache, count=1, seed=0):
    return Sequences(_native.Cache(2, KV_HEADS, HEAD_DIM, 24, PAGE, cache), 24, count, seed)


def tokens_of(seed, count):
    return np.random.default_rng(seed).integers(0, VOCABULARY, count).tolist()


def test_results_are_the_callers():
    net, batch = transformer("", 2, ("Q4_K", "F32")), sequences("f16")
    first = batch.step(net, [(0, tokens_of(1, 40))])["logits"]
    kept = first.copy()
    for token in range(3):
        assert not np.shares_memory(first, batch.step(net, [(0, [token])])["logits"])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(("inner", "cache"), [("Q4_K", "f16"), ("Q6_K", "int8"), ("F16", "f32")])
def test_threads(isa, inner, cache):
    results = []
    for threads in (1, 2, 3, 7):
        net = transformer(isa, threads, (inner, "F32"))
        batch = sequences(cache, 3)
        steps = [
            batch.step(net, [(0, tokens_of(1, 37)), (1, tokens_of(2, 3))])["logits"],
            batch.step(net, [(1, [5]), (0, [6]), (2, tokens_of(3, 9))])["logits"],
            batch.step(net, [(2, [7])])["logits"],
        ]
        results.append(np.concatenate(steps))
    assert np.isfinite(results[0]).all()
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def check_rows_alone(isa, inner, cache):
    """Three sequences in one batch, each alone, and token by token."""
    net = transformer(isa, 1, (inner, "F32"))
    texts = {0: tokens_of(1, 45), 1: tokens_of(2, 7), 2: tokens_of(3, 10)}
    together = sequences(cache, 3)
    first = together.step(net, list(texts.items()))["logits"]
    second = together.step(net, [(2, [1]), (1, [2, 3]), (0, [4])])["logits"]
    at = 0
    for which, text in texts.items():
        rows, at = first[at : at + len(text)], at + len(text)
        later = {0: second[3:], 1: second[1:3], 2: second[:1]}[which]
        new = {0: [4], 1: [2, 3], 2: [1]}[which]
        alone = sequences(cache, 1, seed=which + 5)
        np.testing.assert_array_equal(alone.step(net, [(0, text)])["logits"], rows)
        np.testing.assert_array_equal(alone.step(net, [(0, new)])["logits"], later)
        if len(text) > 30:
            continue  # tests of attention alone go through long texts token by token
        singly = sequences(cache, 1, seed=which + 9)
        steps = [singly.step(net, [(0, [token])])["logits"] for token in [*text, *new]]
        np.testing.assert_array_equal(np.concatenate(steps), np.concatenate([rows, later]))


@pytest.mark.parametrize("inner", TYPES)
def test_other_rows_do_not_matter(isa, inner):
    check_rows_alone(isa, inner, "f16")


@pytest.mark.parametrize("inner", ["Q8_0", "Q4_K", "F16"])
def test_other_rows_do_not_matter_to_an_int8_cache(isa, inner):
    check_rows_alone(isa, inner, "int8")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize(("inner", "cache"), [("Q4_K", "f16"), ("Q8_0", "int8"), ("F16", "f32")])
def test_values_that_are_not_numbers_stay_in_their_sequence(isa, inner, cache, bad):
    """A poisoned token ends the step as usual and changes no other sequence's rows."""
    poisoned = Net(isa)
    random = np.random.default_rng(3)
    x = random.standard_normal((10, WIDTH)).astype(np.float32)
    x[4, 77] = bad
    source = poisoned.input(x)
    weight = poisoned.random_weight(random, inner, (WIDTH, WIDTH))[0]
    out = poisoned.linear(source, weight, WIDTH)
    attended, routed = poisoned.buffer(WIDTH), poisoned.buffer(WIDTH)
    poisoned.attention(attended, source, source, source, 0, 2, 2, 128, 0.1, 0, 5.0)
    experts = [poisoned.random_weight(random, inner, (4, WIDTH, WIDTH))[0] for _ in range(3)]
    router = poisoned.random_weight(random, "Q8_0", (4, WIDTH))[0]
    poisoned.moe(routed, source, router, *experts, 2, True, 1.0, "silu")
    poisoned.softcap(source, 4.0)
    buffers = {"linear": out, "attention": attended, "moe": routed, "softcap": source}
    poisoned.finish({name: (buffer, WIDTH) for name, buffer in buffers.items()})

    def run(work):
        batch = Sequences(_native.Cache(1, 2, 128, 8, PAGE, cache), 8, 4)
        return batch.step(poisoned, work)

    found = run([(0, [0, 1]), (1, [2, 4, 3]), (2, [5])])
    healthy = run([(0, [0, 1]), (1, [2, 2, 3]), (2, [5])])
    for name in found:
        others = [0, 1, 5]  # the sequence itself may lose earlier rows too: 0 * NaN is NaN
        np.testing.assert_array_equal(found[name][others], healthy[name][others], err_msg=name)
    if not np.isfinite(bad):
        assert not np.isfinite(found["linear"][3]).all()
        assert not np.isfinite(found["moe"][3]).all()
