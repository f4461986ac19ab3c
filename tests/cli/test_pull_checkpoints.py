"""`localllm pull` of a repository that holds a checkpoint, and what a person is asked."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import pexpect
import pytest

from tests.cli.conftest import CODE
from tests.cli.hub_client import Client, content
from tests.hub.standin import Repo

NAME = "user/model"
TINY = Path(__file__).resolve().parents[2] / "localllm" / "assets" / "tiny-chat.gguf"
FILES = {
    "config.json": b'{"architectures": []}',
    "tokenizer.json": content(9000, 1),
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model-00001-of-00002.safetensors": content(5000, 2),
    "model-00002-of-00002.safetensors": content(6000, 3),
    "model.safetensors.index.json": b"{}",
    "1_Pooling/config.json": b"{}",
    "README.md": b"---\nlicense: mit\n---\n",
}
OTHERS = {
    "consolidated.safetensors": content(11_000, 4),
    "onnx/model.onnx": b"no",
    "pytorch_model.bin": b"no",
}


def test_a_checkpoint_is_converted(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.hub.repos[NAME] = Repo(FILES | OTHERS)
    calls: list[tuple[str, dict[str, bytes]]] = []

    def convert_checkpoint(folder: Path, output: Path, *, type: str = "F16") -> None:
        found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        calls.append((type, {name: path.read_bytes() for name, path in found.items()}))
        output.write_bytes(TINY.read_bytes())

    monkeypatch.setattr("localllm.convert.convert_checkpoint", convert_checkpoint)
    result = client("pull", NAME, "--json")
    assert result.code == 0, result.error
    document = json.loads(result.out)
    assert document["name"] == f"{NAME}:F16"
    assert document["revision"] == client.hub.repos[NAME].sha
    assert calls == [("F16", FILES)]
    assert json.loads(client("show", NAME, "--json").out)["path"] == document["path"]
    assert client("pull", NAME).code == 0
    assert len(calls) == 1  # it is there
    assert client("pull", f"{NAME}:bf16").code == 0
    assert calls[1][0] == "BF16"
    wrong = client("pull", f"{NAME}:Q4_K_M")
    assert wrong.code == 2
    assert "has no Q4_K_M, but safetensors" in wrong.error
    sources = client.cache / "models--user--model"
    assert client("rm", f"{NAME}:BF16", "--yes").code == 0
    assert sources.is_dir()  # the other one was made of them too
    document = json.loads(client("rm", NAME, "--yes", "--json").out)
    assert document["name"] == f"{NAME}:F16 and the checkpoint of {NAME}"
    assert document["freed"] >= TINY.stat().st_size + sum(map(len, set(FILES.values())))
    assert not sources.exists()


def test_rm_clears_a_checkpoint_of_which_no_model_was_made(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.hub.repos[NAME] = Repo(FILES)
    assert client("pull", NAME).code == 1  # its tokenizer is none
    document = json.loads(client("rm", NAME, "--yes", "--json").out)
    assert document["name"] == f"the checkpoint of {NAME}"
    assert len(document["files"]) == len(FILES)
    assert client("rm", NAME, "--yes").code == 1


def test_a_disk_that_the_converted_model_fills(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # of a write: it names no file

    client.hub.repos[NAME] = Repo(FILES)
    monkeypatch.setattr("localllm.convert.convert_checkpoint", full)
    result = client("pull", NAME)
    assert result.code == 1
    folder = client.folder / "data" / "localllm" / "models" / NAME
    assert result.error.startswith(f"error: {folder}: No space left on device (")
    assert result.error.count("\n") == 1


def test_small_files_are_verified_too(client: Client) -> None:
    client.hub.repos[NAME] = Repo(FILES)
    client.hub.faults.corrupt = 1  # of every file, also of those that git keeps
    for _ in range(2):
        result = client("pull", NAME)
        assert result.code == 1
        assert "arrived damaged" in result.error
    assert not any(path.name == "config.json" for path in client.visible())


def test_what_is_asked_on_a_terminal(client: Client) -> None:
    name = "user/model-GGUF"
    client.hub.repos[name] = Repo({"m-Q8_0.gguf": content(20), "m-F16.gguf": TINY.read_bytes()})
    arguments = ["-c", CODE, "run", name, "Hello!", "--max-tokens", "3", "--temperature", "0"]
    child = pexpect.spawn(
        sys.executable,
        arguments,
        env=client.environment | {"TERM": "xterm"},  # type: ignore[arg-type]
        cwd=str(client.folder),
        timeout=60,
        encoding="utf-8",
    )
    child.expect(r"user/model-GGUF is not here.* Download it\? \[Y/n\]")
    child.sendline("y")
    child.expect(r"1  Q8_0 +20 bytes\s+2  F16 +11\.7 MB\s+Which one of user/model-GGUF\? \[1-2\]")
    child.sendline("f16")
    child.expect("Hello! How")
    child.expect(pexpect.EOF)
    assert client("rm", f"{name}:F16", "--yes").code == 0
