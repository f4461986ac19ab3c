"""One model as the server's routes use it: requests in, tokens out, on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, TypeVar

from localllm.chat.session import ChatSession
from localllm.decoding.params import GenerationParams
from localllm.engine.embedding import Embedding
from localllm.engine.engine import Engine
from localllm.engine.pages import OutOfPagesError
from localllm.engine.runner import Rows
from localllm.engine.sequence import Sequence, Stats, Token
from localllm.engine.worker import Delivery, QueueFullError, Worker
from localllm.server.errors import as_api_error

T = TypeVar("T")

MOST_REQUESTS = 256  # answers under way or waiting at once


class Service:
    """A loaded model that many requests share.

    Args:
        name: what clients call it.
        engine: nobody else may step it.
        recommended: generation parameters where a request leaves them open.
    """

    def __init__(self, name: str, engine: Engine, recommended: dict[str, Any]) -> None:
        self.name = name
        self.engine = engine
        self.recommended = recommended
        self.session = ChatSession(engine)
        self.created = int(time.time())
        self._loop = asyncio.get_running_loop()
        self._inboxes: dict[int, asyncio.Queue[Delivery]] = {}
        self._embedding = 0  # requests under way
        self._worker = Worker(engine, self._from_worker, MOST_REQUESTS)

    def close(self) -> None:
        """End everything under way."""
        self._worker.close()

    def answers(self, prompt: list[int], params: GenerationParams, count: int) -> list[Sequence]:
        """So many answers to one prompt, under way. Those after the first take other seeds.

        Raises:
            UsageError, ContextFullError: the prompt cannot be answered.
            QueueFullError: too many requests are here already; none was begun.
        """
        begun: list[Sequence] = []
        try:
            for index in range(count):
                wishes = params
                if index and params.seed is not None:
                    wishes = replace(params, seed=(params.seed + index) % 2**64)
                sequence = self.engine.sequence(prompt, wishes)
                self._inboxes[id(sequence)] = asyncio.Queue()
                begun.append(sequence)
                self._worker.submit(sequence)
        except BaseException:
            for sequence in begun:
                self.cancel(sequence)
            raise
        return begun

    async def tokens(self, sequence: Sequence) -> AsyncGenerator[Token, None]:
        """The tokens of an answer under way; it ends where this iterator is closed.

        Raises:
            ApiError: the answer broke off.
        """
        inbox = self._inboxes[id(sequence)]
        try:
            while True:
                delivery = await inbox.get()
                for token in delivery.tokens:
                    yield token
                    if token.finish_reason is not None:
                        return
                if delivery.error is not None:
                    raise as_api_error(delivery.error) from delivery.error
        finally:
            self.cancel(sequence)

    async def merged(self, sequences: list[Sequence]) -> AsyncGenerator[tuple[int, Token], None]:
        """The tokens of several answers as they come, each with the index of its answer."""
        merged: asyncio.Queue[tuple[int, Token | None] | BaseException] = asyncio.Queue()

        async def pump(index: int, sequence: Sequence) -> None:
            try:
                async with aclosing(self.tokens(sequence)) as tokens:
                    async for token in tokens:
                        merged.put_nowait((index, token))
                merged.put_nowait((index, None))
            except Exception as error:
                merged.put_nowait(error)

        if len(sequences) == 1:  # the usual case needs no tasks
            async with aclosing(self.tokens(sequences[0])) as tokens:
                async for token in tokens:
                    yield 0, token
            return
        pumps = [asyncio.create_task(pump(i, s)) for i, s in enumerate(sequences)]
        try:
            open_ones = len(pumps)
            while open_ones:
                item = await merged.get()
                if isinstance(item, BaseException):
                    raise item
                index, next_token = item
                if next_token is None:
                    open_ones -= 1
                else:
                    yield index, next_token
        finally:
            for task in pumps:
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def embed(self, texts: list[list[int]], pooling: str) -> Rows:
        """The vectors of some texts, float32 [texts, width]; answers go on between the steps.

        Raises:
            UsageError, ContextFullError: a text cannot be computed.
            QueueFullError: too many requests are here already.
        """
        if self._embedding >= MOST_REQUESTS:
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
            self._worker.cancel(sequence)

    def _from_worker(self, deliveries: list[Delivery]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._dispatch, deliveries)

    def _dispatch(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            inbox = self._inboxes.get(id(delivery.sequence))
            if inbox is not None:
                inbox.put_nowait(delivery)


def usage(prompt: int, stats: list[Stats]) -> dict[str, Any]:
    """Counts of the tokens of one request."""
    written = sum(one.generated_tokens for one in stats)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": max(one.cached_tokens for one in stats)},
    }


def timings(stats: list[Stats]) -> dict[str, float]:
    """Seconds of the request's answers, and drafts, in the words of llama-server."""
    first = stats[0]
    return {
        "prompt_n": first.prompt_tokens - first.cached_tokens,
        "prompt_ms": 1000 * first.prefill_seconds,
        "prompt_per_second": first.prefill_tokens_per_second,
        "predicted_n": first.generated_tokens,
        "predicted_ms": 1000 * first.decode_seconds,
        "predicted_per_second": first.decode_tokens_per_second,
        "draft_n": first.drafted_tokens,
        "draft_n_accepted": first.accepted_tokens,
    }
