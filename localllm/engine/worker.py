"""Steps an engine on a thread of its own, for callers on other threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from localllm.engine.engine import Engine
from localllm.engine.pages import OutOfPagesError
from localllm.engine.sequence import Sequence, Token
from localllm.errors import LocalLLMError

T = TypeVar("T")


class QueueFullError(LocalLLMError):
    """More sequences wait than are let in; later there may be room."""


@dataclass(frozen=True)
class Delivery:
    """What one step brought a sequence: tokens, or the error that ended it."""

    sequence: Sequence
    tokens: list[Token]
    error: BaseException | None

    @property
    def last(self) -> bool:
        """Whether the sequence has ended with it."""
        return self.error is not None or self.tokens[-1].finish_reason is not None


class Worker:
    """Runs many sequences through one engine, all of them in every step.

    Args:
        engine: nobody else steps it.
        deliver: called on the worker's thread, once a step, with what it brought.
        most: sequences under way or waiting at once.
    """

    def __init__(
        self, engine: Engine, deliver: Callable[[list[Delivery]], None], most: int
    ) -> None:
        self.engine = engine
        self._deliver = deliver
        self._most = most
        self._changed = threading.Condition()
        self._orders: deque[tuple[Callable[[Sequence], None], Sequence]] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._closing = False
        self._live: dict[int, Sequence] = {}  # let in, and not ended
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, sequences: list[Sequence]) -> None:
        """Let sequences in, with their forks; their tokens are delivered from now on.

        Raises:
            QueueFullError: too many are here already; none of them was let in.
        """
        everyone = [one for sequence in sequences for one in (sequence, *sequence.forks)]
        with self._changed:
            if self._closing:
                raise QueueFullError("the server is going down")
            count = len(self._live)
            if count and count + len(everyone) > self._most:
                raise QueueFullError(f"{count} answers are under way or waiting: too many")
            self._live.update((id(one), one) for one in everyone)
            for sequence in sequences:
                self._order(self.engine.add, sequence)

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence whose tokens nobody waits for; one that has ended is left alone."""
        with self._changed:
            self._order(self._forget, sequence)

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run something on the engine between two steps, which wait for it: it should be short.

        One call is run between two steps; the others wait for the next.

        Returns:
            its result or its failure, on the worker's thread; a call that was not begun can be
            cancelled. After ``close`` calls fail.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closing:
                future.set_exception(QueueFullError("the server is going down"))
            else:
                self._calls.append((function, future))
                self._changed.notify()
        return future

    def close(self) -> None:
        """End everything under way and the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _order(self, what: Callable[[Sequence], None], sequence: Sequence) -> None:
        self._orders.append((what, sequence))
        self._changed.notify()

    def _forget(self, sequence: Sequence) -> None:
        if self._live.pop(id(sequence), None) is not None:
            self.engine.remove(sequence)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._orders or self._calls or self._closing or self.engine.busy):
                    self._changed.wait()
                while self._orders:
                    what, sequence = self._orders.popleft()
                    what(sequence)
                if self._closing:
                    break
                call = self._calls.popleft() if self._calls else None
            if call is not None:
                _answer(*call)
            if self.engine.busy:
                self._step()
                self._bring()
        for sequence in list(self._live.values()):
            sequence.error = _stopped()
            self.engine.remove(sequence)
        self._bring()
        for _, future in self._calls:
            if future.set_running_or_notify_cancel():
                future.set_exception(_stopped())

    def _step(self) -> None:
        try:
            self.engine.step()
        except OutOfPagesError:
            with self._changed:  # what holds the pages goes on with the next call
                if not (self._orders or self._calls or self._closing):
                    self._changed.wait(1)
        except Exception:
            pass  # every sequence that it ended knows why

    def _bring(self) -> None:
        """Deliver what the sequences' outboxes hold; those that ended are forgotten."""
        deliveries = []
        with self._changed:
            live = list(self._live.values())
        for sequence in live:
            if not sequence.outbox and sequence.error is None:
                continue
            tokens = list(sequence.outbox)
            sequence.outbox.clear()
            deliveries.append(Delivery(sequence, tokens, sequence.error))
            if deliveries[-1].last:
                with self._changed:
                    self._forget(sequence)
        if deliveries:
            self._deliver(deliveries)


def _answer(function: Callable[[], Any], future: Future[Any]) -> None:
    """Run a call, unless it was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)


def _stopped() -> LocalLLMError:
    return LocalLLMError("the server was stopped")
