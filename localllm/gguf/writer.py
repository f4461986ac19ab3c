"""Writes GGUF files through the `gguf` package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from localllm.files import replacing
from localllm.gguf.metadata import StringArray
from localllm.gguf.types import QuantType

StoredTensor = tuple[npt.NDArray[np.uint8], QuantType, Sequence[int]]
"""Stored bytes, their type and the tensor's shape (row-major, the last is the contiguous one)."""

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


def write_gguf(
    path: str | Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, StoredTensor | npt.NDArray[Any]],
) -> None:
    """Writes a model file; `path` appears only when the file is whole.

    Args:
        path: where to; an existing file is replaced.
        metadata: values by key, with ``general.architecture`` among them. A plain int is written as
            the first of uint32, int32, uint64, int64 that holds it, in a list as int32 or int64; a
            float as float32; numpy scalars and arrays as what they are, but inside a list of
            arrays as int32 or float32. Empty arrays are left out: the package refuses them.
        tensors: by name, in the order to write: stored bytes with type and shape, or a numpy array
            of float32, float16, float64 or a signed integer type, stored as it is.
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
        for name, tensor in tensors.items():
            if isinstance(tensor, np.ndarray):
                writer.add_tensor(name, np.ascontiguousarray(tensor))
            else:
                data, quant, shape = tensor
                row = quant.nbytes(shape[-1])
                rows = np.ascontiguousarray(data).view(np.uint8).reshape(*shape[:-1], row)
                writer.add_tensor(name, rows, raw_dtype=GGMLQuantizationType(quant.id))
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


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
