from contextlib import closing
from importlib.resources import files
from unittest import mock

import numpy as np
import pytest

from localllm.decoding import GenerationParams, filters
from localllm.engine.engine import Engine
from localllm.errors import ContextFullError, UsageError
from tests.decoding import reference
from tests.engine.fakes import (
    EOG,
    PROMPT,
    FakeConfig,
    FakeRunner,
    check_no_leak,
    expected_tokens,
    fake_engine,
    fake_logits,
    greedy,
    ids,
)


@pytest.mark.parametrize("page_size", [1, 2, 4, 32])
@pytest.mark.parametrize("budget", [1, 3, 512])
@pytest.mark.parametrize("kv_cache", [True, False])
def test_same_answer_whatever_the_pages_and_chunks(page_size, budget, kv_cache):
    engine = fake_engine(64, page_size=page_size, budget=budget, kv_cache=kv_cache)
    assert ids(engine.generate(PROMPT, greedy(20))) == expected_tokens(PROMPT, 20)
    check_no_leak(engine)


def test_chunks_respect_the_budget_and_only_the_last_draws():
    engine = fake_engine(256, budget=16)
    prompt = [(7 * i) % 60 for i in range(50)]
    assert ids(engine.generate(prompt, greedy(3))) == expected_tokens(prompt, 3)
    batches = engine.runner.batches
    assert [len(batch.tokens) for batch in batches] == [16, 16, 16, 2, 1, 1]
    assert [len(batch.rows) for batch in batches] == [0, 0, 0, 1, 1, 1]


def test_without_the_cache_every_token_is_computed_again():
    engine = fake_engine(64, kv_cache=False)
    list(engine.generate(PROMPT, greedy(3)))
    assert [len(batch.tokens) for batch in engine.runner.batches] == [11, 12, 13]
    list(engine.generate(PROMPT, greedy(1)))
    assert engine.last_stats.cached_tokens == 0


def test_how_likely_the_tokens_were():
    engine = fake_engine(128, budget=4)
    for prompt in (PROMPT, [*PROMPT, 1, 2]):  # the second finds pages, and computes them again
        sequence = engine.sequence(prompt, greedy(5), logprobs=3, reads_prompt=True)
        found = list(engine.run(sequence))
        likely = [*sequence.prompt_logprobs, *(token.logprob for token in found)]
        assert [one.token for one in likely] == sequence.tokens[1:]
        for at, one in enumerate(likely):
            logits = fake_logits(sequence.tokens[: at + 1]).astype(np.float64)
            expected = logits - np.log(np.exp(logits).sum())
            assert one.logprob == pytest.approx(expected[one.token], abs=1e-5)
            assert [token for token, _ in one.top] == np.argsort(-expected)[:3].tolist()
    check_no_leak(engine)


def test_a_request_may_have_a_smaller_context():
    engine = fake_engine(64)
    found = list(engine.run(engine.sequence(PROMPT, greedy(50), context=20)))
    assert len(found) == 20 - len(PROMPT)
    assert found[-1].context_full
    with pytest.raises(ContextFullError, match="11 tokens long; the context holds 8"):
        engine.sequence(PROMPT, greedy(50), context=8)


def test_the_next_turn_reuses_the_pages_of_the_last():
    engine = fake_engine(256, page_size=4)
    answer = ids(engine.generate(PROMPT, greedy(9)))
    assert engine.last_stats.cached_tokens == 0
    turn = [*PROMPT, *answer, 4, 4, 4]  # 19 of its tokens were computed
    assert ids(engine.generate(turn, greedy(5))) == expected_tokens(turn, 5)
    assert engine.last_stats.cached_tokens == 16
    assert ids(engine.generate(PROMPT[:8], greedy(5))) == expected_tokens(PROMPT[:8], 5)
    assert engine.last_stats.cached_tokens == 4  # one token at least is computed
    check_no_leak(engine)


def test_max_tokens_and_length():
    engine = fake_engine()
    tokens = list(engine.generate(PROMPT, greedy(4)))
    assert [token.finish_reason for token in tokens] == [None, None, None, "length"]
    assert not tokens[-1].context_full
    assert engine.last_stats.finish_reason == "length"


def test_a_full_context_says_so():
    engine = fake_engine(16)
    tokens = list(engine.generate(PROMPT, greedy(100)))
    assert len(tokens) == 5
    assert tokens[-1].finish_reason == "length"
    assert tokens[-1].context_full
    assert engine.last_stats.context_full
    assert ids(tokens) == expected_tokens(PROMPT, 5)
    check_no_leak(engine)


@pytest.mark.parametrize("length", [16, 17, 300])
def test_a_prompt_without_room_gives_both_numbers(length):
    engine = fake_engine(16)
    with pytest.raises(ContextFullError, match=rf"{length} tokens long; the context holds 16"):
        engine.generate([1] * length, greedy(1))
    assert len(list(engine.generate([1] * 15, greedy(10)))) == 1


def test_hostile_prompts():
    engine = fake_engine()
    with pytest.raises(UsageError, match="empty"):
        engine.generate([], greedy(1))
    for token in (-1, 64, 10**12):
        with pytest.raises(UsageError, match=f"token id {token}: must be >= 0 and < 64"):
            engine.generate([1, token], greedy(1))
    with pytest.raises(UsageError, match="--logit-bias 64"):
        engine.generate([1], greedy(1, logit_bias={64: 1.0}))
    check_no_leak(engine)


def test_end_of_generation_is_a_stop_without_text():
    engine = fake_engine()
    params = GenerationParams(temperature=0, logit_bias={EOG: 100.0})
    (token,) = engine.generate(PROMPT, params)
    assert (token.id, token.text, token.finish_reason) == (EOG, "", "stop")
    assert len(list(engine.generate(PROMPT, greedy(3, logit_bias={EOG: 100.0})))) == 3


def test_text_comes_in_whole_characters():
    engine = fake_engine()
    only = GenerationParams(temperature=0, max_tokens=3, logit_bias={0: 50.0})
    tokens = list(engine.generate(PROMPT, only))  # token 0 is the first byte of two
    assert "".join(token.text for token in tokens) == "\ufffd\ufffd\ufffd"
    assert tokens[0].text == ""


def test_stop_sequences_end_the_answer_before_them():
    text = "".join(token.text for token in fake_engine().generate(PROMPT, greedy(12)))
    stop = text[5:8]
    engine = fake_engine()
    tokens = list(engine.generate(PROMPT, greedy(100, stop=("nothing", stop))))
    assert "".join(token.text for token in tokens) == text[: text.index(stop)]
    assert tokens[-1].finish_reason == "stop"
    check_no_leak(engine)


def test_held_text_is_shown_when_the_answer_ends_first():
    text = "".join(token.text for token in fake_engine().generate(PROMPT, greedy(12)))
    tokens = list(fake_engine().generate(PROMPT, greedy(12, stop=(text[-3:] + "!",))))
    assert "".join(token.text for token in tokens) == text
    assert tokens[-1].finish_reason == "length"


def test_closing_gives_the_pages_back():
    engine = fake_engine()
    with closing(engine.generate(PROMPT, greedy(50))) as answer:
        next(answer)
        assert engine._stepper.scheduler.pool.available < engine.runner.pages
    check_no_leak(engine)
    engine.generate(PROMPT, greedy(50)).close()  # never begun
    check_no_leak(engine)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"top_k": 0, "temperature": 1.5},
        {"sampler_order": "vllm", "top_p": 0.9, "temperature": 1.5},
        {"sampler_order": "transformers", "repeat_penalty": 1.2},
    ],
)
def test_tokens_are_those_of_a_sampler_that_sorts_everything(values):
    model = str(files("localllm") / "assets" / "tiny-chat.gguf")
    engine = Engine.load(model, context=256, threads=2)
    prompt = engine.tokenizer.encode("Tell me of the cat")
    for seed in range(3):
        params = GenerationParams(seed=seed, max_tokens=60, ignore_eos=True, **values)
        found = ids(engine.generate(prompt, params))
        with mock.patch.object(filters, "largest", reference.largest):
            assert ids(engine.generate(prompt, params)) == found


def test_logits_after_every_token():
    engine = fake_engine(64, page_size=4)
    text = [i % 50 for i in range(64)]
    found = np.concatenate(list(engine.logits(text, rows=10)))
    np.testing.assert_array_equal(found, [fake_logits(text[: i + 1]) for i in range(64)])
    with pytest.raises(ContextFullError):
        list(engine.logits([*text, 1]))
    check_no_leak(engine)


def test_stats_add_up():
    engine = fake_engine()
    list(engine.generate(PROMPT, greedy(10)))
    stats = engine.last_stats
    assert (stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens) == (11, 0, 10)
    assert stats.prefill_seconds > 0
    assert stats.decode_seconds > 0
    assert stats.prefill_tokens_per_second == 11 / stats.prefill_seconds
    assert stats.decode_tokens_per_second == 9 / stats.decode_seconds


def test_a_pool_smaller_than_the_context_is_refused():
    with pytest.raises(ValueError, match="do not hold"):
        Engine(FakeRunner(2, 4), None, None, FakeConfig(), context=9)
