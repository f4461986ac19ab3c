"""The file that `--plot` names: checked before anything is measured, written whole."""

from __future__ import annotations

from pathlib import Path

from localllm.cli.output_file import output_file
from localllm.errors import LocalLLMError, UsageError
from localllm.files import replacing


def picture_file(plot: str, other: str = "") -> Path:
    """Where to write; `other` says what --plot takes beside an .svg file.

    Raises:
        UsageError: it cannot be written there.
    """
    path = Path(plot)
    if path.suffix != ".svg":
        raise UsageError(f"--plot {plot}: must be an .svg file{other}")
    return output_file("--plot", path, (), force=True)


def write_picture(path: Path, text: str) -> None:
    """Write a picture.

    Raises:
        LocalLLMError: it cannot be written; names it.
    """
    try:
        with replacing(path) as beside:
            beside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise LocalLLMError(f"--plot {path}: cannot be written: {error.strerror}") from None
