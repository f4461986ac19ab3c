"""From a request to its response: the model that is meant, then a stream or one document."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from localllm.server.errors import ApiError
from localllm.server.service import Service
from localllm.server.streaming import PLAIN_EVENTS, EventForm, EventStream, unless_gone


class Reply(Protocol):
    """What is answered to one request, in the form of its API. Made on any thread."""

    def begin(self) -> None:
        """Let it be made; raises QueueFullError."""

    async def document(self) -> dict[str, Any]:
        """All of it, when it is complete."""

    def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """Its parts, as they come."""

    def close(self) -> None:
        """End what is still made."""


async def respond(
    request: Request,
    name: str | None,
    stream: bool,
    make: Callable[[Service], Reply],
    form: EventForm = PLAIN_EVENTS,
) -> Response:
    """The stream or the document that was asked for, by the model of that name."""
    # Rendering, tokenising and compiling may take long: other answers go on meanwhile.
    reply = await asyncio.to_thread(make, find_service(request, name))
    reply.begin()
    if stream:
        return EventStream(reply.events(), reply.close, form)
    try:
        return JSONResponse(await unless_gone(request, reply.document()))
    finally:
        reply.close()


def find_service(request: Request, name: str | None) -> Service:
    """The model that a request names; without a name the only one.

    Raises:
        ApiError: there is none of that name.
    """
    service: Service = request.app.state.service
    if name is not None and name != service.name:
        raise ApiError(
            404,
            f"model {name!r} is not served here; {service.name!r} is",
            "model",
            "model_not_found",
        )
    return service


def head(prefix: str) -> dict[str, Any]:
    """What every object of one response begins with; its id has the prefix."""
    return {"id": prefix + uuid.uuid4().hex, "created": int(time.time())}
