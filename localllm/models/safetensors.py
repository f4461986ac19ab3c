"""Reads safetensors files: a JSON header, then the tensors' bytes; hostile ones are refused.

The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from localllm.errors import ModelFileError
from localllm.gguf import dequantize, quant_type
from localllm.gguf.mapping import MappedFile
from localllm.gguf.metadata import shown
from localllm.ops.spec import Float32

_MOST_HEADER = 1 << 24  # bytes
_MOST_DIMENSIONS = 8


_FLOATS = {name: quant_type(name) for name in ("F32", "F16", "BF16")}  # GGUF's are the same bytes
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_SIZES = {  # bytes of an element
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor of a safetensors file.

    Attributes:
        name: its name in the file.
        type: as the format calls it; F32, F16 and BF16 can be read.
        shape: row-major.
        file: the mapped file.
        start: where its bytes begin in the file.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    file: MappedFile = field(repr=False)
    start: int = 0

    def float32(self) -> Float32:
        """The values: float32 of `shape`, a copy.

        Raises:
            ModelFileError: it is of a type that is not read, or the file was cut short meanwhile.
        """
        return dequantize(self.stored().view(np.uint8), _FLOATS[self.type], self.shape)

    def stored(self) -> npt.NDArray[Any]:
        """The stored numbers, a flat read-only view of the mapped file; BF16 as uint16.

        Raises:
            ModelFileError: it is of a type that is not read, or the file was cut short meanwhile.
        """
        if self.type not in _FLOATS:
            raise ModelFileError(
                f"{self.file.path}: tensor {shown(self.name)}: type {self.type} is not read "
                f"({', '.join(_FLOATS)} are)"
            )
        self.file.require_unchanged()
        return self._bytes().view(_DTYPES[self.type])

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return _SIZES[self.type] * math.prod(self.shape)

    def release(self) -> None:
        """Let the system take back the memory that reading it took."""
        self.file.release(self._bytes())

    def _bytes(self) -> npt.NDArray[np.uint8]:
        return self.file.data[self.start : self.start + self.nbytes]


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name, none of them read yet.

    Raises:
        ModelFileError: naming the file, and the tensor where one is wrong.
    """
    file = MappedFile(path)
    header, begin = _read_header(file)
    room = file.data.size - begin
    tensors: dict[str, StoredTensor] = {}
    places: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        where = f"{path}: tensor {shown(name)}"
        kind, shape, start, stop = _checked_entry(entry, where)
        if kind not in _SIZES:
            raise ModelFileError(f"{where}: type {shown(kind)} is unknown")
        if stop > room:
            raise ModelFileError(
                f"{where}: its data ends at byte {begin + stop} of a file of "
                f"{file.data.size} bytes",
                "damaged, or not wholly downloaded",
            )
        if stop - start != _SIZES[kind] * math.prod(shape):
            raise ModelFileError(f"{where}: {stop - start} bytes for {kind} of shape {list(shape)}")
        places.append((start, stop, name))
        tensors[name] = StoredTensor(name, kind, shape, file, begin + start)
    end, previous = 0, ""
    for start, stop, name in sorted(places):
        if start < end:
            raise ModelFileError(
                f"{path}: tensor {shown(name)}: its data overlaps that of {shown(previous)}"
            )
        end, previous = stop, name
    return tensors


def _read_header(file: MappedFile) -> tuple[dict[str, Any], int]:
    """The header, and where the data begins."""
    where = f"{file.path}: header"
    if file.data.size < 8:
        raise ModelFileError(f"{where}: cut short after {file.data.size} bytes")
    length = int.from_bytes(file.data[:8].tobytes(), "little")
    if length > min(_MOST_HEADER, file.data.size - 8):
        raise ModelFileError(
            f"{where}: {length} bytes, in a file of {file.data.size} bytes: not a safetensors file"
        )
    try:
        header = json.loads(file.data[8 : 8 + length].tobytes(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, a key twice
        raise ModelFileError(f"{where}: {shown(str(error))}") from None
    if not isinstance(header, dict):
        raise ModelFileError(f"{where}: must be a JSON object")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _checked_entry(entry: Any, where: str) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, and the place in the data, from a line of the header."""
    fields = entry if isinstance(entry, dict) else {}
    kind, shape = fields.get("dtype"), _naturals(fields.get("shape"))
    offsets = _naturals(fields.get("data_offsets"))
    if (
        not isinstance(kind, str)
        or shape is None
        or offsets is None
        or len(shape) > _MOST_DIMENSIONS
        or len(offsets) != 2
        or offsets[0] > offsets[1]
    ):
        raise ModelFileError(f"{where}: needs dtype, shape and data_offsets, and sane ones")
    return kind, shape, offsets[0], offsets[1]


def _naturals(values: Any) -> tuple[int, ...] | None:
    if not isinstance(values, list):
        return None
    sane = all(type(value) is int and 0 <= value < 1 << 62 for value in values)
    return tuple(values) if sane else None
