"""Listens on an address or a Unix socket until the process is asked to end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from localllm.errors import LocalLLMError

HEAD_SECONDS = 30.0  # that a client may take to send a request's head
MOST_FILES = 65536  # open at once
DRAIN_SECONDS = 30  # that answers under way may take when the server is to end


@dataclass(frozen=True)
class Address:
    """Where to listen.

    Attributes:
        host: of TCP.
        port: 0 takes a free one.
        socket: path of a Unix socket, instead of both.
        certificate: for TLS, a PEM file; with it `key`.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    socket: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def listen(app: FastAPI, address: Address, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is under way; a second one ends at once.

    Args:
        app: what answers.
        address: where.
        ready: told the URL, or the socket's path, when connections are accepted.

    Raises:
        LocalLLMError: the address cannot be had, or the certificate not be read.
    """
    _require_certificate(address)
    config = uvicorn.Config(
        app,
        loop="asyncio",  # whatever else is installed: only h11 bounds the heads of requests
        http=_Connection,
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # who a request comes from is not for the request to say
        timeout_graceful_shutdown=DRAIN_SECONDS,
        lifespan="on",
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
    )
    _allow_connections()
    with _listener(address) as listener:
        listener.listen(1024)
        ready(_url(address, listener))
        _Server(config).run(sockets=[listener])


class _Connection(H11Protocol):
    """Ends where the head of a request does not come in time: its bytes, or any at all."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a head, where a piece of one has come."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._end)

    def _end(self) -> None:
        # A later request may have come whole meanwhile, and be answered now.
        if self.conn.their_state is h11.IDLE:
            self.transport.close()

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _allow_connections() -> None:
    """Let the process open as many files as it may: by default often 1024, one a connection."""
    if sys.platform == "win32":
        return
    import resource

    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if most == resource.RLIM_INFINITY else min(most, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


class _Server(uvicorn.Server):
    """Ends in good order at the first signal, with exit code 0, and at once at the second."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal; uvicorn would raise it again at the end."""
        if self.should_exit:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self.should_exit = True


@contextmanager
def _listener(address: Address) -> Iterator[socket.socket]:
    """A bound socket; a Unix socket's file is gone in the end."""
    if address.socket is None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        name: tuple[str, int] | str = (address.host, address.port)
        shown, hint = f"{address.host}:{address.port}", "--port 0 takes a free port"
    else:
        if not hasattr(socket, "AF_UNIX"):
            raise LocalLLMError("--socket: there are no Unix sockets here")
        _remove_stale(address.socket)
        family, name, hint = socket.AF_UNIX, str(address.socket), ""
        shown = name
    # asyncio switches Nagle's delay off (40 ms a response) only where the protocol is named.
    protocol = socket.IPPROTO_TCP if address.socket is None else 0
    with socket.socket(family, socket.SOCK_STREAM, protocol) as listener:
        if address.socket is None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        mask = os.umask(0o177)  # the socket's file is the user's own from the beginning
        try:
            listener.bind(name)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise LocalLLMError(f"cannot listen on {shown}: {reason}", hint) from error
        finally:
            os.umask(mask)
        try:
            yield listener
        finally:
            if address.socket is not None:
                with suppress(OSError):
                    address.socket.unlink()


def _remove_stale(path: Path) -> None:
    """Remove a Unix socket that nobody listens on any more; anything else stays.

    Raises:
        LocalLLMError: somebody listens there, or it is no socket.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise LocalLLMError(f"--socket {path}: there is a file, and it is no socket")
    except OSError:
        return  # nothing is there, or the bind will say what is wrong
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return
        else:
            raise LocalLLMError(f"--socket {path}: another server listens there")


def _require_certificate(address: Address) -> None:
    """Raises LocalLLMError for files that TLS cannot be done with."""
    if address.certificate is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Without a password the library would ask for one on the terminal.
        context.load_cert_chain(address.certificate, address.key, password="")
    except OSError as error:  # SSLError is one
        reason = error.strerror or error
        raise LocalLLMError(
            f"--tls-cert {address.certificate}, --tls-key {address.key}: {reason}",
            "both must be PEM files that belong together, the key without a password",
        ) from error


def _url(address: Address, listener: socket.socket) -> str:
    if address.socket is not None:
        return f"unix:{address.socket}"
    scheme = "https" if address.certificate is not None else "http"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{scheme}://{host}:{listener.getsockname()[1]}"
