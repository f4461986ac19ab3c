"""A file mapped into memory: its bytes without a copy, as long as nobody cuts it short."""

from __future__ import annotations

import mmap
import stat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from localllm.errors import ModelFileError

Bytes = npt.NDArray[np.uint8]


class MappedFile:
    """A file mapped read-only; the mapping lives as long as an array of its bytes.

    Attributes:
        path: where it was found.
        data: its bytes, uint8 [size], a read-only view.

    Raises:
        ModelFileError: there is no regular file with something in it, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                raise ModelFileError(f"{path}: is a directory, not a GGUF file")
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
                raise ModelFileError(f"{path}: is not a regular file")
            if status.st_size == 0:
                raise ModelFileError(f"{path}: the file is empty")
            with path.open("rb") as stream:
                self._memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise ModelFileError(f"{path}: no such file") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ModelFileError(f"{path}: cannot be read: {reason}") from None
        self.data: Bytes = np.frombuffer(self._memory, np.uint8)

    def require_unchanged(self) -> None:
        """Checks that the file has the size it had when it was opened.

        To touch a mapped page that the file no longer reaches ends the process (SIGBUS), so this
        comes before a read that must not.

        Raises:
            ModelFileError: it has another size.
        """
        size = self._memory.size()  # the file's, which the mapping does not follow
        if size != self.data.size:
            how = "truncated" if size < self.data.size else "changed"
            raise ModelFileError(f"{self.path}: the file was {how} while in use", "load it again")

    def release(self, part: Bytes) -> None:
        """Let the system take back the memory of a view of `data`; a later use reads it again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            offset = part.ctypes.data - self.data.ctypes.data
            start = offset - offset % mmap.PAGESIZE
            self._memory.madvise(mmap.MADV_DONTNEED, start, offset + part.size - start)
