import time
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.decoding import GenerationParams, Sampler, filters
from localllm.decoding.filters import Candidates, draw, largest, top_p
from localllm.errors import LocalLLMError, UsageError
from tests.decoding import reference


def random_logits(seed, size=1000, scale=3.0):
    return (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)


def distribution(params, logits, prompt=(), generated=()):
    """What a sampler draws from, over the whole vocabulary."""
    sampler = Sampler(params, len(logits), prompt)
    for token in generated:
        sampler.accept(token)
    row = logits.copy()
    sampler._history.apply(row)
    candidates = sampler.filter(row)
    result = np.zeros(len(logits))
    weights = candidates.weights()
    result[slice(None) if candidates.ids is None else candidates.ids] = weights / weights.sum()
    return result


SETTINGS = [
    {},
    {"top_k": 1},
    {"top_k": 5, "top_p": 1.0, "min_p": 0.0},
    {"top_k": 0, "top_p": 0.5, "min_p": 0.0},
    {"top_k": 0, "top_p": 0.9999, "min_p": 0.0},
    {"top_k": 0, "top_p": 1.0, "min_p": 0.2},
    {"top_k": 0, "top_p": 1.0, "min_p": 1.0},
    {"top_k": 0, "top_p": 1.0, "min_p": 0.0},
    {"top_k": 900, "top_p": 0.7, "min_p": 0.01},
    {"top_k": 100, "top_p": 0.7, "min_p": 0.1, "temperature": 2.5},
    {"top_k": 30, "top_p": 0.6, "min_p": 0.01, "temperature": 0.3},
    {"top_k": 0, "top_p": 0.6, "min_p": 0.01, "temperature": 1.7},
    {"repeat_penalty": 1.3, "frequency_penalty": 0.7, "presence_penalty": -0.4},
    {"logit_bias": {3: 50.0, 5: -100.0, 7: 49.0}, "repeat_penalty": 1.1},
]


@pytest.mark.parametrize("order", ["llamacpp", "transformers", "vllm"])
@pytest.mark.parametrize("values", SETTINGS)
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_the_chain_is_its_definition(order, values, scale):
    params = GenerationParams(sampler_order=order, **values)
    prompt = list(range(0, 300, 3))
    generated = [3, 7, 7, 7, 11, 999]
    for seed in range(3):
        logits = random_logits(seed, scale=scale)
        found = distribution(params, logits, prompt, generated)
        expected = reference.probabilities(logits, params.resolved(), prompt, generated)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 400),
    order=st.sampled_from(["llamacpp", "transformers", "vllm"]),
    top_k=st.integers(0, 450),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0.0, 1.0),
    temperature=st.floats(0.05, 5.0),
)
@settings(max_examples=300, deadline=None)
def test_any_parameters_match_the_definition(seed, size, order, top_k, top_p, min_p, temperature):
    params = GenerationParams(
        sampler_order=order, top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature
    )
    logits = random_logits(seed, size)
    expected = reference.probabilities(logits, params.resolved())
    # A token at the very edge of a filter may fall on either side of it by rounding.
    difference = np.abs(distribution(params, logits) - expected).sum()
    kept = np.count_nonzero(expected)
    found = np.count_nonzero(distribution(params, logits))
    assert difference < 1e-5 or abs(kept - found) == 1


def test_orders_differ_where_their_programs_do():
    logits = random_logits(1)
    values = {"top_k": 50, "top_p": 0.8, "min_p": 0.05, "temperature": 3.0}
    kept = {
        order: np.count_nonzero(
            distribution(GenerationParams(sampler_order=order, **values), logits)
        )
        for order in ("llamacpp", "transformers", "vllm")
    }
    assert kept["llamacpp"] < kept["transformers"]  # filters see the sharper distribution
    assert kept["vllm"] <= kept["transformers"]  # min-p first: top-p sees a smaller whole


@pytest.mark.parametrize("k", [1, 2, 40, 1000, 5000, 128_256])
def test_largest_is_the_head_of_a_full_sort(k):
    logits = random_logits(5, 128_256)
    logits[::1000] = logits[7]  # ties
    expected = np.argsort(-logits, kind="stable")[:k]
    np.testing.assert_array_equal(largest(logits, k), expected)


HARD = [0.0, -0.0, 1.0, 1.0 + 2**-23, -3.0, 50.0, -np.inf]
USELESS = [np.inf, np.nan, -np.nan]


@st.composite
def rows(draw):
    """float32[n]: random, with many equal ones, or of hard values, and maybe useless ones."""
    size = draw(st.sampled_from([1, 7, 63, 64, 65, 700, 3000]))
    row = random_logits(draw(st.integers(0, 2**32 - 1)), size, draw(st.sampled_from([0.1, 3, 10])))
    kind = draw(st.sampled_from(["random", "rounded", "sorted", "reversed", "hard", "equal"]))
    if kind == "rounded":
        row = np.round(row)
    elif kind in ("sorted", "reversed"):
        row = np.sort(row)[:: 1 if kind == "sorted" else -1]
    elif kind == "hard":
        row = np.array(HARD, np.float32)[np.abs(row.astype(int)) % len(HARD)]
    elif kind == "equal":
        row[:] = row[0]
    for value in draw(st.lists(st.sampled_from([*HARD, *USELESS]), max_size=3)):
        row[draw(st.integers(0, size - 1))] = value
    return np.ascontiguousarray(row, np.float32)


@given(row=rows(), k=st.integers(1, 4000), dtype=st.sampled_from([np.float32, np.float64]))
@settings(max_examples=500, deadline=None)
def test_largest_is_its_definition(row, k, dtype):
    row = row.astype(dtype)
    np.testing.assert_array_equal(largest(row, k), reference.largest(row, k))


@given(
    row=rows(),
    order=st.sampled_from(["llamacpp", "transformers", "vllm"]),
    top_k=st.sampled_from([0, 1, 2, 40, 64, 1000, 5000]),
    top_p=st.sampled_from([0.1, 0.95, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    repeat_penalty=st.sampled_from([1.0, 1.3]),
)
@settings(max_examples=500, deadline=None)
def test_tokens_are_those_of_a_full_sort(row, order, **values):
    def tokens():
        params = GenerationParams(seed=5, sampler_order=order, **values)
        sampler = Sampler(params, len(row), [0])
        found = []
        for _ in range(4):
            try:
                found.append(sampler.sample(row))
            except LocalLLMError as error:
                found.append(str(error).startswith("the model's logits are not usable"))
                continue
            sampler.accept(found[-1])
        return found, sampler._random.random()

    with mock.patch.object(filters, "largest", reference.largest):
        expected = tokens()
    assert tokens() == expected


def test_all_equal_logits_are_sampled_evenly():
    params = GenerationParams(sampler_order="vllm", seed=3)
    sampler = Sampler(params, 10)
    counts = np.bincount([sampler.sample(np.zeros(10, np.float32)) for _ in range(5000)])
    assert counts.min() > 400


@pytest.mark.parametrize(
    "values",
    [
        {"sampler_order": "vllm"},
        {"sampler_order": "vllm", "temperature": 0.5},
        {"sampler_order": "llamacpp"},
        {"sampler_order": "transformers", "top_p": 0.9},
    ],
)
def test_frequencies_are_the_probabilities(values):
    logits = random_logits(9, 60, scale=1.5)
    params = GenerationParams(seed=1, **values)
    expected = reference.probabilities(logits, params.resolved())
    sampler = Sampler(params, 60)
    draws = 20_000
    counts = np.bincount([sampler.sample(logits) for _ in range(draws)], minlength=60)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert chi_square_is_likely(counts, draws * expected)


def chi_square_is_likely(counts, expected):
    rare = expected < 10  # too few for the test: one cell together
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], max(expected[rare].sum(), 1e-9))
    chi_square = ((counts - expected) ** 2 / expected).sum()
    degrees = len(counts) - 1
    return chi_square < degrees + 4 * np.sqrt(2 * degrees)


def test_same_seed_same_tokens_and_another_seed_others():
    def tokens(seed):
        sampler = Sampler(GenerationParams(seed=seed, temperature=2.0), 500)
        return [sampler.sample(random_logits(step, 500)) for step in range(50)]

    assert tokens(7) == tokens(7)
    assert tokens(7) != tokens(8)
    assert tokens(None) != tokens(None)


def test_the_seeded_stream_never_changes():
    """A change here changes every text that was ever made with a seed: say so in the notes."""
    sampler = Sampler(GenerationParams(seed=42), 1000)
    logits = random_logits(0, 1000, scale=1.0)
    found = [sampler.sample(logits) for _ in range(8)]
    generator = np.random.Generator(np.random.PCG64(42))
    p = reference.probabilities(logits, sampler.params)
    order = np.argsort(-p, kind="stable")
    quantiles = np.cumsum(p[order])
    assert found == [int(order[np.searchsorted(quantiles, generator.random())]) for _ in range(8)]


@pytest.mark.parametrize("values", [{"temperature": 0}, {"strategy": "greedy"}])
def test_greedy_is_the_likeliest_after_bias_and_penalties(values):
    logits = np.array([1.0, 3.0, 2.0, 2.0], np.float32)
    assert Sampler(GenerationParams(**values), 4).sample(logits) == 1
    assert Sampler(GenerationParams(logit_bias={3: 5.0}, **values), 4).sample(logits) == 3
    assert Sampler(GenerationParams(repeat_penalty=2.0, **values), 4, [1]).sample(logits) == 2
    sampler = Sampler(GenerationParams(frequency_penalty=2, **values), 4, [1, 1, 1])
    assert sampler.sample(logits) == 1  # the prompt does not count
    sampler.accept(1)
    assert sampler.sample(logits) == 2


def test_a_vanishing_temperature_is_greedy():
    logits = random_logits(2)
    for temperature in (1e-30, 5e-324):
        for order in ("llamacpp", "transformers", "vllm"):
            params = GenerationParams(temperature=temperature, sampler_order=order)
            assert Sampler(params, 1000).sample(logits) == logits.argmax()


def test_the_logits_given_are_left_alone():
    logits = random_logits(3)
    before = logits.copy()
    logits.flags.writeable = False
    params = GenerationParams(repeat_penalty=1.5, logit_bias={1: 3.0}, temperature=0.5)
    Sampler(params, 1000, [1, 2, 3]).sample(logits)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("values", [{}, {"temperature": 0}, {"sampler_order": "vllm"}])
@pytest.mark.parametrize(
    "logits",
    [
        np.full(10, -np.inf),
        np.full(10, np.nan),
        np.array([0.0] * 9 + [np.nan]),
        np.array([0.0] * 9 + [np.inf]),
    ],
)
def test_useless_logits_are_one_clear_error(values, logits):
    sampler = Sampler(GenerationParams(**values), 10)
    with pytest.raises(LocalLLMError, match="logits are not usable"):
        sampler.sample(logits.astype(np.float32))


@pytest.mark.parametrize("shape", [(9,), (1, 10), ()])
def test_logits_of_another_shape_are_one_clear_error(shape):
    with pytest.raises(LocalLLMError, match="shape"):
        Sampler(GenerationParams(), 10).sample(np.zeros(shape, np.float32))


def test_logits_may_hold_minus_infinity():
    logits = np.full(100, -np.inf, np.float32)
    logits[40] = -5.0
    for order in ("llamacpp", "transformers", "vllm"):
        for values in ({}, {"top_p": 0.5, "top_k": 0}, {"min_p": 0.5, "top_k": 0}):
            params = GenerationParams(sampler_order=order, **values)
            assert Sampler(params, 100).sample(logits) == 40


def test_padding_beyond_the_vocabulary_is_never_drawn():
    logits = np.zeros(64, np.float32)
    logits[60:] = 100
    assert Sampler(GenerationParams(), 60).sample(logits) < 60
    assert Sampler(GenerationParams(temperature=0), 60).sample(logits) == 0


def test_bias_outside_the_vocabulary_is_refused():
    with pytest.raises(UsageError, match="--logit-bias 60: the token id must be >= 0 and < 60"):
        Sampler(GenerationParams(logit_bias={60: 1.0}), 60)


def test_draw_stays_within_what_is_possible():
    logits = np.array([-np.inf, 0.0, 1.0, -np.inf], np.float32)
    assert draw(Candidates(None, logits), 0.0) == 1
    assert draw(Candidates(None, logits), np.nextafter(1.0, 0.0)) == 2
    assert draw(Candidates(None, logits), 1.0) == 2  # what a rounded product would ask for


def test_draw_is_the_quantile_of_a_long_distribution():
    logits = random_logits(6, 5000)
    quantiles = np.cumsum(reference.softmax(logits.astype(np.float64)))
    for uniform in np.random.default_rng(0).random(300):
        found = draw(Candidates(None, logits), uniform)
        assert quantiles[found] > uniform - 1e-12
        assert quantiles[found - 1] < uniform + 1e-12 or found == 0
    lone = np.full(5000, -np.inf, np.float32)
    lone[[700, 3000]] = 0
    assert draw(Candidates(None, lone), 0.0) == 700
    assert draw(Candidates(None, lone), 0.5) == 3000
    assert draw(Candidates(None, lone), 1.0) == 3000


def test_top_p_finds_a_long_prefix_without_top_k():
    logits = np.linspace(0.1, 0, 5000).astype(np.float32)
    kept = top_p(Candidates(None, logits), 0.99)
    assert len(kept.logits) == np.count_nonzero(reference.top_p(logits.astype(float), 0.99) > -1)


@pytest.mark.slow
@pytest.mark.parametrize(("values", "limit"), [({}, 1.5e-3), ({"temperature": 0}, 0.4e-3)])
def test_sampling_from_a_large_vocabulary_is_fast(values, limit):
    logits = random_logits(0, 128_256)
    sampler = Sampler(GenerationParams(**values), 128_256, range(1000))
    took = []
    for _ in range(50):
        start = time.perf_counter()
        sampler.accept(sampler.sample(logits))
        took.append(time.perf_counter() - start)
    assert min(took) < limit
