"""Packed weights on disk, and drafted tokens, as the command line has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from localllm.ops import packed
from tests.cli.conftest import Run


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(packed, "SMALLEST", 0)
    monkeypatch.setattr(packed, "SPARE", 0)


def state(localllm: Run, *flags: object) -> dict[str, int]:
    result = localllm("cache", "--json", *flags)
    assert result.code == 0
    document: dict[str, int] = json.loads(result.out)
    return document


def test_run_keeps_packed_weights_and_clear_removes_them(localllm: Run, model: Path) -> None:
    assert state(localllm)["files"] == 0
    answers = {
        localllm("run", model, "hello", "--seed", 1, "--max-tokens", 4).out for _ in range(2)
    }
    assert len(answers) == 1
    kept = state(localllm)
    assert kept["files"] == 1
    assert 0 < kept["bytes"] < kept["limit"] == 20e9
    assert "1 model," in localllm("cache").out
    assert state(localllm, "--clear")["freed"] == kept["bytes"]
    assert state(localllm)["bytes"] == 0


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_what_cannot_be_removed(
    localllm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    def fail(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    place = {"XDG_CACHE_HOME": str(tmp_path)}
    folder = Path(json.loads(localllm("cache", "--json", **place).out)["folder"])
    folder.mkdir(parents=True)
    (folder / "x.packed").write_bytes(b"weights")
    monkeypatch.setattr(Path, "unlink", fail)
    result = localllm("cache", "--clear", *flags, **place)
    assert (result.code, result.out) == (1, "")
    assert result.error == (f"error: {folder}: 1 of 1 files cannot be removed: Permission denied\n")


def test_no_space_no_files(localllm: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert localllm("run", model, "hello", "--max-tokens", 4, "--packed-cache", 0).code == 0
    assert state(localllm)["files"] == 0
    monkeypatch.setenv("LOCALLLM_PACKED_CACHE", "0")
    assert state(localllm)["limit"] == 0
    for result in (
        localllm("run", model, "hello", "--packed-cache", -1),
        localllm("cache", LOCALLLM_PACKED_CACHE="-1"),
    ):
        assert result.code == 2
        assert result.error.startswith(
            "error: packed-cache -1.0: must be >= 0 and <= 1000000 (set by LOCALLLM_PACKED_CACHE, "
        )


@pytest.mark.parametrize("draft", ["none", "lookup", "the model"])
def test_drafts_change_no_token(localllm: Run, model: Path, draft: str) -> None:
    flags = ("run", model, "Repeat: a b a b a b a b", "--seed", 3, "--max-tokens", 60, "--json")
    plain = json.loads(localllm(*flags, "--draft", "none").out)
    drafted = json.loads(localllm(*flags, "--draft", model if draft == "the model" else draft).out)
    assert drafted["token_ids"] == plain["token_ids"]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--device", "cuda"), "with --device cuda, only on the cpu"),
        (("--no-kv-cache",), "without the KV cache"),
    ],
)
def test_where_no_model_drafts(
    localllm: Run, model: Path, tmp_path: Path, flags: tuple[str, ...], problem: str
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.touch()  # it is not opened
    result = localllm("run", broken, "hello", "--draft", model, *flags)
    assert result.code == 2
    assert result.error == f"error: --draft: nothing is drafted {problem}\n"


def test_a_draft_model_of_another_vocabulary(localllm: Run, model: Path, tmp_path: Path) -> None:
    from localllm.evaluate.synthetic import random_model

    other = random_model(tmp_path / "other.gguf", "llama")
    result = localllm("run", model, "hello", "--draft", other)
    assert result.code == 2
    assert result.error.count("\n") == 1
    assert "has another vocabulary" in result.error
