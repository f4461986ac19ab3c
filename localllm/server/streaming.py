"""Answers that end when their client goes away, as events or as one document."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from localllm.server.errors import ApiError, as_api_error
from localllm.server.json_text import as_json

PING_SECONDS = 15.0  # of silence
_PING = b": ping\n\n"

T = TypeVar("T")
Event = dict[str, Any]


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ApiError(499, "the client has gone")
    finally:
        for pending in (task, gone):
            pending.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


@dataclass(frozen=True)
class EventForm:
    """How an API writes its events.

    Attributes:
        failure: the event that tells a failure, after so many others.
        named: whether the `type` of each stands before it as its name; where it does not, `[DONE]`
            ends the stream.
    """

    failure: Callable[[ApiError, int], Event]
    named: bool = True


PLAIN_EVENTS = EventForm(lambda error, _: error.body, named=False)


class EventStream(StreamingResponse):
    """Server-sent events; a failure on the way is an event too.

    Where nothing comes for long, as while a long prompt is read, comments keep proxies from
    closing the connection.

    Args:
        events: each becomes one.
        close: called in the end, also where the client went before the first event.
        form: how they are written.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[Event, None],
        close: Callable[[], None],
        form: EventForm = PLAIN_EVENTS,
    ) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_encoded(events, form), headers=headers)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all."""
        last = time.monotonic()

        async def noted(message: Message) -> None:
            nonlocal last
            last = time.monotonic()
            await send(message)

        async def ping() -> None:
            while True:
                await asyncio.sleep(max(0.01, last + PING_SECONDS - time.monotonic()))
                if time.monotonic() >= last + PING_SECONDS:
                    await noted({"type": "http.response.body", "body": _PING, "more_body": True})

        pings = asyncio.create_task(ping())
        try:
            await super().__call__(scope, receive, noted)
        finally:
            pings.cancel()
            self._close()


async def _encoded(events: AsyncGenerator[Event, None], form: EventForm) -> AsyncIterator[bytes]:
    count = 0
    async with aclosing(events):
        try:
            async for event in events:
                yield _written(event, form)
                count += 1
            if not form.named:
                yield b"data: [DONE]\n\n"
        except Exception as error:
            yield _written(form.failure(as_api_error(error), count), form)


def _written(event: Event, form: EventForm) -> bytes:
    name = f"event: {event['type']}\n" if form.named else ""
    return b"%sdata: %s\n\n" % (name.encode(), as_json(event))


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
