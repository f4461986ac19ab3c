"""From a request to its response: the model that is meant, then a stream or one document."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import Response

from localllm.server.json_text import JSON
from localllm.server.models import find_service
from localllm.server.sampling import Sampling
from localllm.server.service import Answers, Service
from localllm.server.streaming import PLAIN_EVENTS, EventForm, EventStream, unless_gone


class Reply(Protocol):
    """What is answered to one request, in the form of its API. Made on any thread."""

    @property
    def answers(self) -> Answers:
        """What it is made of, not yet begun."""

    async def document(self) -> dict[str, Any]:
        """All of it, when it is complete."""

    def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """Its parts, as they come."""


async def respond(
    request: Request,
    asked: Sampling,
    stream: bool,
    make: Callable[[Service], Reply],
    form: EventForm = PLAIN_EVENTS,
) -> Response:
    """The stream or the document that was asked for, by the model that is meant."""
    service = await find_service(request, asked.model, asked.keep_alive)
    # Rendering, tokenising and compiling may take long: other answers go on meanwhile.
    reply = await asyncio.to_thread(make, service)
    reply.answers.begin()
    if stream:
        return EventStream(reply.events(), reply.answers.close, form)
    try:
        return JSON(await unless_gone(request.receive, reply.document()))
    finally:
        reply.answers.close()


def head(prefix: str, service: Service, asked: Sampling) -> dict[str, Any]:
    """What every object of one response begins with; its id has the prefix.

    The model has the name that it was asked for by, which may be that of an adapter.
    """
    name = asked.model or service.name
    return {"id": prefix + uuid.uuid4().hex, "created": int(time.time()), "model": name}
