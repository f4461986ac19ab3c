"""`localllm imatrix`: what it writes and says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from localllm.compress.imatrix import read_imatrix
from localllm.evaluate.synthetic import random_model
from localllm.gguf import GGUFFile
from tests.cli.conftest import Run

TEXT = "one two three, four. " * 200


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "a text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_a_file_is_written(localllm: Run, model: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "imatrix.gguf"
    flags = ("--data", text, "-o", out, "--ctx", 64, "--chunks", 3)
    report = json.loads(localllm("imatrix", model, *flags, "--json").out)
    assert (report["chunks"], report["tokens"], report["bytes"]) == (3, 192, out.stat().st_size)
    assert report["weights"] == len(read_imatrix(out)) == 14
    file = GGUFFile.open(out)
    assert list(file.get("imatrix.datasets", list)) == [str(text).encode()]
    assert file.get("imatrix.chunk_size", int) == 64
    counts = {t.data.view("<f4")[0] for n, t in file.tensors.items() if n.endswith(".counts")}
    assert counts == {192}

    before = out.read_bytes()
    refused = localllm("imatrix", model, *flags)
    assert (refused.code, refused.out) == (2, "")
    assert "is there already (--force replaces it)" in refused.error
    result = localllm("imatrix", model, *flags, "--force")
    assert result.out.startswith(f"{out}: 14 weights, ")
    assert "3 chunks of 64 tokens" in result.out
    assert out.read_bytes() == before


def test_the_text_that_comes_along(localllm: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "imatrix.gguf"
    report = json.loads(localllm("imatrix", model, "-o", out, "--chunks", 2, "--json").out)
    assert report["tokens"] == 2 * 512
    assert list(GGUFFile.open(out).get("imatrix.datasets", list)) == [b"calibration.txt"]


def test_experts_that_no_token_reached(localllm: Run, text: Path, tmp_path: Path) -> None:
    experts = random_model(tmp_path / "experts.gguf", "qwen3moe", experts=64, layers=1)
    out = tmp_path / "imatrix.gguf"
    flags = ("--data", text, "-o", out, "--ctx", 4, "--chunks", 1, "--json")
    result = localllm("imatrix", experts, *flags)
    unseen = json.loads(result.out)["unseen_experts"]
    name = "blk.0.ffn_down_exps.weight"
    assert 56 <= unseen[name] < 64  # two of each of four tokens
    assert "no token reached some experts of 3 weights" in result.error
    assert (read_imatrix(out)[name] == 1).all(1).sum() == unseen[name]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ctx", "0"], "--ctx 0: must be >= 1"),
        (["--chunks", "-1"], "--chunks -1: must be >= 1"),
        (["--data", "missing.txt"], "--data missing.txt: No such file or directory"),
        (["--data", "."], "--data .: not a regular file"),
        (["--data", "latin.txt"], "--data latin.txt: not UTF-8: byte 3"),
        (["--data", "short.txt", "--ctx", "128"], "tokens; 128 are the least with --ctx 128"),
        (["--ctx", "99999999999999999999"], "are the least with --ctx 99999999999999999999"),
        (["-o", "no folder/imatrix.gguf"], "there is no folder no folder"),
        (["-o", "."], "is there, and no regular file"),
    ],
)
def test_what_is_refused(
    flags: list[str],
    message: str,
    localllm: Run,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("latin.txt").write_bytes(b"caf\xe9")
    Path("short.txt").write_bytes(b"too short")
    monkeypatch.setattr("localllm.engine.engine.Engine.load", None)  # nothing is loaded for it
    out = [] if "-o" in flags else ["-o", "imatrix.gguf"]
    result = localllm("imatrix", model, *flags, *out)
    assert result.code == 2
    assert message in result.error
    assert result.error.count("\n") == 1
    assert not Path("imatrix.gguf").exists()
