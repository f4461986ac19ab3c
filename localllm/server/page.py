"""The chat page at `/`, and the files that it is made of (`web/`)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request, Response

from localllm.server.errors import ApiError

FOLDER = Path(__file__).parent / "web"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

# What the browser may open: only these paths exist, whatever a request spells out.
FILES = {f"/web/{file.name}": file for file in FOLDER.iterdir() if file.suffix in TYPES}
FILES["/"] = FILES.pop("/web/index.html")
PATHS = frozenset(FILES)  # need no key: they are the same for everyone

# The page runs its own files, talks to its own server, and shows nothing from elsewhere.
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # keep it, but ask whether it has changed
}

router = APIRouter(include_in_schema=False)


@router.get("/")
@router.get("/web/{name}")
async def page(request: Request) -> Response:
    """A file of the page; 304 where the browser has it already."""
    file = FILES.get(request.url.path)
    if file is None:
        raise ApiError(404, f"GET {request.url.path}: Not Found")
    content = file.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = HEADERS | {"ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=TYPES[file.suffix])
