"""What is known of a request while it is answered: for the log, the metrics and the traces."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localllm.engine.sequence import Sequence
from localllm.server import errors

_OTHER = "other"  # the route of a path that leads nowhere
_ID = re.compile(rb"[\w.:-]{1,64}")  # what is taken over from a client
_LONGEST_PATH = 200

logger = logging.getLogger("localllm.server")


@dataclass
class Record:
    """One request.

    Attributes:
        id: the client's own, where it sends a sane one.
        path: as it was sent, still percent-encoded, without the query.
        headers: as they were sent, names in lower case.
        began: seconds since the epoch; `started` is the same moment of the monotonic clock.
        route: the path of the route that answers, "other" where none does.
        model: the model that answers.
        adapter: of the model, that its answers are computed with.
        status: of HTTP; 0 until the answer begins.
        leaders: the first answer to each of its prompts.
        sequences: all answers that are made for it.
        first_token: seconds from the request to its first token.
        seconds: from the request to the end of the answer.
        body: as it was sent.
        leases: what the request holds until it is answered.
    """

    id: str
    method: str
    path: str
    headers: dict[bytes, bytes]
    began: float = field(default_factory=time.time)
    started: float = field(default_factory=time.monotonic)
    route: str = _OTHER
    model: str = ""
    adapter: str | None = None
    status: int = 0
    leaders: list[Sequence] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)
    first_token: float | None = None
    seconds: float = 0.0
    body: bytes = b""
    leases: AsyncExitStack = field(default_factory=AsyncExitStack)

    @classmethod
    def of(cls, scope: Scope) -> Record:
        """A record of a request that has just come."""
        headers = dict(scope["headers"])
        sent = headers.get(b"x-request-id", b"")
        own = sent.decode() if _ID.fullmatch(sent) else uuid.uuid4().hex
        path = scope.get("raw_path") or scope["path"].encode()
        return cls(own, scope["method"], path[:_LONGEST_PATH].decode("ascii", "replace"), headers)


Reporter = Callable[[Record], None]
_current: ContextVar[Record | None] = ContextVar("record", default=None)


def current_record() -> Record | None:
    """The record of the request that is being answered; None outside of one."""
    return _current.get()


class Recorder:
    """Keeps a record of every request and tells of it when it is answered.

    It is the outermost layer: what fails inside is answered here at the latest, and what a request
    holds is let go when its answer has been sent, or its client has gone.

    Args:
        app: what answers.
        reporters: called with each record at the end.
    """

    def __init__(self, app: ASGIApp, reporters: Iterable[Reporter]) -> None:
        self._app = app
        self._reporters = list(reporters)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = Record.of(scope)
        token = _current.set(record)

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", record.id.encode())]
            await send(message)

        try:
            async with record.leases:
                await self._answer(record, scope, receive, marked)
        finally:
            _current.reset(token)
            record.seconds = time.monotonic() - record.started
            if (route := scope.get("route")) is not None:
                record.route = route.path
            for report in self._reporters:
                report(record)

    async def _answer(self, record: Record, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            found = errors.as_api_error(error)
            if found.status >= 500:
                logger.exception("request %s: %s", record.id, found)
            if not record.status:
                await errors.response(found, scope["path"])(scope, receive, send)
