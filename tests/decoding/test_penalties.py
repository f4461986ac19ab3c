import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.decoding import GenerationParams
from localllm.decoding.penalties import History, frequency_and_presence, repetition
from tests.decoding import reference


def test_repetition_divides_positive_and_multiplies_negative_logits():
    logits = np.array([2.0, -2.0, 0.0, 4.0], np.float32)
    repetition(logits, np.array([0, 1, 2]), 2.0)
    assert logits.tolist() == [1.0, -4.0, 0.0, 4.0]


def test_frequency_counts_and_presence_does_not():
    logits = np.zeros(4, np.float32)
    frequency_and_presence(logits, np.array([1, 2]), np.array([1, 3]), 0.5, 0.25)
    assert logits.tolist() == [0.0, -0.75, -1.75, 0.0]


def history(prompt, generated, **values):
    params = GenerationParams(**values).resolved()
    found = History(params, prompt)
    for token in generated:
        found.accept(token)
    logits = np.linspace(-3, 3, 40).astype(np.float32)
    expected = reference.penalised(logits, params, list(prompt), list(generated))
    found.apply(logits)
    return logits, expected


@given(
    prompt=st.lists(st.integers(0, 39), max_size=150),
    generated=st.lists(st.integers(0, 39), max_size=150),
    order=st.sampled_from(["llamacpp", "transformers", "vllm"]),
    last=st.one_of(st.none(), st.integers(-1, 100)),
    repeat=st.floats(0.5, 2.0),
    frequency=st.floats(-2, 2),
    presence=st.floats(-2, 2),
)
@settings(max_examples=200, deadline=None)
def test_penalties_are_their_definition(
    prompt, generated, order, last, repeat, frequency, presence
):
    found, expected = history(
        prompt,
        generated,
        sampler_order=order,
        repeat_last_n=last,
        repeat_penalty=repeat,
        frequency_penalty=frequency,
        presence_penalty=presence,
        logit_bias={0: 5.0, 39: -7.0},
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_llamacpp_looks_back_64_tokens_and_transformers_at_everything():
    prompt = [1] + [2] * 64
    for order, touched in (("llamacpp", {2}), ("transformers", {1, 2}), ("vllm", {1, 2})):
        found, _ = history(prompt, [], sampler_order=order, repeat_penalty=2.0)
        changed = np.flatnonzero(found != np.linspace(-3, 3, 40).astype(np.float32))
        assert set(changed.tolist()) == touched


@pytest.mark.parametrize("values", [{}, {"repeat_penalty": 1.5, "repeat_last_n": 0}])
def test_nothing_asked_for_is_nothing_done(values):
    params = GenerationParams(**values).resolved()
    assert not History(params, [1, 2, 3]).active
