"""Requests as some clients spell them: HEAD, a slash at the end of a path, a whole URL."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class PlainRequests:
    """Answers HEAD like GET, whose body the HTTP server leaves out, and `/v1/models/` as without
    its last slash. `GET http://host/v1/models` is a request to that host, whatever the header says
    (RFC 9112, 3.2.2).

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
        path, headers = scope["path"], scope["headers"]
        if path.lower().startswith(("http://", "https://")):
            _, _, rest = path.partition("://")
            host, slash, rest = rest.partition("/")
            path = slash + rest
            others = [one for one in headers if one[0] != b"host"]
            headers = [(b"host", host.encode("latin-1", "replace")), *others]
        path = path.rstrip("/") or "/"
        inner = {**scope, "method": method, "path": path, "headers": headers}
        try:
            await self._app(inner, receive, send)
        finally:
            if "route" in inner:  # for the record of the request
                scope["route"] = inner["route"]
