"""Many answers at once in one engine: their pages, their turns, and steps that break off."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.decoding import GenerationParams
from localllm.engine.pace import FEWEST
from localllm.engine.pages import OutOfPagesError, Table
from localllm.errors import LocalLLMError
from tests.engine.fakes import (
    PROMPT,
    check_no_leak,
    expected_tokens,
    fake_engine,
    greedy,
    ids,
)


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
