"""A server in this process, on a free port of the loopback address."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from localllm.engine.engine import Engine
from localllm.hub.names import resolve
from localllm.server.app import create_app


class Running:
    """A server and its engine."""

    def __init__(self, *keys: str, context: int = 512, texts: int = 4) -> None:
        self.engine = Engine.load(resolve(None).path, context=context, texts=texts)
        app = create_app("tiny-chat", self.engine, {}, keys)
        config = uvicorn.Config(app, port=0, log_level="error", lifespan="on")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.service = app.state.service
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def require_idle(self) -> None:
        """Wait until nothing is under way; then no page may be held."""
        deadline = time.monotonic() + 10
        while self._held() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not self._held()
        self.engine._scheduler.pool.check([])

    def _held(self) -> bool:
        return self.engine.busy or any(reader.tables for reader in list(self.engine._readers))

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)


@pytest.fixture(scope="session")
def shared() -> Iterator[Running]:
    running = Running()
    yield running
    running.close()


@pytest.fixture
def server(shared: Running) -> Iterator[Running]:
    yield shared
    shared.require_idle()


@pytest.fixture
def locked() -> Iterator[Running]:
    running = Running("first-key", "second-key")
    yield running
    running.close()
