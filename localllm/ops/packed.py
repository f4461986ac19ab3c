"""Packed weights kept on disk: the next start maps them instead of packing them again.

A file holds the weights of one model as the kernels read them, then a JSON list of their shapes and
their checksums, then the list's length and a magic word. It is written under another name and
renamed when it is complete. Its name is a hash of the model file's size and times, of samples of
its data, and of the layout.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any

from localllm.errors import LocalLLMError
from localllm.ops.native import core_shape, in_memory
from localllm.ops.spec import Bytes, Weight

SUFFIX = ".packed"
UNFINISHED = ".part"
MAGIC = b"LLMPACK1"
TAIL = struct.Struct("<Q8s")  # length of the list, magic word
ALIGNMENT = 4096  # of a weight's place in the file
SMALLEST = 32 << 20  # bytes of weights that are worth a file
GROUP = 64 << 20  # bytes of weights that are packed together
SPARE = 2 << 30  # bytes of the disk that are left free
ABANDONED = 3600  # seconds after which an unfinished file is taken for a leftover


@dataclass(frozen=True)
class PackedCache:
    """Where packed weights are kept.

    Args:
        folder: made when it is needed.
        limit: bytes that all files together may take; those used longest ago give way.
    """

    folder: Path
    limit: int

    def place(self, core: Any, weights: Sequence[Weight]) -> list[int]:
        """The core's numbers of some weights, from the folder or packed now.

        Whatever is wrong with the folder or a file in it, the weights are loaded: at worst they
        are packed into memory.

        Args:
            core: a `_native.Program`.
            weights: each of another name.
        """
        sizes = [_packed_size(weight) for weight in weights]
        # A folder that begins nowhere is one whose home nobody knows.
        if SMALLEST <= sum(sizes) <= self.limit and self.folder.is_absolute():
            with contextlib.suppress(OSError):
                self._remove_leftovers()
                path = self.folder / (_identity(weights) + SUFFIX)
                numbers = _mapped(core, weights, sizes, path)
                return numbers or self._written(core, weights, sizes, path)
        return in_memory(core, weights)

    def files(self) -> dict[Path, int]:
        """The files in the folder and their sizes, those used longest ago first."""
        return self._files(SUFFIX)

    def unfinished(self) -> dict[Path, int]:
        """Files that are being written, or were when their program was ended."""
        return self._files(UNFINISHED)

    def clear(self) -> int:
        """Remove all files, unfinished ones too; the bytes that were freed.

        Raises:
            LocalLLMError: some could not be removed; says why. The others are.
        """
        freed, failures = 0, []
        files = self.files() | self.unfinished()
        for path, size in files.items():
            try:
                path.unlink(missing_ok=True)
                freed += size
            except OSError as error:
                failures.append(error)
        if failures:
            raise LocalLLMError(
                f"{self.folder}: {len(failures)} of {len(files)} files cannot be removed: "
                f"{failures[0].strerror}"
            )
        return freed

    def _files(self, suffix: str) -> dict[Path, int]:
        found = []
        with contextlib.suppress(OSError):
            for path in self.folder.glob("*" + suffix):
                with contextlib.suppress(OSError):  # another process removed it
                    status = path.lstat()
                    if stat.S_ISREG(status.st_mode):
                        found.append((status.st_mtime, path, status.st_size))
        return {path: size for _, path, size in sorted(found)}

    def _written(
        self, core: Any, weights: Sequence[Weight], sizes: list[int], path: Path
    ) -> list[int]:
        """Pack into a new file, and keep it mapped.

        Raises:
            OSError: there is no room, or it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_room(sum(sizes))
        offsets = _offsets(sizes)
        sums: list[int] = []
        handle, name = tempfile.mkstemp(UNFINISHED, dir=self.folder)
        try:
            for start, stop in _groups(sizes):
                group = weights[start:stop]
                sums += core.pack_weights(
                    [core_shape(weight) for weight in group],
                    [weight.data for weight in group],
                    offsets[start:stop],
                    handle,
                )
                for weight in group:
                    weight.info.release()
            os.ftruncate(handle, offsets[-1])
            parts = _parts(handle, sizes)
            listed = json.dumps([list(map(core_shape, weights)), sums]).encode()
            os.lseek(handle, 0, os.SEEK_END)
            os.write(handle, listed + TAIL.pack(len(listed), MAGIC))
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
        return _added(core, weights, parts)

    def _remove_leftovers(self) -> None:
        for path in self.unfinished():
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - ABANDONED:
                    path.unlink()

    def _make_room(self, size: int) -> None:
        """Remove files used long ago, until there is room for so many bytes.

        Raises:
            OSError: the disk is too full.
        """
        kept = self.files()
        needed = size + SPARE
        if shutil.disk_usage(self.folder).free + sum(kept.values()) < needed:
            raise OSError(errno.ENOSPC, "too little room even without the other files")
        for path in list(kept):
            full = shutil.disk_usage(self.folder).free < needed
            if not full and sum(kept.values()) + size <= self.limit:
                break
            path.unlink(missing_ok=True)
            del kept[path]


def _mapped(core: Any, weights: Sequence[Weight], sizes: list[int], path: Path) -> list[int] | None:
    """Numbers of weights that were packed before; None if they were not, or are damaged."""
    try:
        if not path.is_file():  # a pipe would wait for ever
            return None
        with path.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END) - TAIL.size
            stream.seek(max(0, end))
            length, magic = TAIL.unpack(stream.read(TAIL.size))
            if magic != MAGIC or end - length != _offsets(sizes)[-1]:
                return None
            stream.seek(end - length)
            shapes, sums = json.loads(stream.read(length))
            if shapes != [list(core_shape(weight)) for weight in weights]:
                return None
            parts = _parts(stream.fileno(), sizes)
        if sums != [core.checksum(part) for part in parts]:
            return None
        with contextlib.suppress(OSError):  # somebody else's, or on a read-only disk
            os.utime(path)
    except (FileNotFoundError, struct.error, ValueError, OverflowError, TypeError, RecursionError):
        return None
    return _added(core, weights, parts)


def _parts(handle: int, sizes: list[int]) -> list[Bytes]:
    """The packed weights in an open file, mapped in huge pages where the system has them."""
    from localllm import _native

    offsets = _offsets(sizes)
    memory = _native.map_file(handle, offsets[-1])
    places = zip(offsets, sizes, strict=False)
    return [memory[offset : offset + size] for offset, size in places]


def _added(core: Any, weights: Sequence[Weight], parts: list[Bytes]) -> list[int]:
    pairs = zip(weights, parts, strict=True)
    return [core.packed_weight(*core_shape(weight), part) for weight, part in pairs]


def _packed_size(weight: Weight) -> int:
    from localllm import _native

    return _native.packed_size(*core_shape(weight))


def _offsets(sizes: list[int]) -> list[int]:
    """Where each weight begins, and the end of the last: one more."""
    return [0, *accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)]


def _groups(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Ranges of weights that are packed together: many enough to keep all threads busy, few enough
    that the model file's memory is given back soon."""
    start = 0
    for stop in range(1, len(sizes) + 1):
        if stop == len(sizes) or sum(sizes[start:stop]) >= GROUP:
            yield start, stop
            start = stop


def _identity(weights: Sequence[Weight]) -> str:
    """A hash of what the packed bytes depend on; the data itself is only sampled."""
    from localllm import _native

    known = blake2b(digest_size=16)
    known.update(json.dumps([_native.packed_layout, *map(core_shape, weights)]).encode())
    files = (weight.info.file for weight in weights)
    for source in sorted({file.path for file in files if file is not None}):
        status = source.stat()
        # The time of the last change too: a download may set that of the writing.
        times = status.st_mtime_ns, status.st_ctime_ns
        known.update(struct.pack("<qqq", status.st_size, *times))
    for weight in weights:
        middle = weight.data.size // 2
        for part in (weight.data[:64], weight.data[middle : middle + 64], weight.data[-64:]):
            known.update(part.tobytes())
    for weight in weights:  # when all are done: each sample made the system map much around it
        weight.info.release()
    return known.hexdigest()
