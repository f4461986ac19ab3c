"""Importance matrices: how much each column of a weight matters, in the files of llama.cpp.

A column matters as much as what it is multiplied with: the file holds the sums of the squares of
each weight's inputs over the rows of a calibration text, and how many rows there were.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from localllm.errors import ModelFileError
from localllm.gguf import GGUFFile, TensorInfo, write_gguf
from localllm.gguf.mapping import MappedFile
from localllm.gguf.metadata import shown
from localllm.ops.native import InputSquares
from localllm.ops.spec import Float32

_SUMS, _ROWS = ".in_sum2", ".counts"


def write_imatrix(
    path: str | Path,
    squares: Mapping[str, InputSquares],
    *,
    chunks: int,
    chunk_size: int,
    datasets: Sequence[str],
) -> None:
    """Write an importance matrix as llama-imatrix does; `path` appears only when it is whole.

    Args:
        path: where to; an existing file is replaced.
        squares: by the weight's name in the model file.
        chunks: pieces of text that were computed.
        chunk_size: tokens of each.
        datasets: names of the texts, at least one: without it, llama-quantize refuses the file.
    """
    tensors: dict[str, Float32] = {}
    for name in sorted(squares):
        sums, rows = (part.astype(np.float32) for part in (squares[name].sums, squares[name].rows))
        tensors[name + _SUMS] = sums if len(rows) > 1 else sums[0]
        tensors[name + _ROWS] = rows[:, None] if len(rows) > 1 else rows
    metadata = {
        "general.architecture": "imatrix",  # llama.cpp leaves it out; no program looks at it
        "general.type": "imatrix",
        "imatrix.datasets": list(datasets),
        "imatrix.chunk_count": np.uint32(chunks),
        "imatrix.chunk_size": np.uint32(chunk_size),
    }
    write_gguf(path, metadata, tensors)


def read_imatrix(path: str | Path) -> dict[str, Float32]:
    """The mean square of each weight's inputs, from a GGUF file or an older one of llama.cpp.

    An expert that saw no rows has 1 in each column, as llama-quantize has it.

    Returns:
        by the weight's name in the model file, float32 [in], or [experts, in] of stacked experts.
        The older files don't say how many experts there were: there it is always one row, of all
        of them.

    Raises:
        ModelFileError: it is no such file, or what it says cannot be; names the file and the entry.
    """
    path = Path(path)
    mapped = MappedFile(path)
    if mapped.data[:4].tobytes() == b"GGUF":
        return _read_gguf(path)
    return _Legacy(mapped).read()


def _read_gguf(path: Path) -> dict[str, Float32]:
    file = GGUFFile.open(path)
    means: dict[str, Float32] = {}
    for name in file.tensors:
        if name.endswith(_ROWS) and name.removesuffix(_ROWS) + _SUMS not in file.tensors:
            raise ModelFileError(f"{path}: {shown(name)}: there are no sums that go with it")
        if not name.endswith(_SUMS):
            continue
        weight = name.removesuffix(_SUMS)
        where = f"{path}: {shown(name)}"
        if weight + _ROWS not in file.tensors:
            raise ModelFileError(f"{where}: there are no counts that go with it")
        rows = _numbers(path, file.tensors[weight + _ROWS])
        sums = _numbers(path, file.tensors[name])
        if sums.size % rows.size:
            raise ModelFileError(f"{where}: {sums.size} sums do not go with {rows.size} counts")
        sums = sums.reshape(rows.size, -1)
        rows = np.rint(rows)[:, None]
        mean = np.where(rows > 0, sums / np.maximum(rows, 1), np.float32(1))
        means[weight] = mean if len(mean) > 1 else mean[0]
    if not means:
        raise ModelFileError(f"{path}: holds no importance matrix: no tensor is called *{_SUMS}")
    return means


def _numbers(path: Path, tensor: TensorInfo) -> Float32:
    """The values of a tensor of the file, flat; none is negative, infinite or no number."""
    if tensor.type.name != "F32":
        raise ModelFileError(f"{path}: {shown(tensor.name)}: is stored as {tensor.type}, not F32")
    values: Float32 = tensor.data.view("<f4").astype(np.float32)
    _require_sound(values, f"{path}: {shown(tensor.name)}")
    return values


def _require_sound(values: Float32, where: str) -> None:
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if wrong.size:
        raise ModelFileError(f"{where}: value {wrong[0]} is {values[wrong[0]]}, not a number >= 0")


class _Legacy:
    """The files that llama.cpp wrote before: all 32-bit numbers, names and floats in a row.

    The number of entries; of each its name, calls, and values: their count and themselves, the
    means times the calls. What follows them, the chunks and the text's name, may be missing.
    """

    def __init__(self, mapped: MappedFile) -> None:
        self._path = mapped.path
        self._data = mapped.data
        self._at = 0

    def read(self) -> dict[str, Float32]:
        """See `read_imatrix`."""
        means: dict[str, Float32] = {}
        for index in range(self._count("number of entries")):
            where = f"entry {index}"
            name = self._take(self._count(f"length of the name of {where}"), where)
            try:
                weight = name.tobytes().decode()
            except UnicodeDecodeError:
                raise self._fail(where, "its name is not UTF-8") from None
            where = f"{where}, {shown(weight)}"
            if weight in means:
                raise self._fail(where, "stands twice in the file")
            calls = self._int(where)
            values = self._take(4 * self._count(where), where).view("<f4").astype(np.float32)
            _require_sound(values, f"{self._path}: {where}")
            means[weight] = values / np.float32(calls) if calls > 0 else values
        return means

    def _count(self, where: str) -> int:
        number = self._int(where)
        if not 0 < number <= self._data.size:
            raise self._fail(where, f"{number} in a file of {self._data.size} bytes")
        return number

    def _int(self, where: str) -> int:
        number: int = struct.unpack("<i", self._take(4, where).tobytes())[0]
        return number

    def _take(self, size: int, where: str) -> npt.NDArray[np.uint8]:
        part = self._data[self._at : self._at + size]
        if part.size < size:
            raise self._fail(where, f"the file ends before it does, after {self._data.size} bytes")
        self._at += size
        return part

    def _fail(self, where: str, what: str) -> ModelFileError:
        return ModelFileError(
            f"{self._path}: {where}: {what}", "damaged, or not an importance matrix of llama.cpp"
        )
