"""Answers that end when their client goes away, as events or as one document."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Response
from starlette.types import Receive, Scope, Send

from localllm.server.errors import ApiError, as_api_error
from localllm.server.json_text import as_json

PING_SECONDS = 15.0  # of silence
_PING = b": ping\n\n"

T = TypeVar("T")
Event = dict[str, Any]


class ClientGoneError(ApiError):
    """Nobody waits for the answer any more."""

    def __init__(self) -> None:
        super().__init__(499, "the client has gone")


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects.

    Raises:
        ClientGoneError: it has.
    """
    here = asyncio.current_task()
    assert here is not None, "no task is running"
    waiting = True

    def leave(_: asyncio.Future[None]) -> None:
        if waiting:
            here.cancel()

    gone = asyncio.ensure_future(_disconnect(receive))
    gone.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if gone.done():
            raise ClientGoneError from None
        raise
    finally:
        waiting = False
        gone.cancel()


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


class EventStream(Response):
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
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._events = events
        self._close = close
        self._form = form
        self._last = time.monotonic()  # when something was sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all."""
        pings = asyncio.create_task(self._ping(send))
        try:
            await unless_gone(receive, self._send(send))
        except ClientGoneError:
            pass
        finally:
            pings.cancel()
            self._close()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        form, count = self._form, 0
        async with aclosing(self._events) as events:
            try:
                async for event in events:
                    await self._part(send, _written(event, form))
                    count += 1
                if not form.named:
                    await self._part(send, b"data: [DONE]\n\n")
            except Exception as error:
                await self._part(send, _written(form.failure(as_api_error(error), count), form))
        await send({"type": "http.response.body", "body": b""})

    async def _part(self, send: Send, text: bytes) -> None:
        self._last = time.monotonic()
        await send({"type": "http.response.body", "body": text, "more_body": True})

    async def _ping(self, send: Send) -> None:
        while True:
            await asyncio.sleep(max(0.01, self._last + PING_SECONDS - time.monotonic()))
            if time.monotonic() >= self._last + PING_SECONDS:
                await self._part(send, _PING)


def _written(event: Event, form: EventForm) -> bytes:
    name = f"event: {event['type']}\n" if form.named else ""
    return b"%sdata: %s\n\n" % (name.encode(), as_json(event))


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
