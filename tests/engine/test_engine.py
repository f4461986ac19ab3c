from contextlib import closing, suppress
from importlib.resources import files
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.decoding import GenerationParams, filters
from localllm.engine.engine import Engine
from localllm.engine.pace import FEWEST
from localllm.engine.pages import OutOfPagesError, Table
from localllm.errors import ContextFullError, LocalLLMError, UsageError
from tests.decoding import reference
from tests.engine.fakes import (
    EOG,
    PROMPT,
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


def test_interleaved_answers_share_their_steps():
    engine = fake_engine(128)
    prompts = [PROMPT, PROMPT[::-1], [1], PROMPT[:4] + [60] * 20]
    answers = [engine.generate(prompt, greedy(15)) for prompt in prompts]
    found = [[next(answer).id] for answer in answers]
    for _ in range(14):
        for answer, tokens in zip(answers, found, strict=True):
            tokens.append(next(answer).id)
    assert found == [expected_tokens(prompt, 15) for prompt in prompts]
    assert max(len(batch.lengths) for batch in engine.runner.batches) > 1
    for answer in answers:
        answer.close()
    check_no_leak(engine)


def test_preemption_loses_nothing():
    engine = fake_engine(64, pages=16, page_size=4, budget=8)
    prompts = [[i, *PROMPT] for i in range(6)]  # 6 x 41 tokens in 64 places
    answers = [engine.generate(prompt, greedy(30)) for prompt in prompts]
    found = [[next(answer).id] for answer in answers]
    for answer, tokens in zip(answers, found, strict=True):
        tokens += ids(answer)
    assert found == [expected_tokens(prompt, 30) for prompt in prompts]
    check_no_leak(engine)


def test_the_newest_gives_way_and_the_queue_keeps_its_order():
    engine = fake_engine(64, pages=20, page_size=4)
    scheduler = engine._stepper.scheduler
    answers = [engine.generate([i] * 20, greedy(40)) for i in range(3)]
    for answer in answers:
        next(answer)
    first, second, third = scheduler.running
    order = []
    while any(sequence.stats.finish_reason is None for sequence in (first, second, third)):
        engine.step()
        # Whoever runs is older than whoever waits.
        queued = [*scheduler.running, *scheduler.waiting]
        assert queued == [one for one in (first, second, third) if one in queued]
        order += [
            one
            for one in (first, second, third)
            if one.stats.finish_reason is not None and one not in order
        ]
    assert order == [first, second, third]
    for answer in answers:
        answer.close()
    check_no_leak(engine)


def test_a_prompt_waits_where_it_would_only_be_sent_back():
    engine = fake_engine(64, pages=16, page_size=4, budget=8)
    answers = [engine.generate([i] * 40, greedy(12)) for i in (1, 2)]
    for answer in answers:
        next(answer)
    assert sum(len(batch.tokens) for batch in engine.runner.batches) == 40 + 11 + 40
    assert [len(ids(answer)) for answer in answers] == [11, 11]
    check_no_leak(engine)


def test_a_long_prompt_does_not_stop_an_answer_under_way():
    engine = fake_engine(512, pages=512, budget=16)
    answer = engine.generate(PROMPT, greedy(40))
    next(answer)
    long = engine.generate([i % 60 for i in range(200)], greedy(1))
    next(long)
    during = engine.runner.batches[1:]
    # How long a step takes is not known yet.
    assert len(during) == 200 // FEWEST
    assert all(batch.lengths.tolist() == [1, FEWEST] for batch in during)
    assert ids(answer) == expected_tokens(PROMPT, 40)[1:]
    long.close()
    check_no_leak(engine)


@pytest.mark.parametrize("when", range(24))
def test_pages_that_run_out_at_any_step_lose_nothing(when):
    engine = fake_engine(64, pages=40, page_size=4, budget=8)
    pool, held = engine._stepper.scheduler.pool, Table()
    prompts = [PROMPT, [1, *PROMPT], [*PROMPT, 2], PROMPT[:3]]
    sequences = [engine.sequence(prompt, greedy(12)) for prompt in prompts]
    for sequence in sequences:
        engine.add(sequence)
    for step in range(200):
        if step == when:
            pool.writable(held, 0, pool.available * 4)  # somebody takes all that are left
        if step == when + 4:
            pool.release(held)
        if engine.busy:
            with suppress(OutOfPagesError):
                engine.step()
    for prompt, sequence in zip(prompts, sequences, strict=True):
        assert sequence.tokens[len(prompt) :] == expected_tokens(prompt, 12)
    check_no_leak(engine)


def test_no_pages_at_all_is_an_error_and_not_a_hang():
    engine = fake_engine(16, page_size=4)
    reading = engine.logits([1] * 16, rows=8)
    next(reading)
    with pytest.raises(LocalLLMError, match="hold all pages"):
        list(engine.generate([1], greedy(1)))
    reading.close()
    assert ids(engine.generate(PROMPT, greedy(2))) == expected_tokens(PROMPT, 2)
    check_no_leak(engine)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_traffic_gives_every_caller_its_own_answer(data):
    page_size = data.draw(st.sampled_from([1, 2, 4, 8]), "page size")
    context = 32
    engine = fake_engine(
        context,
        pages=context // page_size + data.draw(st.integers(0, 10), "more pages"),
        page_size=page_size,
        budget=data.draw(st.integers(1, 40), "budget"),
        kv_cache=data.draw(st.booleans(), "cache"),
    )
    texts = st.lists(st.integers(0, 3), min_size=1, max_size=25)
    prompts = data.draw(st.lists(texts, min_size=1, max_size=6), "prompts")
    counts = [data.draw(st.integers(1, context - len(prompt))) for prompt in prompts]
    answers = [
        engine.generate(prompt, greedy(count))
        for prompt, count in zip(prompts, counts, strict=True)
    ]
    found = [[] for _ in prompts]
    alive = set(range(len(prompts)))
    while alive:
        one = data.draw(st.sampled_from(sorted(alive)), "next")
        if data.draw(st.integers(0, 30)) == 0:
            answers[one].close()
            alive.remove(one)
            counts[one] = len(found[one])
            continue
        for _ in range(data.draw(st.integers(1, 20))):
            token = next(answers[one], None)
            if token is None:
                alive.discard(one)
                break
            found[one].append(token.id)
    for prompt, count, tokens in zip(prompts, counts, found, strict=True):
        assert tokens == expected_tokens(prompt, count)
    check_no_leak(engine)


def group(engine, prompt, biases, count):
    """Answers to one prompt that each begin with another token."""
    leader, *forks = (
        engine.sequence(prompt, greedy(count, logit_bias={bias: 90.0})) for bias in biases
    )
    leader.forks = list(forks)
    engine.add(leader)
    return [leader, *forks]


def finish(engine):
    while engine.busy:
        engine.step()


@pytest.mark.parametrize("budget", [1, 4, 512])
@pytest.mark.parametrize("pages", [64, 12])
def test_answers_to_one_prompt_share_its_pages_until_they_write(budget, pages):
    engine = fake_engine(48, pages=pages, page_size=4, budget=budget)
    biases = [11, 12, 13, 14]
    answers = group(engine, PROMPT, biases, 12)
    finish(engine)
    for bias, answer in zip(biases, answers, strict=True):
        alone = engine.generate(PROMPT, greedy(12, logit_bias={bias: 90.0}))
        assert answer.tokens[len(PROMPT) :] == ids(alone)
        assert answer.stats.finish_reason == "length"
    check_no_leak(engine)


def test_the_prompt_of_many_answers_is_computed_once():
    engine = fake_engine(128)
    group(engine, PROMPT, range(10), 5)
    finish(engine)
    assert sum(len(batch.tokens) for batch in engine.runner.batches) == len(PROMPT) + 10 * 4
    assert len(engine.runner.batches) == 5


@pytest.mark.parametrize("gone", [[0], [1], [0, 1], [2, 0], [0, 1, 2]])
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4])
def test_answers_go_on_where_another_one_to_the_prompt_is_dropped(gone, steps):
    engine = fake_engine(128, budget=4)
    answers = group(engine, PROMPT, [11, 12, 13], 6)
    for _ in range(steps):
        engine.step()
    for one in gone:
        engine.remove(answers[one])
    finish(engine)
    for one, answer in enumerate(answers):
        assert (answer.stats.finish_reason == "length") == (one not in gone)
    check_no_leak(engine)


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


def test_prompts_that_begin_alike_are_computed_once_though_they_come_together():
    engine = fake_engine(128, page_size=4, budget=8)
    head = [i % 50 for i in range(40)]
    prompts = [[*head, 50 + i] for i in range(5)]
    sequences = [engine.sequence(prompt, greedy(3)) for prompt in prompts]
    for sequence in sequences:
        engine.add(sequence)
    finish(engine)
    for prompt, sequence in zip(prompts, sequences, strict=True):
        assert sequence.tokens[41:] == expected_tokens(prompt, 3)
    assert [one.stats.cached_tokens for one in sequences] == [0, 40, 40, 40, 40]
    check_no_leak(engine)


def test_a_short_prompt_does_not_wait_for_a_long_one():
    engine = fake_engine(512, pages=512, budget=16)
    long = engine.sequence([i % 60 for i in range(300)], greedy(1))
    engine.add(long)
    engine.step()
    short = engine.sequence(PROMPT, greedy(1))
    engine.add(short)
    engine.step()
    engine.step()
    assert short.stats.finish_reason == "length"
    assert long.computed > 16
    finish(engine)
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


def test_same_seed_same_text_and_company_does_not_matter():
    def answer(engine, seed):
        return ids(engine.generate(PROMPT, GenerationParams(seed=seed, max_tokens=30)))

    alone = answer(fake_engine(), 5)
    assert alone == answer(fake_engine(), 5) != answer(fake_engine(), 6)
    engine = fake_engine(budget=7)
    other = engine.generate([1, 2, 3], GenerationParams(seed=1))
    next(other)
    assert answer(engine, 5) == alone


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("boom"), MemoryError()])
def test_a_step_that_breaks_off_leaves_the_engine_usable(error):
    engine = fake_engine()
    answer, other = (engine.generate(prompt, greedy(50)) for prompt in (PROMPT, PROMPT[::-1]))
    next(answer)
    next(other)
    engine.runner.fail = error
    with pytest.raises(type(error)):
        list(answer)
    with pytest.raises(LocalLLMError if isinstance(error, KeyboardInterrupt) else type(error)):
        list(other)
    check_no_leak(engine)
    assert ids(engine.generate(PROMPT, greedy(20))) == expected_tokens(PROMPT, 20)
    assert engine.last_stats.cached_tokens == 8  # what was known still is


@pytest.mark.parametrize("name", ["writable", "register", "release", "match"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_anywhere_in_the_bookkeeping_is_survived(name, when, monkeypatch):
    for step in range(6):
        engine = fake_engine(64, page_size=2, budget=4)
        pool = engine._stepper.scheduler.pool
        method = getattr(pool, name)
        calls = []

        def interrupted(*arguments, method=method, calls=calls, step=step):
            calls.append(name)
            if len(calls) == step + 1 and when == "before":
                raise KeyboardInterrupt
            result = method(*arguments)
            if len(calls) == step + 1:
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(pool, name, interrupted)
        answer = engine.generate(PROMPT, greedy(10))
        with suppress(KeyboardInterrupt):
            list(answer)
        monkeypatch.setattr(pool, name, method)
        assert ids(engine.generate(PROMPT, greedy(20))) == expected_tokens(PROMPT, 20)
        check_no_leak(engine)


def test_useless_logits_end_their_own_sequence_only():
    engine = fake_engine()
    step = engine.runner.step

    def spoiled(batch, output):
        logits = step(batch, output)
        if len(logits) == 2 and len(engine.runner.batches) > 4:
            logits[1] = np.nan
        return logits

    engine.runner.step = spoiled
    good, bad = (engine.generate(prompt, greedy(10)) for prompt in (PROMPT, [1, 2]))
    first = [next(good).id]
    next(bad)
    with pytest.raises(LocalLLMError, match="not usable"):
        list(bad)
    assert first + ids(good) == expected_tokens(PROMPT, 10)
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
        Engine(FakeRunner(2, 4), None, None, None, context=9)
