"""A server in this process, on a free port of the loopback address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from fastapi import FastAPI

from localllm.chat.session import ChatSession
from localllm.decoding import GenerationParams
from localllm.engine.engine import Engine
from localllm.hub.names import resolve
from localllm.server.app import ServerOptions, create_app
from localllm.server.service import Service
from localllm.server.slots import Source

PROGRAM = [sys.executable, "-c", "from localllm.cli.app import main; main()"]

JSON = {"content-type": "application/json"}
PLACE = {
    "type": "object",
    "properties": {"city": {"enum": ["Bern", "Rom"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def named_events(url: str, body: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every event of a stream whose events have names, and its JSON as it stands on the wire."""
    blocks = httpx.post(url, json=body, timeout=60).text.split("\n\n")
    assert blocks.pop() == ""
    for block in blocks:
        name, data = block.split("\n")
        data = data.removeprefix("data: ")
        event = json.loads(data)
        assert name == f"event: {event['type']}"
        yield event, data


class Threaded:
    """An application on a thread of its own."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        config = uvicorn.Config(
            app,
            port=0,
            http="h11",
            loop="asyncio",
            log_config=None,
            log_level="error",
            lifespan="on",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)


class Running:
    """A server and its engine."""

    def __init__(self, *keys: str, context: int = 512, texts: int = 4, **options: Any) -> None:
        path = resolve(None).path
        self.engine = Engine.load(path, context=context, texts=texts)
        source = Source("tiny-chat", path, lambda reserved: self.engine, context, texts)
        given = ServerOptions(api_keys=keys, **options)
        app = create_app([source], given, {"tiny-chat": self.engine})
        self._server = Threaded(app)
        self.url = self._server.url

    @property
    def service(self) -> Service:
        """The model as the server has it."""
        service = self._server.app.state.models.slots["tiny-chat"].service
        assert service is not None
        return service

    def require_idle(self) -> None:
        """Wait until nothing is under way; then no page may be held."""
        deadline = time.monotonic() + 10
        while self._held() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not self._held()
        self.engine._stepper.scheduler.pool.check([])

    def _held(self) -> bool:
        readers = list(self.engine._stepper.readers)
        return self.engine.busy or any(reader.tables for reader in readers)

    def close(self) -> None:
        self._server.close()


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
def client(server: Running) -> Iterator[openai.OpenAI]:
    """OpenAI's own client of the shared server."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def engine_answer(messages: list[dict[str, str]]) -> str:
    """What the engine itself answers, the likeliest 24 tokens."""
    session = ChatSession(Engine.load(resolve(None).path, context=512))
    answer = session.answer(messages, GenerationParams(temperature=0, max_tokens=24))
    return "".join(content for _, content in answer)


@pytest.fixture
def locked() -> Iterator[Running]:
    running = Running("first-key", "second-key")
    yield running
    running.close()


class Program:
    """`localllm serve` as a process of its own, with a home of its own."""

    def __init__(self, home: Path, *flags: str) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LOCALLLM_", "OTEL_"))}
        self.environment = kept | {"HOME": str(home), "XDG_STATE_HOME": str(home / "state")}
        self.process = subprocess.Popen(
            [*PROGRAM, "serve", "--ctx", "512", "--port", "0", *flags],
            env=self.environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self.log: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        deadline = time.monotonic() + 30
        while not self.url and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.url, self.log

    @property
    def url(self) -> str:
        """Where it listens, as it says on stderr."""
        lines = [line for line in self.log if "://" in line or "unix:" in line]
        return lines[0].split()[-1].removesuffix("/v1") if lines else ""

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command of the same user."""
        return subprocess.run(
            [*PROGRAM, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip())


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts `localllm serve` with these flags."""
    started: list[Program] = []

    def start(*flags: str) -> Program:
        started.append(Program(tmp_path, *flags))
        return started[-1]

    yield start
    for program in started:
        program.close()
