"""Reads GGUF model files: tensors mapped, never copied, and safe on hostile input."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, overload

import numpy as np

from localllm.errors import ModelFileError
from localllm.gguf.mapping import Bytes, MappedFile
from localllm.gguf.metadata import BOOL, DTYPES, STRING, UINT32, Cursor, StringArray, shown
from localllm.gguf.types import QuantType, quant_type_by_id

T = TypeVar("T")
D = TypeVar("D")

_MAX_TENSORS = 1 << 18
_MAX_KEYS = 1 << 16
_MAX_DIMENSIONS = 4
_MAX_ALIGNMENT = 1 << 20
_SHARD_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_MISSING: Any = object()


@dataclass(frozen=True, eq=False)
class TensorInfo:
    """A tensor of a model file.

    Attributes:
        name: its name in the file.
        type: how its elements are stored.
        shape: row-major: the last is the contiguous one; a linear weight is (out, in), experts
            (n, out, in).
        data: the stored bytes, uint8 [nbytes], a read-only view of the mapped file.
        file: the mapped file; None for a tensor in memory.
    """

    name: str
    type: QuantType
    shape: tuple[int, ...]
    data: Bytes = field(repr=False)
    file: MappedFile | None = field(default=None, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the file."""
        return self.data.size

    def release(self) -> None:
        """Let the system take back the memory of the mapped bytes; a later use reads them again."""
        if self.file is not None:
            self.file.release(self.data)


class GGUFFile:
    """An open model file; the shards of a split file appear as one.

    Attributes:
        path: the file that was opened.
        version: GGUF version, 2 or 3.
        metadata: values by key: int, float, bool or str; numeric arrays as read-only numpy arrays,
            arrays of strings as StringArray, arrays of arrays as lists.
        tensors: tensors by name, in the order of the file.
        shards: the files that are mapped; one for a file that is not split.
    """

    def __init__(
        self,
        path: Path,
        version: int,
        metadata: Mapping[str, Any],
        tensors: Mapping[str, TensorInfo],
        shards: tuple[MappedFile, ...] = (),
        number_types: Mapping[str, np.dtype[Any]] = MappingProxyType({}),
    ) -> None:
        self.path = path
        self.version = version
        self.metadata = MappingProxyType(dict(metadata))
        self.tensors = MappingProxyType(dict(tensors))
        self.shards = shards
        self._number_types = number_types

    @classmethod
    def open(cls, path: str | Path) -> GGUFFile:
        """Opens a GGUF file, or the whole set where the file is a shard of a split one.

        Raises:
            ModelFileError: naming the file and the field that is wrong.
        """
        path = Path(path)
        file = _read_file(path)
        if file.get("split.count", int, 1) > 1:
            return _join_shards(file)
        return file

    @property
    def nbytes(self) -> int:
        """Bytes of all its shards."""
        return sum(shard.data.size for shard in self.shards)

    def release(self) -> None:
        """Let the system take back the memory of all that was read; a later use reads it again."""
        for shard in self.shards:
            shard.release(shard.data)

    def exact_metadata(self) -> dict[str, Any]:
        """The metadata for `write_gguf`: each number as wide as it is in this file."""
        numbers = {key: dtype.type(self.metadata[key]) for key, dtype in self._number_types.items()}
        return {**self.metadata, **numbers}

    def require_unchanged(self) -> None:
        """See `MappedFile.require_unchanged`: of every shard."""
        for shard in self.shards:
            shard.require_unchanged()

    def __repr__(self) -> str:
        return f"GGUFFile({str(self.path)!r}, {len(self.tensors)} tensors)"

    @overload
    def get(self, key: str, kind: type[list[Any]]) -> Any: ...
    @overload
    def get(self, key: str, kind: type[T]) -> T: ...
    @overload
    def get(self, key: str, kind: type[list[Any]], default: Any) -> Any: ...
    @overload
    def get(self, key: str, kind: type[T], default: D) -> T | D: ...
    def get(self, key: str, kind: type[Any], default: Any = _MISSING) -> Any:
        """The metadata value of `key`, checked to be of `kind`.

        Args:
            key: full key, such as ``"llama.block_count"``.
            kind: int, float (takes whole numbers too), bool, str or list (any array, as it is).
            default: returned where the key is absent; without it an absent key is an error.

        Raises:
            ModelFileError: absent without default, or of another kind.
        """
        value = self.metadata.get(key, _MISSING)
        if value is _MISSING:
            if default is _MISSING:
                raise ModelFileError(f"{self.path}: {shown(key)}: missing from the file's metadata")
            return default
        if kind is list:
            fits = isinstance(value, list | np.ndarray | StringArray)
        elif kind is float:
            fits = isinstance(value, int | float) and not isinstance(value, bool)
            value = float(value) if fits else value
        elif kind is int:
            fits = isinstance(value, int) and not isinstance(value, bool)
        else:
            fits = isinstance(value, kind)
        if not fits:
            raise ModelFileError(
                f"{self.path}: {shown(key)}: expected {kind.__name__}, found {_kind_name(value)}"
            )
        return value


def _kind_name(value: Any) -> str:
    if isinstance(value, StringArray):
        return "an array of strings"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype.name}"
    return type(value).__name__


_OTHER_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive or PyTorch checkpoint"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"lmgg", "a ggml file from before GGUF"),
    (b"fmgg", "a ggml file from before GGUF"),
    (b"tjgg", "a ggml file from before GGUF"),
    (b"algg", "a ggml adapter from before GGUF"),
    (b"FUGG", "a GGUF with its bytes swapped"),
    (b"version https://git-lfs", "a git-lfs pointer; the file itself was not downloaded"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
)


def _looks_like(head: bytes) -> str:
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "a safetensors file"
    for magic, what in _OTHER_FORMATS:
        if head.lower().startswith(magic.lower()):
            return what
    if head.lstrip()[:1] in (b"{", b"["):
        return "a JSON file"
    return ""


def _read_header(cursor: Cursor, path: Path) -> int:
    head = cursor.data[:64].tobytes()
    if head[:4] != b"GGUF":
        if len(head) < 4 and b"GGUF".startswith(head):
            raise ModelFileError(f"{path}: header: cut short after {len(head)} bytes")
        guess = _looks_like(head)
        raise ModelFileError(
            f"{path}: not a GGUF file: it begins with {head[:4]!r}"
            + (f"; it looks like {guess}" if guess else "")
        )
    cursor.offset = 4
    version = cursor.u32("version")
    if version & 0xFFFF == 0 and version:
        raise cursor.fail("version", "the file is big-endian; only little-endian GGUF is read")
    if version == 1:
        raise cursor.fail("version", "GGUF version 1 is not supported", "convert the model again")
    if version not in (2, 3):
        raise cursor.fail("version", f"GGUF version {version} is unknown; 2 and 3 are read")
    return version


def _read_metadata(cursor: Cursor, count: int) -> tuple[dict[str, Any], dict[str, np.dtype[Any]]]:
    """The values by key, and how wide those are that are single numbers."""
    metadata: dict[str, Any] = {}
    number_types: dict[str, np.dtype[Any]] = {}
    for index in range(count):
        key = cursor.name(f"metadata key {index}")
        if key in metadata:
            raise cursor.fail(key, "the metadata key stands twice in the file")
        kind = cursor.u32(key)
        if key == "general.alignment" and kind != UINT32:
            raise cursor.fail(key, f"must be a 32-bit unsigned number, found value type {kind}")
        if key == "general.architecture" and kind != STRING:
            raise cursor.fail(key, f"must be a string, found value type {kind}")
        metadata[key] = cursor.value(kind, key)
        if kind in DTYPES and kind != BOOL:
            number_types[key] = DTYPES[kind]
    return metadata, number_types


@dataclass(frozen=True)
class _Entry:
    """A line of the tensor table, checked on its own but not yet against the data that follows."""

    name: str
    type: QuantType
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def _read_entry(cursor: Cursor, index: int, alignment: int) -> _Entry:
    name = cursor.name(f"tensor name {index}")
    label = f"tensor {name}"
    count = cursor.u32(label)
    if count > _MAX_DIMENSIONS:
        raise cursor.fail(label, f"{count} dimensions; at most {_MAX_DIMENSIONS} are possible")
    shape = tuple(cursor.u64(label) for _ in range(count))[::-1]
    type_id = cursor.u32(label)
    offset = cursor.u64(label)
    elements = 1
    for size in shape:
        elements *= size
    if not 0 < elements < 1 << 63:
        raise cursor.fail(label, f"impossible shape {list(shape)}")
    try:
        quant = quant_type_by_id(type_id)
    except ModelFileError as error:
        raise cursor.fail(label, error.message) from None
    row = shape[-1] if shape else 1
    if row % quant.block_size:
        raise cursor.fail(
            label, f"rows of {row} elements are not whole {quant.name} blocks of {quant.block_size}"
        )
    if offset % alignment:
        raise cursor.fail(label, f"data offset {offset} is not a multiple of {alignment}")
    return _Entry(name, quant, shape, offset, quant.nbytes(elements))


def _read_tensors(
    cursor: Cursor, file: MappedFile, count: int, alignment: int
) -> dict[str, TensorInfo]:
    entries: dict[str, _Entry] = {}
    for index in range(count):
        entry = _read_entry(cursor, index, alignment)
        if entry.name in entries:
            raise cursor.fail(f"tensor {entry.name}", "the name stands twice in the file")
        entries[entry.name] = entry
    begin = -(-cursor.offset // alignment) * alignment
    size = max(cursor.data.size - begin, 0)
    previous_end, previous = 0, ""
    for entry in sorted(entries.values(), key=lambda entry: entry.offset):
        label, end = f"tensor {entry.name}", entry.offset + entry.nbytes
        if end > size:
            raise cursor.fail(
                label,
                f"its data ends at byte {begin + end} of a file of {cursor.data.size} bytes",
                "damaged, or not wholly downloaded",
            )
        if entry.offset < previous_end:
            raise cursor.fail(label, f"its data overlaps that of tensor {shown(previous)}")
        previous_end, previous = end, entry.name
    return {
        entry.name: TensorInfo(
            entry.name,
            entry.type,
            entry.shape,
            file.data[begin + entry.offset : begin + entry.offset + entry.nbytes],
            file,
        )
        for entry in entries.values()
    }


def _read_file(path: Path) -> GGUFFile:
    """Reads one file, whether or not it is a shard."""
    file = MappedFile(path)
    cursor = Cursor(str(path), file.data)
    version = _read_header(cursor, path)
    tensor_count = cursor.u64("tensor count")
    metadata_count = cursor.u64("metadata count")
    # the least that can follow: a tensor of no dimensions (25 bytes), a key with a byte (14)
    for count, least, most, label in (
        (tensor_count, 25, _MAX_TENSORS, "tensor count"),
        (metadata_count, 14, _MAX_KEYS, "metadata count"),
    ):
        cursor.need(count, least, label)
        if count > most:
            raise cursor.fail(label, f"{count}; at most {most} are read")
    metadata, number_types = _read_metadata(cursor, metadata_count)
    alignment = metadata.get("general.alignment", 32)
    if not 0 < alignment <= _MAX_ALIGNMENT or alignment & (alignment - 1):
        raise cursor.fail("general.alignment", f"{alignment} is not a sane power of two")
    tensors = _read_tensors(cursor, file, tensor_count, alignment)
    return GGUFFile(path, version, metadata, tensors, (file,), number_types)


def _join_shards(opened: GGUFFile) -> GGUFFile:
    """The whole model of which `opened` is a shard: the first's metadata, the tensors of all."""
    count = opened.get("split.count", int)
    match = _SHARD_NAME.fullmatch(opened.path.name)
    if match is None:
        raise ModelFileError(
            f"{opened.path}: split.count: a shard of {count}, but its name is not of the form "
            f"NAME-00001-of-{count:05}.gguf, so the others cannot be found"
        )
    if int(match["count"]) != count:
        raise ModelFileError(
            f"{opened.path}: split.count: {count}, but the name says {int(match['count'])}"
        )
    tensors: dict[str, TensorInfo] = {}
    shards: list[MappedFile] = []
    first = opened
    for index in range(count):
        path = opened.path.with_name(f"{match['stem']}-{index + 1:05}-of-{count:05}.gguf")
        if path == opened.path:
            shard = opened
        elif path.exists():
            shard = _read_file(path)
        else:
            raise ModelFileError(f"{path}: shard {index + 1} of {count} is missing")
        for key, wanted in (("split.no", index), ("split.count", count)):
            if (found := shard.get(key, int)) != wanted:
                raise ModelFileError(f"{path}: {key}: {found}, expected {wanted}")
        for name, tensor in shard.tensors.items():
            if name in tensors:
                raise ModelFileError(f"{path}: tensor {shown(name)}: also in an earlier shard")
            tensors[name] = tensor
        first = shard if index == 0 else first
        shards += shard.shards
    total = first.get("split.tensors.count", int, len(tensors))
    if total != len(tensors):
        raise ModelFileError(
            f"{first.path}: split.tensors.count: {total}, but the shards hold {len(tensors)}"
        )
    return GGUFFile(
        opened.path, first.version, first.metadata, tensors, tuple(shards), first._number_types
    )
