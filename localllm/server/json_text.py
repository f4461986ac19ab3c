"""JSON as it is sent."""

from __future__ import annotations

import json
from typing import Any

from fastapi.responses import JSONResponse

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def as_json(document: Any) -> bytes:
    """The document in UTF-8.

    Half of a surrogate pair, which a request's text may have and UTF-8 cannot, stays the escape
    that JSON has for it.
    """
    return _ENCODER.encode(document).encode("utf-8", "backslashreplace")


class JSON(JSONResponse):
    """A response of `as_json`."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return as_json(content)
