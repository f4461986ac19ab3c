"""Files that commands write: none of those that they read, and nothing that is no file."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Result, Run
from tests.convert.by_hand import checkpoint


def refused(result: Result, message: str) -> None:
    assert (result.code, result.out) == (2, ""), result
    assert message in result.error
    assert result.error.count("\n") == 1


@pytest.fixture
def mine(model: Path, tmp_path: Path) -> Path:
    """A copy of a model, which may be lost."""
    return Path(shutil.copy(model, tmp_path / "mine.gguf"))


@pytest.mark.parametrize("link", [None, "symlink_to", "hardlink_to"])
def test_imatrix_keeps_the_model(
    localllm: Run, mine: Path, tmp_path: Path, link: str | None
) -> None:
    before, out = mine.read_bytes(), mine
    if link is not None:
        out = tmp_path / "link.gguf"
        getattr(out, link)(mine)
    refused(localllm("imatrix", mine, "-o", out, "--ctx", 16), "is what is read here")
    assert mine.read_bytes() == before


def test_imatrix_keeps_the_text(localllm: Run, model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("one two three " * 99)
    arguments = ("imatrix", model, "--data", text, "-o", text, "--ctx", 16)
    refused(localllm(*arguments), "is what is read here")
    assert text.read_text().startswith("one two three")


def test_quantize_keeps_the_importance_matrix(localllm: Run, model: Path, tmp_path: Path) -> None:
    matrix = tmp_path / "imatrix.gguf"
    assert localllm("imatrix", model, "-o", matrix, "--ctx", 16, "--chunks", 2).code == 0
    before = matrix.read_bytes()
    arguments = ("quantize", model, "Q4_0", "--imatrix", matrix, "-o", matrix, "--force")
    refused(localllm(*arguments), "is what is read here")
    assert matrix.read_bytes() == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_convert_keeps_the_checkpoint(localllm: Run, tmp_path: Path, name: str) -> None:
    folder = checkpoint(tmp_path / "tiny")
    before = (folder / name).read_bytes()
    refused(localllm("convert", folder, "-o", folder / name), "is what is read here")
    assert (folder / name).read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_pipe_stays_a_pipe(localllm: Run, model: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    for arguments in (
        ("quantize", model, "Q4_0", "-o", pipe, "--force"),
        ("imatrix", model, "-o", pipe, "--ctx", 16),
        ("convert", checkpoint(tmp_path / "tiny"), "-o", pipe),
    ):
        refused(localllm(*arguments), "is there, and no regular file")
        assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_is_printed_is_no_command_of_the_terminal(
    localllm: Run, model: Path, tmp_path: Path
) -> None:
    result = localllm("quantize", model, "Q4_0", "-o", tmp_path / "a\x1b[31mb.gguf")
    assert result.code == 0
    assert "\x1b" not in result.out + result.error
