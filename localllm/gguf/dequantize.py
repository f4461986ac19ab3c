"""The meaning of every runnable tensor type, in numpy: the reference that kernels are held against.

Layouts are those of ggml (ggml-common.h). Fields are little-endian; ``fp16 d`` is a half-precision
number of two bytes. Each function takes blocks, uint8 [n, type_size], and returns float32
[n, block_size]; every product and sum is rounded to float32 in the order ggml's reference takes.
The `gguf` package gives the same bits (a test compares them); as to the import, see `types`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from localllm.errors import ModelFileError
from localllm.gguf.types import QuantType

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_SLAB_ELEMENTS = 1 << 16  # temporaries stay in the second-level cache

_IQ4_LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
# E2M1 (OCP microscaling formats 1.0), doubled; the block scale is halved to match.
_MXFP4_LEVELS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def dequantize(data: Bytes, type: QuantType, shape: Sequence[int]) -> Floats:
    """The float32 values of a stored tensor.

    Args:
        data: the stored bytes, in any shape.
        type: how they are stored.
        shape: the tensor's shape; its last dimension is whole blocks.

    Returns:
        float32 of `shape`, always a fresh array.

    Raises:
        ModelFileError: there is no dequantiser for the type.
        ValueError: `data` is not as long as `shape` says.
    """
    decode = _DECODERS.get(type.name)
    if decode is None:
        raise ModelFileError(f"tensor type {type.name} is not supported")
    elements = int(np.prod(shape, dtype=np.int64))
    if data.nbytes != type.nbytes(elements):
        raise ValueError(f"{data.nbytes} bytes are not {type.name} of shape {tuple(shape)}")
    blocks = np.ascontiguousarray(data).view(np.uint8).reshape(-1, type.type_size)
    values = np.empty((len(blocks), type.block_size), np.float32)
    step = _SLAB_ELEMENTS // type.block_size
    with np.errstate(invalid="ignore", over="ignore"):  # infinite scales are the file's business
        for start in range(0, len(blocks), step):
            values[start : start + step] = decode(blocks[start : start + step])
    return values.reshape(tuple(shape))


# Pieces of blocks


def _half(blocks: Bytes, offset: int) -> Floats:
    """The fp16 that stands at byte `offset` of each block, float32 [n, 1]."""
    halves: npt.NDArray[np.float16] = np.ascontiguousarray(blocks[:, offset : offset + 2]).view(
        "<f2"
    )
    return halves.astype(np.float32)


def _codes(packed: Bytes, bits: int, run: int) -> Bytes:
    """Unpacks `bits`-wide codes: uint8 [n, m] to uint8 [n, m * 8 / bits].

    Each run of `run` bytes holds the codes of its lowest bits first, then those of the next: code j
    of a run lies in byte j % run, at bit j // run * bits.
    """
    runs = packed.reshape(len(packed), -1, 1, run)
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(-1, 1)
    codes: Bytes = (runs >> shifts) & np.uint8((1 << bits) - 1)
    return codes.reshape(len(packed), -1)


def _signed(codes: Bytes, offset: int) -> Floats:
    """Codes less `offset`, as float32."""
    signed: npt.NDArray[np.int8] = codes.view(np.int8) - np.int8(offset)
    return signed.astype(np.float32)


def _scaled(scales: Floats, codes: Floats, offsets: Floats | None = None) -> Floats:
    """`scales * codes - offsets`, a scale and an offset for each run of codes, flat per block."""
    n, groups = scales.shape
    values = scales[:, :, None] * codes.reshape(n, groups, -1)
    if offsets is not None:
        values -= offsets[:, :, None]
    return values.reshape(n, -1)


# Plain numbers


def _f32(blocks: Bytes) -> Floats:
    """4 bytes: an IEEE single."""
    singles: npt.NDArray[np.float32] = blocks.copy().view("<f4")
    return singles.astype(np.float32, copy=False)


def _f16(blocks: Bytes) -> Floats:
    """2 bytes: an IEEE half."""
    return _half(blocks, 0)


def _bf16(blocks: Bytes) -> Floats:
    """2 bytes: the upper half of an IEEE single."""
    words: npt.NDArray[np.uint32] = np.ascontiguousarray(blocks).view("<u2").astype(np.uint32)
    singles: npt.NDArray[np.uint32] = words << np.uint32(16)
    return singles.view(np.float32)


# Blocks of 32 with one scale


def _q4_0(blocks: Bytes) -> Floats:
    """18 bytes: fp16 d; 16 bytes of 4-bit codes, low nibbles first. d * (q - 8)."""
    return _half(blocks, 0) * _signed(_codes(blocks[:, 2:], 4, 16), 8)


def _q4_1(blocks: Bytes) -> Floats:
    """20 bytes: fp16 d; fp16 m; 16 bytes of 4-bit codes. d * q + m."""
    return _half(blocks, 0) * _signed(_codes(blocks[:, 4:], 4, 16), 0) + _half(blocks, 2)


def _fifth_bits(packed: Bytes) -> Bytes:
    """Four bytes of single bits, code j at bit j, moved to bit 4: uint8 [n, 32]."""
    bits: Bytes = np.unpackbits(packed, axis=1, bitorder="little") << np.uint8(4)
    return bits


def _q5_0(blocks: Bytes) -> Floats:
    """22 bytes: fp16 d; 4 bytes of fifth bits; 16 bytes of low nibbles. d * (q - 16)."""
    codes = _codes(blocks[:, 6:], 4, 16) | _fifth_bits(blocks[:, 2:6])
    return _half(blocks, 0) * _signed(codes, 16)


def _q5_1(blocks: Bytes) -> Floats:
    """24 bytes: fp16 d; fp16 m; 4 bytes of fifth bits; 16 bytes of low nibbles. d * q + m."""
    codes = _codes(blocks[:, 8:], 4, 16) | _fifth_bits(blocks[:, 4:8])
    return _half(blocks, 0) * _signed(codes, 0) + _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    """34 bytes: fp16 d; 32 signed bytes. d * q."""
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


# Blocks of 256 (k-quants): scales of 16 or 32 codes, themselves scaled by d and dmin


def _q2_k(blocks: Bytes) -> Floats:
    """84 bytes: 16 of scales (low nibble) and mins (high); 64 of 2-bit codes; fp16 d; fp16 dmin.

    Sixteen groups of 16: d * scale * q - dmin * min.
    """
    scales = _half(blocks, 80) * (blocks[:, :16] & 15).astype(np.float32)
    mins = _half(blocks, 82) * (blocks[:, :16] >> 4).astype(np.float32)
    return _scaled(scales, _codes(blocks[:, 16:80], 2, 32).astype(np.float32), mins)


def _q3_k(blocks: Bytes) -> Floats:
    """110 bytes: 32 of third bits; 64 of 2-bit codes; 12 of 6-bit scales; fp16 d.

    Sixteen groups of 16: d * (scale - 32) * (q - 4). Of the scales, 8 bytes hold the low nibbles
    and 4 bytes the two upper bits.
    """
    packed = blocks[:, 96:108]
    scale_codes = _codes(packed[:, :8], 4, 8) | _codes(packed[:, 8:], 2, 4) << np.uint8(4)
    codes = _codes(blocks[:, 32:96], 2, 32) | _codes(blocks[:, :32], 1, 32) << np.uint8(2)
    return _scaled(_half(blocks, 108) * _signed(scale_codes, 32), _signed(codes, 4))


def _scales_and_mins(blocks: Bytes) -> tuple[Floats, Floats]:
    """The head that Q4_K and Q5_K share: fp16 d; fp16 dmin; 12 bytes of 6-bit scales and mins.

    Bytes 0-3 hold scales 0-3, bytes 4-7 mins 0-3, in their low 6 bits; their upper 2 bits are the
    upper bits of scales and mins 4-7, whose low nibbles share bytes 8-11 (scale low, min high).

    Returns:
        d * scale and dmin * min, float32 [n, 8].
    """
    low_scales, low_mins, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    high_scales = (rest & 15) | (low_scales >> 6 << 4)
    high_mins = (rest >> 4) | (low_mins >> 6 << 4)
    scales = np.concatenate([low_scales & 63, high_scales], axis=1).astype(np.float32)
    mins = np.concatenate([low_mins & 63, high_mins], axis=1).astype(np.float32)
    return _half(blocks, 0) * scales, _half(blocks, 2) * mins


def _q4_k(blocks: Bytes) -> Floats:
    """144 bytes: 16 of scales and mins (see there); 128 of 4-bit codes, in runs of 32 bytes.

    Eight groups of 32: d * scale * q - dmin * min.
    """
    scales, mins = _scales_and_mins(blocks)
    return _scaled(scales, _codes(blocks[:, 16:], 4, 32).astype(np.float32), mins)


def _q5_k(blocks: Bytes) -> Floats:
    """176 bytes: 16 of scales and mins; 32 of fifth bits; 128 of low nibbles in runs of 32 bytes.

    Eight groups of 32: d * scale * q - dmin * min. Bit g of a fifth-bit byte belongs to group g.
    """
    scales, mins = _scales_and_mins(blocks)
    codes = _codes(blocks[:, 48:], 4, 32) | _codes(blocks[:, 16:48], 1, 32) << np.uint8(4)
    return _scaled(scales, codes.astype(np.float32), mins)


def _q6_k(blocks: Bytes) -> Floats:
    """210 bytes: 128 of low nibbles; 64 of upper 2 bits; 16 int8 scales; fp16 d.

    Sixteen groups of 16: d * scale * (q - 32). Low nibbles in runs of 64 bytes, upper bits of 32.
    """
    codes = _codes(blocks[:, :128], 4, 64) | _codes(blocks[:, 128:192], 2, 32) << np.uint8(4)
    scales = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return _scaled(scales, _signed(codes, 32))


# Codes into a table of levels


def _iq4_nl(blocks: Bytes) -> Floats:
    """18 bytes: fp16 d; 16 bytes of 4-bit codes, low nibbles first. d * level[q]."""
    return _half(blocks, 0) * _IQ4_LEVELS[_codes(blocks[:, 2:], 4, 16)]


def _iq4_xs(blocks: Bytes) -> Floats:
    """136 bytes: fp16 d; 2 of upper scale bits; 4 of low scale nibbles; 128 of 4-bit codes.

    Eight groups of 32, codes in runs of 16 bytes: d * (scale - 32) * level[q].
    """
    scale_codes = _codes(blocks[:, 4:8], 4, 1) | _codes(blocks[:, 2:4], 2, 1) << np.uint8(4)
    scales = _half(blocks, 0) * _signed(scale_codes, 32)
    return _scaled(scales, _IQ4_LEVELS[_codes(blocks[:, 8:], 4, 16)])


def _mxfp4(blocks: Bytes) -> Floats:
    """17 bytes: the exponent e (E8M0); 16 bytes of 4-bit E2M1 codes. 2**(e - 128) * 2 * value."""
    # The float's own exponent is e - 1, but 2**-127 and 2**-128 are subnormal: fraction bits only.
    exponents = blocks[:, :1].astype(np.uint32)
    subnormal = np.uint32(0x00200000) << exponents
    bits: npt.NDArray[np.uint32] = np.where(exponents < 2, subnormal, (exponents - 1) << 23)
    scales = bits.astype(np.uint32).view(np.float32)
    return scales * _MXFP4_LEVELS[_codes(blocks[:, 1:], 4, 16)]


_DECODERS: dict[str, Callable[[Bytes], Floats]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
    "MXFP4": _mxfp4,
}
