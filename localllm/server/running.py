"""Servers that run on this machine: each says in a small file where it can be asked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from localllm.files import replacing
from localllm.hub.folders import state_dir


@dataclass(frozen=True)
class RunningServer:
    """A server's process and where it listens.

    Attributes:
        pid: of its process.
        created: when the process began, which tells it from a later one of the same number.
        url: `http://host:port`, or `unix:PATH`.
        certificate: path of its TLS certificate; empty: none.
        models: that it serves.
    """

    pid: int
    created: float
    url: str
    certificate: str
    models: list[str]

    @property
    def alive(self) -> bool:
        """Whether the process still is."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 1.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@contextmanager
def announced(url: str, certificate: Path | None, models: list[str]) -> Iterator[None]:
    """Let other programs of this user find this server, inside this block."""
    pid = os.getpid()
    shown = "" if certificate is None else str(certificate.absolute())
    server = RunningServer(pid, psutil.Process().create_time(), url, shown, models)
    path = _folder() / f"{pid}.json"
    with suppress(OSError):  # where it cannot be written, the server is only not found
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(path) as beside:
            beside.write_text(json.dumps(asdict(server)), encoding="utf-8")
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def running_servers() -> list[RunningServer]:
    """All that run, the oldest first; what servers left that were killed is removed."""
    found = []
    for path in _folder().glob("*.json"):
        server = _read(path)
        if server is not None and server.alive:
            found.append(server)
        else:
            with suppress(OSError):
                path.unlink()
    return sorted(found, key=lambda server: server.created)


def _read(path: Path) -> RunningServer | None:
    try:
        server = RunningServer(**json.loads(path.read_text(encoding="utf-8")))
        return server if isinstance(server.pid, int) and server.pid > 0 else None
    except (OSError, ValueError, TypeError):
        return None


def _folder() -> Path:
    return state_dir() / "servers"
