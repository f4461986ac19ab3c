"""`localllm convert` as a user runs it."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from localllm.gguf import GGUFFile
from tests.convert.by_hand import checkpoint

from .conftest import Run


def test_a_folder_becomes_a_file(localllm: Run, tmp_path: Path) -> None:
    folder, file = checkpoint(tmp_path / "tiny"), tmp_path / "made.gguf"
    result = localllm("convert", str(folder), "-o", str(file), "--type", "bf16")
    assert (result.code, result.error) == (0, "")
    assert result.out.startswith(f"{file}: llama, ")
    assert GGUFFile.open(file).tensors["output.weight"].type.name == "BF16"


def test_as_json(localllm: Run, tmp_path: Path) -> None:
    folder, file = checkpoint(tmp_path / "tiny"), tmp_path / "made.gguf"
    result = localllm("convert", str(folder), "-o", str(file), "--type", "auto", "--json")
    document = json.loads(result.out)
    assert document["path"] == str(file)
    assert (document["architecture"], document["type"]) == ("llama", "F32")
    assert document["bytes"] == file.stat().st_size


def test_what_cannot_be_done(localllm: Run, tmp_path: Path) -> None:
    folder = str(checkpoint(tmp_path / "tiny"))
    for arguments, code, message in (
        ([str(tmp_path / "none")], 2, "is not a folder"),
        ([folder, "--type", "Q4_K"], 2, "--type Q4_K: is none of"),
        ([folder, "-o", str(tmp_path / "none" / "x.gguf")], 2, "there is no folder"),
        ([folder, "-o", folder], 2, "no regular file"),
    ):
        result = localllm("convert", *arguments)
        assert result.code == code
        assert message in result.error
        assert result.error.count("\n") == 1
    (tmp_path / "tiny" / "config.json").write_text("{")
    result = localllm("convert", folder, "-o", str(tmp_path / "x.gguf"))
    assert result.code == 1
    assert "config.json: is not JSON" in result.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        # of a write: it names no file
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        # of numpy, which has written a part
        (OSError("8 requested and 3 written"), "only a part of it could be; the disk may be full"),
    ],
)
def test_a_disk_that_fills_up(
    localllm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str
) -> None:
    def full(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("gguf.GGUFWriter.write_tensor_data", full)
    file = tmp_path / "made.gguf"
    result = localllm("convert", checkpoint(tmp_path / "tiny"), "-o", file)
    assert result.code == 1
    assert result.error == f"error: --out {file}: cannot be written: {reason}\n"
    assert not list(tmp_path.glob("*made*")) + list(tmp_path.glob(".*made*"))
