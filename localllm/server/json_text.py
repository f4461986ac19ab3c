"""JSON as it is sent."""

from __future__ import annotations

import json
from typing import Any

from fastapi.responses import JSONResponse


def as_json(document: Any) -> bytes:
    """The document in UTF-8.

    Half of a surrogate pair, which a request's text may have and UTF-8 cannot, stays the escape
    that JSON has for it.
    """
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


class JSON(JSONResponse):
    """A response of `as_json`."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return as_json(content)
