"""The server's log on stderr: one line a request, as text or as JSON; prompts only where asked."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from localllm.server.counts import cached_tokens, completion_tokens, prompt_tokens
from localllm.server.records import Record

KINDS = ("text", "json", "off")
_QUIET = frozenset({"/health", "/metrics"})  # are asked for all the time
_AGAIN_SECONDS = 10.0  # until a failure of the system is told of again
_HEAD = ("method", "path", "status")  # of a text line


def reporter(kind: str, prompts: bool) -> Callable[[Record], None]:
    """What logs the requests.

    Args:
        kind: one of `KINDS`; "off" still logs failures.
        prompts: whether the body of a request is logged with it.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if kind == "json" else _TextLines())
    logging.raiseExceptions = False  # who closes stderr has no server that fails for it
    for name in ("uvicorn", "localllm.server", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    logging.getLogger("asyncio").filters = [_Sparing()]
    requests = logging.getLogger("localllm.server.requests")
    requests.setLevel(logging.WARNING if kind == "off" else logging.INFO)

    def report(record: Record) -> None:
        if record.status == 200 and record.route in _QUIET:
            return
        requests.info("request", extra={"fields": _fields(record, prompts)})

    return report


def _fields(record: Record, prompts: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": record.id,
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "duration": round(record.seconds, 4),
    }
    if record.model:
        fields["model"] = record.model
    if record.adapter is not None:
        fields["adapter"] = record.adapter
    if record.sequences:
        fields |= {
            "prompt_tokens": prompt_tokens(record),
            "cached_tokens": cached_tokens(record),
            "completion_tokens": completion_tokens(record),
        }
    if record.first_token is not None:
        fields["ttft"] = round(record.first_token, 4)
    if prompts:
        fields["body"] = record.body.decode("utf-8", "replace")
    return fields


class _Sparing(logging.Filter):
    """Lets one failure of the system through at a time, as a line.

    Where the process has all files open that it may, asyncio tells of every connection that waits,
    each time it looks: thousands of tracebacks a second.
    """

    _silent_until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is told of."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, OSError):
            return True
        if record.created < self._silent_until:
            return False
        self._silent_until = record.created + _AGAIN_SECONDS
        what = record.getMessage().partition("\n")[0]
        record.msg, record.args, record.exc_info = f"{what}: {error.strerror or error}", (), None
        return True


class _TextLines(logging.Formatter):
    """`2026-01-31T12:00:00Z POST /v1/completions 200 duration=0.031 …`."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        stamp = _stamp(record)
        if fields is None:
            return f"{stamp} {record.levelname.lower()}: {super().format(record)}"
        head = [str(fields[name]) for name in _HEAD]
        rest = [
            f"{name}={json.dumps(value) if name == 'body' else value}"
            for name, value in fields.items()
            if name not in _HEAD
        ]
        return " ".join([stamp, *head, *rest])


class _JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, Any] = {"time": _stamp(record), "level": record.levelname.lower()}
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        document |= fields if fields is not None else {"message": super().format(record)}
        return json.dumps(document, ensure_ascii=False)


def _stamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
