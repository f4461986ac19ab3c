"""Drafts change how many steps an answer takes, never what it says."""

import random
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.decoding import GenerationParams
from localllm.decoding.drafting import PromptLookup, Speculation
from localllm.engine.draft_model import DraftModel
from localllm.engine.engine import Engine
from tests.engine.fakes import (
    PROMPT,
    VOCABULARY,
    FakeRunner,
    check_no_leak,
    expected_tokens,
    fake_engine,
    fake_logits,
    greedy,
    ids,
)


class Guesser:
    """Knows the greedy answer; each guess is spoilt with a probability."""

    def __init__(self, spoilt, seed=0):
        self.spoilt = spoilt
        self.random = random.Random(seed)

    def propose(self, tokens, count):
        guessed, text = [], list(tokens)
        for _ in range(count - (self.random.random() < self.spoilt)):
            text.append(int(fake_logits(text).argmax()))
            guessed.append(self.random.randrange(64))
            if self.random.random() >= self.spoilt:
                guessed[-1] = text[-1]
        return guessed


@pytest.fixture(autouse=True)
def always_draft(monkeypatch):
    """Whether drafts pay is a matter of time; here they are made whenever there is room."""
    monkeypatch.setattr(
        Speculation, "propose", lambda self, tokens, most: self.drafter.propose(tokens, most)
    )


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 1), st.integers(1, 8), st.integers(1, 40), st.integers(1, 5), st.integers(0, 9))
def test_same_answers_as_without(spoilt, page_size, budget, sequences, seed):
    engine = fake_engine(
        96, pages=-(-96 // page_size) + 3, page_size=page_size, budget=budget,
        drafter=lambda: Guesser(spoilt, seed),
    )  # fmt: skip
    prompts = [[*PROMPT[i:], i] for i in range(sequences)]
    answers = [engine.generate(prompt, greedy(40 - i)) for i, prompt in enumerate(prompts)]
    found = [[next(answer).id] for answer in answers]
    for answer, tokens in zip(answers, found, strict=True):
        tokens += ids(answer)
    wanted = [expected_tokens(prompt, 40 - i) for i, prompt in enumerate(prompts)]
    assert found == wanted
    check_no_leak(engine)


def test_right_drafts_save_steps_and_are_counted():
    engine = fake_engine(256, drafter=lambda: Guesser(0.0))
    assert ids(engine.generate(PROMPT, greedy(65))) == expected_tokens(PROMPT, 65)
    stats = engine.last_stats
    assert len(engine.runner.batches) == 1 + 4
    assert stats.generated_tokens == 65
    assert stats.drafted_tokens == stats.accepted_tokens == 60


@pytest.mark.parametrize("context", range(12, 40, 3))
def test_a_full_context_ends_at_the_same_place(context):
    params = GenerationParams(temperature=0, ignore_eos=True)
    for drafter in (None, lambda: Guesser(0.3)):
        engine = fake_engine(context, page_size=1, drafter=drafter)
        tokens = list(engine.generate(PROMPT, params))
        assert ids(tokens) == expected_tokens(PROMPT, context - len(PROMPT))
        assert (tokens[-1].finish_reason, tokens[-1].context_full) == ("length", True)
        check_no_leak(engine)


def test_an_end_token_within_the_drafts_ends_the_answer():
    for first in range(200):
        wanted = expected_tokens([first % 60, first // 60], 40)
        if 63 in wanted[2:30]:
            break
    end = wanted.index(63)
    engine = fake_engine(256, drafter=lambda: Guesser(0.0))
    params = GenerationParams(temperature=0, max_tokens=40)
    tokens = list(engine.generate([first % 60, first // 60], params))
    assert ids(tokens) == wanted[: end + 1]
    assert tokens[-1].finish_reason == "stop"
    check_no_leak(engine)


@pytest.mark.parametrize("seed", range(5))
def test_same_seed_same_draws(seed):
    params = GenerationParams(seed=seed, max_tokens=60, ignore_eos=True, repeat_penalty=1.3)
    plain = fake_engine(128)
    drafted = fake_engine(128, drafter=lambda: Guesser(0.2))
    assert ids(plain.generate(PROMPT, params)) == ids(drafted.generate(PROMPT, params))


@pytest.mark.parametrize("kv_type", ["f32", "f16", "int8"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_native_program_says_the_same_for_several_rows(kv_type, temperature):
    model = str(files("localllm") / "assets" / "tiny-chat.gguf")
    params = GenerationParams(temperature=temperature, seed=4, max_tokens=150, ignore_eos=True)
    answers = []
    for drafter in (None, PromptLookup):
        engine = Engine.load(model, context=512, threads=2, kv_type=kv_type)
        engine.drafter = drafter
        prompt = engine.tokenizer.encode("Repeat: the cat sat on the mat and the cat sat on")
        answers.append(ids(engine.generate(prompt, params)))
    assert answers[0] == answers[1]
    assert engine.last_stats.accepted_tokens > 0


def draft_model(pages):
    runner = FakeRunner(pages=pages, page_size=4)
    return runner, DraftModel(runner.step, np.arange(pages, dtype=np.int32), 4 * pages, VOCABULARY)


@pytest.mark.parametrize("step", [1, 5, 512])
def test_a_draft_model_reads_only_what_is_new(step, monkeypatch):
    monkeypatch.setattr("localllm.engine.draft_model.STEP_TOKENS", step)
    runner, model = draft_model(pages=40)
    engine = fake_engine(128, drafter=lambda: model)
    for prompt in (PROMPT, [*PROMPT[:6], 1, 2], PROMPT):
        before = sum(len(batch.tokens) for batch in runner.batches)
        assert ids(engine.generate(prompt, greedy(40))) == expected_tokens(prompt, 40)
        read = sum(len(batch.tokens) for batch in runner.batches) - before
        assert read <= len(prompt) + 40
    assert engine.last_stats.accepted_tokens == engine.last_stats.drafted_tokens > 30
    check_no_leak(engine)


def test_a_draft_model_stops_guessing_where_its_context_ends():
    _, model = draft_model(pages=4)
    engine = fake_engine(128, drafter=lambda: model)
    assert ids(engine.generate(PROMPT, greedy(40))) == expected_tokens(PROMPT, 40)
    assert engine.last_stats.accepted_tokens == 5
    assert model.propose(list(range(17)), 4) == []
    assert model.propose(list(range(30)), 4) == []
