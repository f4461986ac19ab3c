"""Writes GGUF files through the `gguf` package."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from localllm.files import replacing
from localllm.gguf.metadata import StringArray
from localllm.gguf.types import QuantType, quant_type

StoredBytes = tuple[npt.NDArray[np.uint8], QuantType, Sequence[int]]
"""Stored bytes, their type and the tensor's shape (row-major, the last is the contiguous one)."""


@dataclass(frozen=True)
class MadeTensor:
    """A tensor whose bytes are made when their turn comes: one at a time is in memory.

    Args:
        type: how it is stored.
        shape: row-major.
        make: its stored bytes, in an array of any type.
    """

    type: QuantType
    shape: Sequence[int]
    make: Callable[[], npt.NDArray[Any]]


_NUMPY_VALUE_TYPES = {
    "uint8": "UINT8",
    "int8": "INT8",
    "uint16": "UINT16",
    "int16": "INT16",
    "uint32": "UINT32",
    "int32": "INT32",
    "uint64": "UINT64",
    "int64": "INT64",
    "float32": "FLOAT32",
    "float64": "FLOAT64",
    "bool": "BOOL",
}

_NUMPY_TENSOR_TYPES = {
    "float32": quant_type("F32"),
    "float16": quant_type("F16"),
    "float64": quant_type("F64"),
    "int8": quant_type("I8"),
    "int16": quant_type("I16"),
    "int32": quant_type("I32"),
    "int64": quant_type("I64"),
}


def write_gguf(
    path: str | Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, MadeTensor | StoredBytes | npt.NDArray[Any]],
) -> None:
    """Writes a model file; `path` appears only when the file is whole.

    Args:
        path: where to; an existing file is replaced.
        metadata: values by key, with ``general.architecture`` among them. A plain int is written as
            the first of uint32, int32, uint64, int64 that holds it, in a list as int32 or int64; a
            float as float32; numpy scalars and arrays as what they are, but inside a list of
            arrays as int32 or float32. Empty arrays are left out: the package refuses them.
        tensors: by name, in the order to write: what makes the bytes, stored bytes with type and
            shape, or a numpy array of float32, float16, float64 or a signed integer type, stored
            as it is.

    Raises:
        ValueError: a tensor's bytes are not as many as its type and shape take.
        OSError: the file cannot be written; says why in `strerror`.
    """
    from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter  # late: see `types`

    path = Path(path)
    with replacing(path) as part:
        writer = GGUFWriter(part, metadata["general.architecture"])
        writer.data_alignment = metadata.get("general.alignment", writer.data_alignment)
        for key, value in metadata.items():
            if key == "general.architecture" or (_is_array(value) and not len(value)):
                continue
            kind, element_kind, plain = _value_type(key, value)
            writer.add_key_value(
                key,
                plain,
                GGUFValueType[kind],
                GGUFValueType[element_kind] if element_kind else None,
            )
        made = {name: _made(tensor) for name, tensor in tensors.items()}
        for name, tensor in made.items():
            size = tensor.type.nbytes(prod(tensor.shape))
            quant = GGMLQuantizationType(tensor.type.id)
            writer.add_tensor_info(name, tensor.shape, np.dtype(np.int8), size, raw_dtype=quant)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, tensor in made.items():
                data = np.ascontiguousarray(tensor.make())
                if data.nbytes != tensor.type.nbytes(prod(tensor.shape)):
                    raise ValueError(f"{name}: {data.nbytes} bytes, not what {tensor.type} takes")
                writer.write_tensor_data(data)
        except OSError as error:
            if error.errno is not None:
                raise
            # Of an array of which a part was written, numpy says no more.
            reason = "only a part of it could be; the disk may be full"
            raise OSError(errno.ENOSPC, reason) from error
        finally:
            writer.close()


def _made(tensor: MadeTensor | StoredBytes | npt.NDArray[Any]) -> MadeTensor:
    if isinstance(tensor, MadeTensor):
        return tensor
    if isinstance(tensor, np.ndarray):
        return MadeTensor(_NUMPY_TENSOR_TYPES[tensor.dtype.name], tensor.shape, lambda: tensor)
    data, quant, shape = tensor
    return MadeTensor(quant, shape, lambda: data)


def _is_array(value: Any) -> bool:
    """Whether a metadata value is written as an array."""
    return isinstance(value, list | tuple | np.ndarray | StringArray)


def _value_type(key: str, value: Any) -> tuple[str, str, Any]:
    """GGUF's names for the type of `value` and of its elements, and the value as plain Python."""
    if isinstance(value, np.ndarray):
        return "ARRAY", _NUMPY_VALUE_TYPES[value.dtype.name], value.tolist()
    if isinstance(value, StringArray):
        return "ARRAY", "STRING", value
    if _is_array(value) and all(_is_array(part) for part in value):
        return "ARRAY", "ARRAY", [_value_type(key, part)[2] for part in value]
    if _is_array(value):
        return "ARRAY", _element_type(key, value), value
    if isinstance(value, np.generic):
        return _NUMPY_VALUE_TYPES[value.dtype.name], "", value.item()
    if isinstance(value, bool):
        return "BOOL", "", value
    if isinstance(value, int):
        return _integer_type([value], ("UINT32", "INT32", "UINT64", "INT64")), "", value
    if isinstance(value, float):
        return "FLOAT32", "", value
    if isinstance(value, str | bytes):
        return "STRING", "", value
    raise TypeError(f"{key}: a {type(value).__name__} cannot be written as GGUF metadata")


def _element_type(key: str, values: Sequence[Any]) -> str:
    if all(isinstance(value, str | bytes) for value in values):
        return "STRING"
    if all(isinstance(value, bool) for value in values):
        return "BOOL"
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return _integer_type(values, ("INT32", "UINT32", "INT64", "UINT64"))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return "FLOAT32"
    raise TypeError(f"{key}: its elements are not of one kind that GGUF arrays hold")


def _integer_type(values: Sequence[int], candidates: Sequence[str]) -> str:
    low, high = min(values), max(values)
    for name in candidates:
        limits = np.iinfo(name.lower())
        if limits.min <= low and high <= limits.max:
            return name
    raise OverflowError(f"{high} does not fit 64 bits")
