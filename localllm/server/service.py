"""One model as the server's routes use it: requests in, tokens out, on the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from localllm.chat.reasoning import TAGS
from localllm.chat.session import ChatSession
from localllm.chat.tools import ToolUse
from localllm.decoding.constraint import Constraint, ConstraintCompiler
from localllm.decoding.params import GenerationParams
from localllm.engine.embedding import Embedding
from localllm.engine.engine import Engine
from localllm.engine.machine import processors
from localllm.engine.pages import OutOfPagesError
from localllm.engine.runner import Rows
from localllm.engine.sequence import Sequence, Token
from localllm.engine.worker import Delivery, QueueFullError, Worker
from localllm.server.errors import ApiError, as_api_error
from localllm.server.metrics import AnswerMetrics
from localllm.server.records import current_record

T = TypeVar("T")

MOST_ANSWERS = 256  # under way or waiting at once
MOST_EMBEDDINGS = 64  # requests under way at once
TURN_SECONDS = 0.01  # that a step may wait for the last one's tokens to be sent


class Answers:
    """The answers to one request, before and while they are made.

    Attributes:
        leaders: one a prompt, in the order of the prompts: the first answer to it.
        sequences: one an answer: each leader, and its forks after it.
        inbox: what the steps brought them.
    """

    def __init__(self, service: Service, leaders: list[Sequence]) -> None:
        self.leaders = leaders
        self.sequences = [one for first in leaders for one in (first, *first.forks)]
        self.inbox: asyncio.Queue[Delivery] = asyncio.Queue()
        self._service = service

    def begin(self) -> None:
        """Let them be made.

        Raises:
            QueueFullError: too many requests are here already; none was begun.
        """
        self._service.begin(self)

    async def tokens(self) -> AsyncGenerator[tuple[int, Token], None]:
        """The tokens of all answers as they come, each with the index of its answer.

        Raises:
            ApiError: an answer broke off; the others are ended.
        """
        index = {id(sequence): at for at, sequence in enumerate(self.sequences)}
        try:
            unfinished = len(index)
            while unfinished:
                delivery = await self.inbox.get()
                if delivery.error is not None:
                    raise as_api_error(delivery.error) from delivery.error
                for token in delivery.tokens:
                    unfinished -= token.finish_reason is not None
                    yield index[id(delivery.sequence)], token
        finally:
            self.close()

    def close(self) -> None:
        """End the answers that are still made."""
        for sequence in self.sequences:
            self._service.cancel(sequence)


class Service:
    """A loaded model that many requests share.

    Args:
        name: what clients call it.
        engine: nobody else may step it.
        recommended: generation parameters where a request leaves them open.
        metrics: told what becomes of the answers.
        most_tokens: that the answers to one request may have together; None: no limit.
        system: the system prompt of conversations that have none; empty: none.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        recommended: dict[str, Any],
        metrics: AnswerMetrics,
        most_tokens: int | None = None,
        system: str = "",
    ) -> None:
        self.name = name
        self._system = system
        self.engine = engine
        self.recommended = recommended
        self.session = ChatSession(engine)
        self.tools = ToolUse(self.session.template)
        self.compiler = ConstraintCompiler(engine.tokenizer)
        # Answers are taken apart by these.
        tags = (tag for pair in TAGS for tag in pair)
        self.shown = engine.tokenizer.control_ids((*self.tools.format.tags, *tags))
        self._metrics = metrics
        self._most_tokens = most_tokens
        self._loop = asyncio.get_running_loop()
        # Where every processor computes, what is sent beside a step holds up one thread of it, and
        # with that all others: there a step's tokens are sent before the next step begins.
        self._takes_turns = engine.threads >= processors()
        self._sent = threading.Event()
        self._inboxes: dict[int, asyncio.Queue[Delivery]] = {}  # by the id of a sequence under way
        self._embedding = 0  # requests under way
        self._worker = Worker(engine, self._from_worker, MOST_ANSWERS)

    def led(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The conversation with this model's system prompt, where it has none of its own."""
        if not self._system or any(m["role"] in ("system", "developer") for m in messages):
            return messages
        return [{"role": "system", "content": self._system}, *messages]

    def close(self) -> None:
        """End everything under way."""
        self._worker.close()

    def prepare(
        self,
        prompts: list[list[int]],
        params: GenerationParams,
        count: int = 1,
        constrain: Callable[[], Constraint] | None = None,
        **options: Any,
    ) -> Answers:
        """So many answers to each prompt, not yet begun. Those after the first take other seeds.

        Any thread may ask.

        Args:
            prompts: token ids.
            params: how to answer.
            count: of answers to one prompt.
            constrain: makes what an answer has to follow.
            options: further ones of `Engine.sequence`.

        Raises:
            UsageError, ContextFullError: a prompt cannot be answered.
            ApiError: more tokens are asked for than a request may have.
        """
        params = self._within_limit(params, len(prompts) * count)
        record = current_record()
        options["adapter"] = None if record is None else record.adapter

        def answer(prompt: list[int], index: int) -> Sequence:
            constraint = constrain and constrain()
            wishes = _seeded(params, index)
            return self.engine.sequence(prompt, wishes, constraint=constraint, **options)

        leaders = []
        for prompt in prompts:
            first, *first.forks = [answer(prompt, index) for index in range(count)]
            leaders.append(first)
        return Answers(self, leaders)

    def begin(self, answers: Answers) -> None:
        """See `Answers.begin`."""
        self._worker.submit(answers.leaders)
        for sequence in answers.sequences:
            self._inboxes[id(sequence)] = answers.inbox
        self._metrics.begin(answers.leaders, answers.sequences)

    async def embed(self, texts: list[list[int]], pooling: str) -> Rows:
        """The vectors of some texts, float32 [texts, width]; answers go on between the steps.

        Raises:
            UsageError, ContextFullError: a text cannot be computed.
            QueueFullError: too many requests are here already.
        """
        record = current_record()
        if record is not None and record.adapter is not None:
            raise ApiError(400, "model: embeddings are those of a model without adapter", "model")
        if self._embedding >= MOST_EMBEDDINGS:
            raise QueueFullError(f"{self._embedding} requests for embeddings are under way")
        self._embedding += 1
        try:
            embedding = await self._between_steps(lambda: Embedding(self.engine, texts, pooling))
            try:
                while embedding.waiting:
                    with suppress(OutOfPagesError):  # what holds them goes on before the next call
                        await self._between_steps(embedding.step)
                return embedding.vectors
            finally:
                self._worker.call(embedding.close)  # a step that was cancelled may still be running
        finally:
            self._embedding -= 1

    async def _between_steps(self, function: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._worker.call(function))

    def cancel(self, sequence: Sequence) -> None:
        """End an answer; one that has ended is left alone."""
        if self._inboxes.pop(id(sequence), None) is not None:
            self._metrics.end(sequence)
            self._worker.cancel(sequence)

    def _within_limit(self, params: GenerationParams, count: int) -> GenerationParams:
        """The parameters with the most tokens that one of `count` answers may have."""
        if self._most_tokens is None:
            return params
        if params.max_tokens is None:
            return replace(params, max_tokens=max(1, self._most_tokens // count))
        if count * params.max_tokens > self._most_tokens:
            text = f"max_tokens: {self._most_tokens} for all answers to a request is the most here"
            raise ApiError(400, text, "max_tokens", "invalid_value")
        return params

    def _from_worker(self, deliveries: list[Delivery]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._dispatch, deliveries)
            if self._takes_turns:
                self._sent.wait(TURN_SECONDS)
                self._sent.clear()

    def _dispatch(self, deliveries: list[Delivery]) -> None:
        """Hand out what a step brought; who waits for it runs, and sends it, right afterwards."""
        for delivery in deliveries:
            inbox = self._inboxes.get(id(delivery.sequence))
            if inbox is None:
                continue
            self._metrics.arrived(delivery.sequence, len(delivery.tokens))
            inbox.put_nowait(delivery)
            if delivery.last:
                del self._inboxes[id(delivery.sequence)]
                self._metrics.end(delivery.sequence)
        self._loop.call_soon(self._sent.set)


def _seeded(params: GenerationParams, index: int) -> GenerationParams:
    if not index or params.seed is None:
        return params
    return replace(params, seed=(params.seed + index) % 2**64)
