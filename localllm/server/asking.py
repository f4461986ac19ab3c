"""Asks a server that runs on this machine, from the command line."""

from __future__ import annotations

import json
import socket
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from localllm.errors import LocalLLMError
from localllm.server.running import RunningServer

SECONDS = 10.0  # that a server may take to answer


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SECONDS)
        self.sock.connect(self._path)


def ask(
    server: RunningServer, path: str, key: str | None, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The document that a server answers with; with a body it is a POST.

    Raises:
        LocalLLMError: it refuses, or does not answer.
    """
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body)
    try:
        connection = _connection(server)
        try:
            connection.request("GET" if body is None else "POST", path, data, headers)
            response = connection.getresponse()
            document = json.loads(response.read())
        finally:
            connection.close()
        if response.status == 200 and isinstance(document, dict):
            return document
        message = str(document["error"]["message"])
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise LocalLLMError(
            f"{server.url} (process {server.pid}) does not answer: {reason}"
        ) from error
    raise LocalLLMError(f"{server.url}: {message}")


def _connection(server: RunningServer) -> HTTPConnection:
    if server.url.startswith("unix:"):
        return _UnixConnection(server.url.removeprefix("unix:"))
    place = urlsplit(server.url)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(place.hostname or "", place.hostname or "")
    if place.scheme != "https":
        return HTTPConnection(host, place.port, timeout=SECONDS)
    # The server's own certificate is what is trusted, whoever signed it and for whatever name.
    context = ssl.create_default_context(cafile=server.certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return HTTPSConnection(host, place.port, timeout=SECONDS, context=context)
