"""Bodies of requests: read whole before anybody sees them, up to a size and a time."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from localllm.server import errors
from localllm.server.errors import ApiError
from localllm.server.records import current_record
from localllm.units import in_bytes

MOST_BYTES = 16 * 2**20
BODY_SECONDS = 60.0  # from a request's head to the end of its body


class BodyLimit:
    """Refuses bodies that are too large, or come too slowly.

    Args:
        app: what answers.
        most: bytes.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        length = headers.get(b"content-length")
        if length in (None, b"0") and b"transfer-encoding" not in headers:
            await self._app(scope, receive, send)  # there is no body
            return
        try:
            if length is not None and int(length) > self._most:  # not a byte of it is read
                raise self._too_large()
            body = await self._read_in_time(receive)
        except ApiError as error:
            refused = errors.response(error, scope["path"])
            refused.headers["Connection"] = "close"  # the rest of the body is not wanted
            await refused(scope, receive, send)
            return
        if body is None:  # the client has gone
            return
        if (record := current_record()) is not None:
            record.body = body
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)

    async def _read_in_time(self, receive: Receive) -> bytes | None:
        try:
            return await asyncio.wait_for(self._read(receive), BODY_SECONDS)
        except asyncio.TimeoutError:
            text = f"the body did not come within {BODY_SECONDS:g} seconds"
            raise ApiError(408, text) from None

    async def _read(self, receive: Receive) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._most:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {in_bytes(self._most)} (--max-body)")
