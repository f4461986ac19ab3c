"""Numbers of one type stored as another."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from localllm import _native
from localllm.errors import ModelFileError
from localllm.gguf import QuantType
from localllm.ops.spec import Float32

Stored = npt.NDArray[Any]

STORED_TYPES = ("F32", "F16", "BF16", "Q8_0")


def store(
    values: Stored, source: str, type: QuantType, columns: int, out: npt.NDArray[np.uint8]
) -> None:
    """Writes numbers as another type.

    Args:
        values: flat, as stored in a checkpoint; BF16 as uint16.
        source: their type: F32, F16 or BF16.
        type: the type to store.
        columns: of each row; whole blocks of the type.
        out: uint8, as many bytes as that takes.

    Raises:
        ModelFileError: a number is none, or too large for the type.
    """
    data = values.view(np.uint8)
    if source == type.name:
        out[:] = data
        return
    _, _, bad = _native.quantize(type.name, source, columns, data, None, 1, out)
    if bad >= 0:
        largest = np.abs(float32(values[bad * columns : (bad + 1) * columns], source)).max()
        hint = "BF16 and F32 hold it: --type BF16" if np.isfinite(largest) else ""
        raise ModelFileError(f"{largest:g} cannot be stored as {type}", hint)


def float32(values: Stored, source: str) -> Float32:
    """Numbers stored in a checkpoint as float32."""
    if source == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)
