"""The file that a command writes: what can be wrong with it is said before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from localllm.errors import UsageError


def output_file(flag: str, path: Path, sources: Iterable[Path], force: bool) -> Path:
    """The path that a flag names, if a file can be written there and none of the sources is.

    Args:
        flag: that names it.
        path: of the file.
        sources: files that the command reads.
        force: whether one that is there may be replaced.

    Raises:
        UsageError: it cannot, the file is one that the command reads, or it is there already.
    """
    where = f"{flag} {path}"
    if not path.parent.is_dir():
        raise UsageError(f"{where}: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise UsageError(f"{where}: is there, and no regular file")
    for place in (path.parent, path):
        if place.exists() and not os.access(place, os.W_OK):
            raise UsageError(f"{where}: {place} cannot be written")
    if path.exists() and any(source.exists() and path.samefile(source) for source in sources):
        raise UsageError(f"{where}: is what is read here", "name another file")
    if path.exists() and not force:
        raise UsageError(f"{where}: is there already", "--force replaces it")
    return path
