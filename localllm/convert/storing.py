"""Numbers of one type stored as another, a slab at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from localllm.errors import ModelFileError
from localllm.gguf import QuantType
from localllm.ops.spec import Float32

Stored = npt.NDArray[Any]

STORED_TYPES = ("F32", "F16", "BF16", "Q8_0")
_SLAB = 1 << 20  # elements


def store(values: Stored, source: str, type: QuantType, out: npt.NDArray[np.uint8]) -> None:
    """Writes numbers as another type.

    Args:
        values: flat, as stored in a checkpoint; BF16 as uint16.
        source: their type: F32, F16 or BF16.
        type: the type to store; whole blocks of it.
        out: uint8, as many bytes as that takes.

    Raises:
        ModelFileError: a finite number is too large for F16.
    """
    if source == type.name:
        out[:] = values.view(np.uint8)
        return
    encode = _ENCODERS[type.name]
    for start in range(0, values.size, _SLAB):
        slab = float32(values[start : start + _SLAB], source)
        data = encode(slab).reshape(-1).view(np.uint8)
        at = start // type.block_size * type.type_size
        out[at : at + data.size] = data


def float32(values: Stored, source: str) -> Float32:
    """Numbers stored in a checkpoint as float32."""
    if source == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def _f16(values: Float32) -> Stored:
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if (np.isinf(halves) & np.isfinite(values)).any():
        raise ModelFileError(
            f"{np.abs(values[np.isfinite(values)]).max():g} is too large for F16",
            "BF16 or F32 hold it: --type BF16",
        )
    return halves


def _bf16(values: Float32) -> Stored:
    """Rounded to the nearest, of two the even one; a NaN stays one."""
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def _q8_0(values: Float32) -> Stored:
    """Blocks of 32: a scale in half precision, then the numbers as int8."""
    blocks = values.reshape(-1, 32)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        inverse = np.where(scales == 0, np.float32(0), 1 / scales)
    scaled = blocks * inverse
    # half away from zero, as C's roundf; numpy's own rounds to even
    codes = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)
    halves = _f16(scales).view(np.uint8)
    return np.concatenate([halves, codes.view(np.uint8)], axis=1)


_ENCODERS: dict[str, Callable[[Float32], Stored]] = {
    "F32": lambda values: values,
    "F16": _f16,
    "BF16": _bf16,
    "Q8_0": _q8_0,
}
