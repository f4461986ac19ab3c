"""Requests as some clients spell them: HEAD, and a slash at the end of a path."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class PlainRequests:
    """Answers HEAD like GET, whose body the HTTP server leaves out, and `/v1/models/` as without
    its last slash.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        inner = {**scope, "method": method, "path": scope["path"].rstrip("/") or "/"}
        try:
            await self._app(inner, receive, send)
        finally:
            if "route" in inner:  # for the record of the request
                scope["route"] = inner["route"]
