"""LoRA adapters that come and go while a server runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from localllm.engine.engine import Engine
from localllm.hub.names import resolve
from localllm.server.app import create_app
from localllm.server.slots import Source
from tests.models.adapting import random_pairs, write_adapter
from tests.server.conftest import Threaded

PATH = resolve(None).path
HELLO = [{"role": "user", "content": "Hello, who are you?"}]


class Server:
    """The bundled model, and the routes that the tests use."""

    def __init__(self) -> None:
        source = Source("m", PATH, lambda reserved: Engine.load(PATH, context=512, texts=4))
        self._running = Threaded(create_app([source]))
        self.url = self._running.url

    def ask(self, model: str, path: str = "/v1/chat/completions", **body) -> httpx.Response:
        body = body or {"messages": HELLO, "max_tokens": 12, "temperature": 0}
        return httpx.post(self.url + path, json={"model": model, **body}, timeout=30)

    def change(self, verb: str, **body) -> httpx.Response:
        content = json.dumps(body)  # unlike httpx, it writes half of a surrogate pair
        headers = {"content-type": "application/json"}
        url = f"{self.url}/v1/{verb}_lora_adapter"
        return httpx.post(url, content=content, headers=headers, timeout=30)

    def text(self, model: str) -> str:
        return self.ask(model).json()["choices"][0]["message"]["content"]

    def close(self) -> None:
        self._running.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "a.gguf", random_pairs(PATH), "llama", alpha=40.0)


def test_adapters(server, file):
    plain = server.text("m")
    assert server.ask("m:a").status_code == 404
    loaded = server.change("load", lora_name="m:a", lora_path=str(file))
    assert loaded.json()["adapters"] == ["a"]
    listed = httpx.get(f"{server.url}/v1/models", timeout=30).json()["data"]
    assert [(one["id"], one.get("parent")) for one in listed] == [("m", None), ("m:a", "m")]
    adapted = server.text("m:a")
    assert adapted != plain == server.text("m")
    assert server.ask("m:a", "/v1/embeddings", input="x").status_code == 400
    httpx.post(f"{server.url}/admin/stop", json={"model": "m"}, timeout=30)
    assert server.text("m:a") == adapted  # loaded again, with its adapter
    assert server.change("load", lora_name="a", lora_path=str(file)).status_code == 400
    assert server.change("unload", lora_name="a").json()["adapters"] == []
    assert server.ask("m:a").status_code == 404
    assert server.change("unload", lora_name="a").status_code == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"messages": HELLO}),
        ("completions", {"prompt": "x"}),
        ("responses", {"input": "x"}),
        ("messages", {"messages": HELLO}),
    ],
)
def test_an_answer_says_which_adapter_made_it(server, file, path, body):
    server.change("load", lora_name="m:a", lora_path=str(file))
    limit = "max_output_tokens" if path == "responses" else "max_tokens"
    answer = server.ask("m:a", f"/v1/{path}", **body, **{limit: 1}).json()
    assert answer["model"] == "m:a"


def _of_another_model(folder: Path) -> Path:
    return write_adapter(folder / "other.gguf", random_pairs(PATH), "qwen3")


def _cut_short(folder: Path) -> Path:
    path = write_adapter(folder / "cut.gguf", random_pairs(PATH), "llama")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


@pytest.mark.parametrize(
    "make",
    [
        _of_another_model,
        _cut_short,
        _pipe,
        lambda folder: folder,
        lambda folder: folder / "nothing",
        lambda folder: folder / ("x" * 5000),
        lambda folder: "a\0b",
        lambda folder: "\udc80",
        lambda folder: PATH,
    ],
)
def test_what_is_no_adapter(server, tmp_path, make: Callable[[Path], Path | str]):
    refused = server.change("load", lora_name="a", lora_path=str(make(tmp_path)))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "lora_path"
    assert server.text("m")
    assert server.ask("m:a").status_code == 404


@pytest.mark.parametrize("name", ["", "m:", "m:a\nb", "m:\u202e", "m:\ud800", "m:" + "x" * 201])
def test_what_is_no_name_of_an_adapter(server, file, name):
    refused = server.change("load", lora_name=name, lora_path=str(file))
    assert refused.status_code == 400
    assert len(httpx.get(f"{server.url}/v1/models", timeout=30).json()["data"]) == 1
    assert server.ask("m:").status_code == 404


def test_an_adapter_is_a_models_and_not_an_adapters(server, file):
    assert server.change("load", lora_name="m:a", lora_path=str(file)).status_code == 200
    assert server.change("load", lora_name="m:a:b", lora_path=str(file)).status_code == 400
    assert server.change("unload", lora_name="m:a:a").status_code == 400
    assert server.text("m:a")


def test_an_adapter_whose_file_is_gone_can_be_unloaded(server, file):
    """Else the model could not be loaded any more."""
    server.change("load", lora_name="a", lora_path=str(file))
    httpx.post(f"{server.url}/admin/stop", json={"model": "m"}, timeout=30)
    file.unlink()
    failed = server.ask("m")
    assert failed.status_code == 500
    assert f"{file}: no such file" in failed.json()["error"]["message"]
    assert server.change("unload", lora_name="a").json()["adapters"] == []
    assert server.text("m")


def test_adapters_come_and_go_beside_streams(server, file):
    server.change("load", lora_name="a", lora_path=str(file))
    asked = {"model": "m:a", "prompt": "x", "max_tokens": 60, "ignore_eos": True, "stream": True}

    def stream() -> list[str]:
        with httpx.stream("POST", f"{server.url}/v1/completions", json=asked, timeout=30) as answer:
            lines = []
            for line in answer.iter_lines():
                if not lines:
                    refused = server.change("unload", lora_name="a")
                    assert "in use" in refused.json()["error"]["message"]
                lines.append(line)
            return lines

    memory = []
    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(stream) for _ in range(4)]
        for _ in range(40):
            assert server.change("load", lora_name="b", lora_path=str(file)).status_code == 200
            assert server.text("m:b")
            assert server.change("unload", lora_name="b").status_code == 200
            memory.append(psutil.Process().memory_info().rss)
        for one in streams:
            assert one.result()[-2] == "data: [DONE]"
    assert memory[-1] - memory[19] < 10 * file.stat().st_size
    assert server.change("unload", lora_name="a").status_code == 200
