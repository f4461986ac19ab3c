"""Several models in one server: loaded when asked for, unloaded in time, never while in use."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from localllm.engine.engine import Engine
from localllm.engine.memory import ShortageError
from localllm.errors import ModelFileError, UsageError
from localllm.evaluate.synthetic import random_model
from localllm.hub.names import resolve
from localllm.server import models
from localllm.server.app import ServerOptions, create_app
from localllm.server.keep_alive import NEVER, keep_alive_seconds
from localllm.server.slots import Source
from tests.server.conftest import Threaded

PATH = resolve(None).path
HELLO = [{"role": "user", "content": "Hello, who are you?"}]


class Loads:
    """Sources of the bundled model that count their loads and can be made to fail or to wait."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.error: Exception | None = None
        self.go = threading.Event()
        self.go.set()

    def source(self, name: str) -> Source:
        def load(reserved: int) -> Engine:
            self.names.append(name)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                assert self.go.wait(20)
                if self.error is not None:
                    raise self.error
                return Engine.load(PATH, context=512, texts=4, reserved=reserved)
            finally:
                self.at_once -= 1

        return Source(name, PATH, load, context=512, texts=4)


class Server:
    """Three models on one server, and the routes that the tests use."""

    def __init__(self, keep_alive: float = NEVER) -> None:
        self.loads = Loads()
        sources = [self.loads.source(name) for name in ("one", "two", "three")]
        self._running = Threaded(create_app(sources, ServerOptions(keep_alive=keep_alive)))
        self.url = self._running.url
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def ask(self, model: str | None, **fields) -> httpx.Response:
        body = {"model": model, "messages": HELLO, "max_tokens": 4, **fields}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=30)

    def loaded(self) -> set[str]:
        listed = self.http.get("/admin/ps").json()["models"]
        return {one["model"] for one in listed if one["state"] == "loaded"}

    def wait_for(self, names: set[str]) -> None:
        deadline = time.monotonic() + 10
        while self.loaded() != names and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.loaded() == names

    def close(self) -> None:
        self.http.close()
        self._running.close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()


def test_models_are_loaded_on_first_use(server):
    assert server.loaded() == set()
    assert server.ask("two").json()["model"] == "two"
    assert server.loaded() == {"two"}
    server.ask("two")
    assert server.loads.names == ["two"]


def test_requests_for_a_model_being_loaded_wait_together(server):
    server.loads.go.clear()
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(server.ask, name) for name in ["one", "two"] * 6]
        time.sleep(0.3)
        assert httpx.get(f"{server.url}/health").status_code == 200  # the loop is free
        server.loads.go.set()
        assert {one.result().status_code for one in asked} == {200}
    assert sorted(server.loads.names) == ["one", "two"]
    assert server.loads.most_at_once == 1


def test_the_api_lists_them(server):
    server.ask("one")
    listed = server.http.get("/v1/models").json()["data"]
    assert [(one["id"], one["loaded"]) for one in listed] == [
        ("one", True),
        ("two", False),
        ("three", False),
    ]
    assert listed[0]["context_length"] == 512
    assert server.http.get("/v1/models/two").json() == listed[1]
    assert server.http.get("/v1/models/four").status_code == 404


def test_an_unknown_model_is_told_those_served(server):
    refused = server.ask("four")
    assert refused.status_code == 404
    assert "'one', 'two', 'three'" in refused.json()["error"]["message"]
    nameless = server.ask(None)
    assert nameless.status_code == 400
    assert nameless.json()["error"]["param"] == "model"


@pytest.mark.parametrize(
    ("error", "status"),
    [(ModelFileError("x.gguf: is damaged"), 500), (ShortageError("not enough memory"), 503)],
)
def test_a_model_that_cannot_be_loaded_fails_its_requests_only(server, error, status):
    server.loads.error = error
    failed = server.ask("one")
    assert failed.status_code == status
    assert str(error) in failed.json()["error"]["message"]
    assert ("retry-after" in failed.headers) == (status == 503)
    server.loads.error = None
    assert server.ask("one").status_code == 200


def test_a_file_that_is_gone(tmp_path):
    path = tmp_path / "gone.gguf"
    source = Source("gone", path, lambda reserved: Engine.load(path))
    running = Threaded(create_app([source]))
    try:
        failed = httpx.post(f"{running.url}/tokenize", json={"content": "x"})
        assert failed.status_code == 500
        assert "gone.gguf" in failed.json()["error"]["message"]
        assert httpx.get(f"{running.url}/health").status_code == 200
    finally:
        running.close()


def test_idle_models_are_unloaded_in_time():
    server = Server(keep_alive=0.4)
    try:
        server.ask("one", keep_alive=-1)
        server.ask("two")
        server.ask("three", keep_alive="1h")
        server.wait_for({"one", "three"})
        server.ask("one", keep_alive=0)
        server.wait_for({"three"})
        assert server.ask("one").status_code == 200  # loaded again, with the server's own time
        server.wait_for({"three"})
        assert server.ask("one", keep_alive="soon").status_code == 400
    finally:
        server.close()


def test_a_model_in_use_stays_until_the_answer_is_complete(server):
    endless = {str(t): -100 for t in Engine.load(PATH, context=64).tokenizer.eog_ids}
    fields = {"stream": True, "max_tokens": 300, "logit_bias": endless, "keep_alive": 0}
    body = {"model": "one", "messages": HELLO, **fields}
    pieces = 0
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if pieces == 1:
                stopped = server.http.post("/admin/stop", json={"model": "one"}).json()
                assert stopped["state"] == "loaded"
                assert stopped["busy"] == 1
            pieces += line.startswith("data: {")
        assert line == "" or line == "data: [DONE]"
    assert pieces > 100
    server.wait_for(set())
    assert server.loads.names == ["one"]


def test_memory_is_made_for_another_by_least_recent_use(server, monkeypatch):
    room = server.loads.source("one").need().total

    def available() -> int:  # room for two of them
        taken = sum(slot.service is not None for slot in slots.values())
        return int((2.5 - taken) * room) + models_promised()

    slots = server._running.app.state.models.slots
    models_promised = server._running.app.state.models._promised
    monkeypatch.setattr(models, "available_memory", available)
    server.ask("one")
    server.ask("two")
    server.ask("one")
    server.ask("three")
    assert server.loaded() == {"one", "three"}
    with ThreadPoolExecutor(4) as pool:  # whatever is used at once, nobody loses its model
        asked = [pool.submit(server.ask, name) for name in ["one", "two", "three"] * 6]
        assert {one.result().status_code for one in asked} == {200}


def test_unloading_frees_the_memory(tmp_path: Path):
    path = random_model(
        tmp_path / "large.gguf", "qwen3", "F16", layers=4, width=1024, heads=8, ffn=4096
    )
    source = Source("large", path, lambda reserved: Engine.load(path, reserved=reserved))
    running = Threaded(create_app([source], ServerOptions(keep_alive=NEVER)))

    def memory() -> int:
        return psutil.Process().memory_info().rss

    try:
        before = memory()
        for _ in range(3):
            httpx.post(f"{running.url}/admin/load", json={"model": "large"}, timeout=60)
            loaded = memory() - before
            httpx.post(f"{running.url}/admin/stop", json={"model": "large"}, timeout=60)
            assert loaded > 0.8 * path.stat().st_size
            assert memory() - before < 0.3 * loaded
    finally:
        running.close()


def listed(server: Server, model: str) -> dict:
    models = server.http.get("/admin/ps").json()["models"]
    return next(one for one in models if one["model"] == model)


@pytest.mark.parametrize("keep_alive", [None, -1])
def test_a_model_that_is_stopped_while_it_is_loaded(server, keep_alive):
    server.loads.go.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.ask, "one", keep_alive=keep_alive)
        while listed(server, "one")["state"] != "loading":
            time.sleep(0.01)
        stopped = server.http.post("/admin/stop", json={"model": "one"}).json()
        assert stopped["state"] == "loading"
        server.loads.go.set()
        assert asked.result().status_code == 200
    server.wait_for(set())
    server.ask("one")
    assert listed(server, "one")["unloads_in"] is None  # the next load is not told of it


def test_a_stop_does_not_wait_for_the_load_of_another_model(server):
    server.ask("one")
    server.loads.go.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.ask, "two")
        while listed(server, "two")["state"] != "loading":
            time.sleep(0.01)
        stopped = server.http.post("/admin/stop", json={"model": "one"}, timeout=5).json()
        assert (stopped["state"], stopped["busy"]) == ("loaded", 0)
        server.loads.go.set()
        assert asked.result().status_code == 200
    server.wait_for({"two"})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (300, 300),
        ("300", 300),
        (0, 0),
        ("0", 0),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        (-1, NEVER),
        ("-1m", NEVER),
    ],
)
def test_times(value, seconds):
    assert keep_alive_seconds(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "soon", "5 m", "m", "5m3", "nan", "inf", "1e999", "-"])
def test_what_is_no_time(value):
    with pytest.raises(UsageError):
        keep_alive_seconds(value)
