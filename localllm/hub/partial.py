"""A file that is downloaded in several places at once, and resumed where it stopped."""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from localllm.files import require_space

_SEGMENTS = 8  # connections for a large file
_SMALLEST_SEGMENT = 4 * 2**20  # bytes
_COUNT = struct.Struct("<Q")
_HASHED = 4 * 2**20  # bytes read at once
_SPARE = 64 * 2**20  # bytes that a download leaves free on the disk


def to_allocate(path: Path, size: int) -> int:
    """Bytes that the disk will still be asked for until an unfinished file is whole."""
    try:
        return max(0, size - getattr(path.stat(), "st_blocks", 0) * 512)
    except FileNotFoundError:
        return size


def require_room(folder: Path, sizes: Mapping[Path, int], hint: str) -> None:
    """Checks that a disk has room for what unfinished files lack, and some more.

    Args:
        folder: on that disk.
        sizes: bytes of each file when it will be whole.
        hint: what to do where it has not.

    Raises:
        LocalLLMError: it has not.
    """
    needed = sum(to_allocate(path, size) for path, size in sizes.items())
    if needed:
        require_space(folder, needed + _SPARE, hint)


def sha256_of(
    path: Path, size: int | None = None, heard: Callable[[int], None] = lambda done: None
) -> str:
    """The hash of a file's first `size` bytes, or of all; `heard` is told how many were read."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as file:
        while data := file.read(_HASHED if size is None else min(_HASHED, size - done)):
            digest.update(data)
            done += len(data)
            heard(done)
    return digest.hexdigest()


class PartialFile:
    """The bytes of a file that are here, each where it belongs.

    The file is cut into segments that are filled from their beginnings. Behind the bytes stands a
    64-bit number for each segment: how many of it there are. It is written after the bytes that it
    counts, so that a program that is killed at any moment has lost none, and counted none too many.

    Args:
        path: of the unfinished file; a former one of the same size is gone on with.
        size: bytes of the whole.
        segments: to cut it into; None: as many as its size is worth.
    """

    def __init__(self, path: Path, size: int, segments: int | None = None) -> None:
        count = segments or max(1, min(_SEGMENTS, size // _SMALLEST_SEGMENT))
        self.path = path
        self.size = size
        self.starts = [size * i // count for i in range(count + 1)]
        self._lock = threading.Lock()
        number = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        self._file = os.fdopen(number, "r+b", buffering=0)
        try:
            self.counts = self._read_counts()
        except OSError:
            self._file.close()
            raise

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def done(self) -> int:
        """Bytes that are here."""
        return sum(self.counts)

    @property
    def missing(self) -> list[int]:
        """The segments that are not whole."""
        return [i for i in range(len(self.counts)) if self.place(i) < self.starts[i + 1]]

    def place(self, segment: int) -> int:
        """Where the next byte of a segment belongs."""
        return self.starts[segment] + self.counts[segment]

    def write(self, segment: int, data: bytes) -> None:
        """Add bytes to a segment; what does not belong to it is left out."""
        data = data[: self.starts[segment + 1] - self.place(segment)]
        with self._lock:
            self._put(self.place(segment), data)
            self._count(segment, self.counts[segment] + len(data))

    def restart(self) -> None:
        """Begin again, in one segment, for a server that sends a file from its beginning only."""
        with self._lock:
            self.starts = [0, self.size]
            self.counts = self._empty()

    def sha256(self, heard: Callable[[int], None]) -> str:
        """The hash of all bytes; `heard` is told how many it has read."""
        return sha256_of(self.path, self.size, heard)

    def finish(self, target: Path) -> None:
        """Give the whole file its place and its name."""
        self._file.truncate(self.size)
        os.fsync(self._file.fileno())
        self.close()
        self.path.replace(target)

    def remove(self) -> None:
        """Remove what is here."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep what is here for another time; a thread that still writes is refused."""
        with self._lock:
            self._file.close()

    def _read_counts(self) -> list[int]:
        lengths = [b - a for a, b in zip(self.starts, self.starts[1:], strict=False)]
        whole = self.size + _COUNT.size * len(lengths)
        if os.fstat(self._file.fileno()).st_size == whole:
            self._file.seek(self.size)
            counts = [count for (count,) in _COUNT.iter_unpack(self._file.read())]
            if all(count <= length for count, length in zip(counts, lengths, strict=True)):
                return counts
        return self._empty()  # there was none, or not one of this size

    def _empty(self) -> list[int]:
        count = len(self.starts) - 1
        self._file.truncate(0)
        self._file.truncate(self.size + _COUNT.size * count)
        return [0] * count

    def _count(self, segment: int, count: int) -> None:
        self._put(self.size + _COUNT.size * segment, _COUNT.pack(count))
        self.counts[segment] = count

    def _put(self, place: int, data: bytes) -> None:
        view = memoryview(data)
        self._file.seek(place)
        while view:
            view = view[self._file.write(view) :]
