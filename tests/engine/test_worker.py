"""The worker's calls, between the steps of answers under way."""

import threading
import time
from concurrent.futures import CancelledError

import pytest

from localllm.engine.embedding import Embedding
from localllm.engine.worker import QueueFullError, Worker
from localllm.errors import LocalLLMError
from tests.engine.fakes import PROMPT, check_no_leak, expected_tokens, fake_engine, greedy, ids


class Blocking:
    """A call that does not return before it is let go."""

    def __init__(self, worker):
        self.release, begun = threading.Event(), threading.Event()
        self.call = worker.call(lambda: begun.set() or self.release.wait(10))
        assert begun.wait(10)


class Answers:
    """A worker, and the tokens that it delivered."""

    def __init__(self, **options):
        self.engine = fake_engine(1024, **options)
        self.tokens, self.errors, self.ended = [], [], threading.Event()
        self.worker = Worker(self.engine, self._deliver, 8)

    def _deliver(self, deliveries):
        for delivery in deliveries:
            self.tokens += delivery.tokens
            self.errors += [delivery.error] if delivery.error else []
            if delivery.error or delivery.tokens[-1].finish_reason:
                self.ended.set()


@pytest.fixture
def answers():
    made = Answers()
    yield made
    made.worker.close()
    check_no_leak(made.engine)


def test_a_call_is_run_on_the_workers_thread(answers):
    thread = answers.worker.call(threading.current_thread).result(10)
    assert thread.name == "engine"
    failed = answers.worker.call(lambda: 1 / 0)
    assert isinstance(failed.exception(10), ZeroDivisionError)
    assert answers.worker.call(lambda: 7).result(10) == 7


def test_answers_go_on_between_calls(answers):
    """With calls always waiting, an answer gets its step after each."""
    sequence = answers.engine.sequence(PROMPT, greedy(20))
    seen = []

    def note():
        seen.append(len(answers.engine.runner.batches))

    blocking = Blocking(answers.worker)
    calls = [answers.worker.call(note) for _ in range(10)]
    answers.worker.submit([sequence])
    blocking.release.set()
    assert [call.result(10) for call in calls] == [None] * 10
    assert answers.ended.wait(10)
    assert seen == list(range(10))
    assert ids(answers.tokens) == expected_tokens(PROMPT, 20)


def test_an_answer_waits_for_the_pages_of_a_text():
    answers = Answers(pages=256, page_size=4)
    embedding = Embedding(answers.engine, [[7] * 1020], "mean")
    answers.worker.call(embedding.step).result(10)
    answers.worker.submit([answers.engine.sequence(PROMPT, greedy(20))])
    assert not answers.ended.wait(0.2)
    answers.worker.call(embedding.step).result(10)
    assert answers.ended.wait(10)
    assert answers.errors == []
    assert ids(answers.tokens) == expected_tokens(PROMPT, 20)
    answers.worker.close()
    check_no_leak(answers.engine)


def test_a_call_can_be_cancelled_before_it_is_begun(answers):
    begun = threading.Event()
    blocking = Blocking(answers.worker)
    second = answers.worker.call(begun.set)
    assert second.cancel()
    blocking.release.set()
    answers.worker.call(lambda: None).result(10)
    assert not begun.is_set()
    with pytest.raises(CancelledError):
        second.result(10)


def test_close_fails_the_calls_that_wait(answers):
    blocking = Blocking(answers.worker)
    waiting = answers.worker.call(lambda: None)
    closing = threading.Thread(target=answers.worker.close)
    closing.start()
    while not answers.worker._closing:
        time.sleep(0.001)
    blocking.release.set()
    closing.join(10)
    assert blocking.call.result(10) is True
    with pytest.raises(LocalLLMError, match="stopped"):
        waiting.result(10)
    with pytest.raises(QueueFullError):
        answers.worker.call(lambda: None).result(10)
