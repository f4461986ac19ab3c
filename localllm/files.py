"""Files that are written whole or not at all, where there is room for them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localllm.errors import LocalLLMError
from localllm.units import in_bytes


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which takes its place at the end.

    Where the writing fails a former file stays, and nothing is left beside it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from changing a file in between; the lock stays beside it."""
    from huggingface_hub.utils import WeakFileLock  # late: few commands need it

    with WeakFileLock(path.with_name(f".{path.name}.lock")):
        yield


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed at the end.

    Raises:
        LocalLLMError: there is no place for one.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="localllm-")
    except OSError as error:
        raise LocalLLMError(
            f"no temporary folder can be made: {error.strerror}", "TMPDIR names another place"
        ) from None
    with folder as path:
        yield Path(path)


def require_space(folder: Path, needed: int, hint: str = "") -> None:
    """Checks that a folder's disk has room.

    Args:
        folder: which is there.
        needed: bytes.
        hint: what to do where it has not.

    Raises:
        LocalLLMError: it has not; says both numbers.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        numbers = f"{in_bytes(needed)} are needed, {in_bytes(free)} are free"
        raise LocalLLMError(f"not enough room in {folder}: {numbers}", hint)
