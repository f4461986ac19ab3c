"""Listens on an address until the process is asked to end."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from localllm.errors import LocalLLMError

DRAIN_SECONDS = 30  # that answers under way may take when the server is to end


def listen(app: FastAPI, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is under way.

    Args:
        app: what answers.
        host: address.
        port: 0 takes a free one.
        ready: told the URL when connections are accepted.

    Raises:
        LocalLLMError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise LocalLLMError(
            f"cannot listen on {host}:{port}: {reason}", "--port 0 takes a free port"
        ) from error
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        lifespan="on",
    )
    shown = f"[{host}]" if ":" in host else host
    server = uvicorn.Server(config)
    listener.listen(1024)
    ready(f"http://{shown}:{listener.getsockname()[1]}")
    server.run(sockets=[listener])
