"""Where a command is to write: checked before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path

from localllm.errors import UsageError


def require_writable(flag: str, path: Path) -> None:
    """Checks that a file can be made or replaced.

    Args:
        flag: that names it.
        path: of the file.

    Raises:
        UsageError: there is no such folder, it cannot be written, or something else than a file
            has that name.
    """
    if not path.parent.is_dir():
        raise UsageError(f"{flag} {path}: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise UsageError(f"{flag} {path}: is there, and no regular file")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{flag} {path}: {path.parent} cannot be written")
