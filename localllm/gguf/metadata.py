"""GGUF values: a bounds-checked cursor over the mapped file, and lazy string arrays.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Nothing here trusts a length:
each one is held against the bytes that are left before anything is read or allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from localllm._native import scan_strings
from localllm.errors import ModelFileError
from localllm.gguf.mapping import Bytes

UINT32, FLOAT32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9

MAX_NAME_BYTES = 65535
MAX_STRING_BYTES = 1 << 26
MAX_ARRAY_ELEMENTS = 1 << 24  # a hundred times the largest vocabulary
MAX_NESTED_ARRAYS = 1 << 18
MAX_DEPTH = 8

_SCALARS: dict[int, struct.Struct] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
DTYPES: dict[int, np.dtype[Any]] = {kind: np.dtype(form.format) for kind, form in _SCALARS.items()}
_LEAST_ELEMENT_BYTES = {kind: dtype.itemsize for kind, dtype in DTYPES.items()} | {
    STRING: 8,
    ARRAY: 12,
}
_U32, _U64 = _SCALARS[4], _SCALARS[10]


def shown(name: str) -> str:
    """`name` fit for one line of an error message."""
    text = repr(name)[1:-1]
    return text if len(text) <= 80 else text[:77] + "..."


class StringArray(Sequence[bytes]):
    """A string array of a model file: read-only, decoded to bytes only where it is read."""

    __slots__ = ("_data", "_lengths", "_starts")

    def __init__(
        self, data: Bytes, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
    ) -> None:
        self._data = data
        self._starts = starts
        self._lengths = lengths

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> StringArray: ...
    def __getitem__(self, index: int | slice) -> bytes | StringArray:
        if isinstance(index, slice):
            return StringArray(self._data, self._starts[index], self._lengths[index])
        start = int(self._starts[index])
        return self._data[start : start + int(self._lengths[index])].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.tolist())

    def __repr__(self) -> str:
        return f"StringArray({len(self)} strings)"

    def tolist(self) -> list[bytes]:
        """All strings at once; for large arrays much faster than one by one."""
        if not len(self):
            return []
        ends = self._starts + self._lengths
        if (self._starts[1:] - ends[:-1] == 8).all():
            # One record of all strings, unpacked in one call: twice as fast as slicing.
            record = struct.Struct("<" + "8x%ds" * len(self) % tuple(self._lengths.tolist()))
            return list(record.unpack_from(self._data.data, int(self._starts[0]) - 8))
        first = int(self._starts.min())
        blob = self._data[first : int(ends.max())].tobytes()
        return [
            blob[start:end]
            for start, end in zip(
                (self._starts - first).tolist(), (ends - first).tolist(), strict=True
            )
        ]


class Cursor:
    """Reads GGUF values in order; every fault is a ModelFileError naming file and field."""

    def __init__(self, file: str, data: Bytes) -> None:
        self.file = file
        self.data = data
        self.offset = 0
        self._view = data.data
        self._size = len(data)
        self._nested = 0

    def fail(self, field: str, problem: str, hint: str = "") -> ModelFileError:
        """The error to raise for `problem` in `field`."""
        return ModelFileError(f"{self.file}: {shown(field)}: {problem}", hint)

    def need(self, count: int, size: int, field: str) -> None:
        """Checks that `count` things of at least `size` bytes can still follow."""
        left = self._size - self.offset
        if count * size > left:
            raise self.fail(
                field,
                f"needs {count * size} bytes at offset {self.offset}, but {left} are left",
                "damaged or cut short",
            )

    def _unpack(self, form: struct.Struct, field: str) -> Any:
        if form.size > self._size - self.offset:
            self.need(1, form.size, field)
        (value,) = form.unpack_from(self._view, self.offset)
        self.offset += form.size
        return value

    def u32(self, field: str) -> int:
        """An unsigned 32-bit number."""
        return int(self._unpack(_U32, field))

    def u64(self, field: str) -> int:
        """An unsigned 64-bit number."""
        return int(self._unpack(_U64, field))

    def _raw_string(self, field: str, limit: int) -> bytes:
        length = self.u64(field)
        self.need(length, 1, field)
        if length > limit:
            raise self.fail(field, f"a string of {length} bytes; at most {limit} are read")
        start, self.offset = self.offset, self.offset + length
        return bytes(self._view[start : self.offset])

    def name(self, field: str) -> str:
        """A key or tensor name: valid UTF-8 of 1 to 65535 bytes."""
        raw = self._raw_string(field, MAX_NAME_BYTES)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise self.fail(field, "the name is not valid UTF-8") from None
        if not text:
            raise self.fail(field, "the name is empty")
        return text

    def value(self, kind: int, field: str, depth: int = 0) -> Any:
        """A metadata value: a scalar, a numpy array, a StringArray or a list of arrays."""
        if kind == STRING:
            # Shown or rendered, never looked up: a bad byte in a description must not bar a model.
            return self._raw_string(field, MAX_STRING_BYTES).decode(errors="replace")
        if kind == ARRAY:
            return self._array(field, depth)
        form = _SCALARS.get(kind)
        if form is None:
            raise self.fail(field, f"unknown value type {kind}")
        value = self._unpack(form, field)
        if kind == BOOL:
            if value > 1:
                raise self.fail(field, f"{value} is neither true (1) nor false (0)")
            return bool(value)
        return value

    def _array(self, field: str, depth: int) -> Any:
        if depth == MAX_DEPTH:
            raise self.fail(field, f"arrays are nested more than {MAX_DEPTH} deep")
        kind = self.u32(field)
        count = self.u64(field)
        least = _LEAST_ELEMENT_BYTES.get(kind)
        if least is None:
            raise self.fail(field, f"unknown array element type {kind}")
        self.need(count, least, field)
        if count > MAX_ARRAY_ELEMENTS:
            raise self.fail(field, f"{count} elements; at most {MAX_ARRAY_ELEMENTS} are read")
        if kind == STRING:
            return self._strings(field, count)
        if kind == ARRAY:
            self._nested += count
            if self._nested > MAX_NESTED_ARRAYS:
                raise self.fail(field, f"more than {MAX_NESTED_ARRAYS} nested arrays")
            return [self._array(field, depth + 1) for _ in range(count)]
        start, self.offset = self.offset, self.offset + count * least
        # A copy: nothing aligns metadata in the file, and the file may change under a mapping.
        array = self.data[start : self.offset].copy().view(DTYPES[kind])
        if kind == BOOL:
            if count and array.max() > 1:
                raise self.fail(field, "an element is neither true (1) nor false (0)")
            array = array.view(np.bool_)
        array.flags.writeable = False
        return array

    def _strings(self, field: str, count: int) -> StringArray:
        begin = self.offset
        try:
            starts, lengths, self.offset = scan_strings(self.data, begin, count)
        except ValueError:
            raise self.fail(
                field, f"its {count} strings run past the end of the file", "damaged or cut short"
            ) from None
        # A copy, as of numbers: a vocabulary is asked for words long after the file was opened.
        return StringArray(self.data[begin : self.offset].copy(), starts - begin, lengths)
