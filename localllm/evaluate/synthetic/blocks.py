"""Random tensors in any runnable type: mean 0 and a chosen standard deviation when dequantised.

Valid blocks are drawn directly: every code, scale and min is random, so that no field of a block
can be misread without the values changing; only the super-scales are set, to give the deviation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from localllm.gguf import QuantType, dequantize

Bytes = np.ndarray


def random_tensor(
    random: np.random.Generator, quant: QuantType, shape: tuple[int, ...], deviation: float
) -> Bytes:
    """The stored bytes of a tensor."""
    draw = _DRAWS.get(quant.name)
    if draw is not None:
        return _drawn(random, draw, quant, int(np.prod(shape)), deviation)
    values = random.standard_normal(shape, np.float32) * np.float32(deviation)
    return _stored(values, quant)


def _stored(values: np.ndarray, quant: QuantType) -> Bytes:
    if quant.name == "F32":
        return values.view(np.uint8)
    if quant.name == "F16":
        return values.astype(np.float16).view(np.uint8)
    if quant.name == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    raise ValueError(f"{quant.name} weights cannot be drawn")


def _drawn(
    random: np.random.Generator,
    draw: Callable[[np.random.Generator, int, np.ndarray], Bytes],
    quant: QuantType,
    elements: int,
    deviation: float,
) -> Bytes:
    n = elements // quant.block_size
    # some spread between blocks, and both signs where the type allows them
    relative = random.uniform(0.7, 1.3, (n, 1)).astype(np.float32)
    probe = draw(np.random.default_rng(0), 64, np.full((64, 1), 2.0**-8, np.float32))
    unit = float(np.std(dequantize(probe, quant, (64 * quant.block_size,)))) * 2.0**8
    return draw(random, n, relative * np.float32(deviation / unit)).reshape(-1)


def _half(values: np.ndarray) -> Bytes:
    return values.astype("<f2").view(np.uint8)


def _bytes(random: np.random.Generator, n: int, count: int) -> Bytes:
    return np.frombuffer(random.bytes(n * count), np.uint8).reshape(n, count)


def _signs(random: np.random.Generator, n: int) -> np.ndarray:
    return random.choice(np.array([-1, 1], np.float32), (n, 1))


def _signed_codes(code_bytes: int) -> Callable[[np.random.Generator, int, np.ndarray], Bytes]:
    """Types of one scale and codes about 0: Q4_0, Q5_0, Q8_0, IQ4_NL."""

    def draw(random: np.random.Generator, n: int, d: np.ndarray) -> Bytes:
        return np.hstack([_half(d * _signs(random, n)), _bytes(random, n, code_bytes)])

    return draw


def _codes_with_min(
    code_bytes: int, mean_code: float
) -> Callable[[np.random.Generator, int, np.ndarray], Bytes]:
    """Types of one scale and one value that is added: Q4_1, Q5_1."""

    def draw(random: np.random.Generator, n: int, d: np.ndarray) -> Bytes:
        return np.hstack([_half(d), _half(-d * mean_code), _bytes(random, n, code_bytes)])

    return draw


def _mxfp4(random: np.random.Generator, n: int, d: np.ndarray) -> Bytes:
    # Scales are powers of two: the two next to d, mixed so that the mean square is d's.
    exponent, rest = np.divmod(np.log2(d), 1)
    exponent += random.random((n, 1)) < (4**rest - 1) / 3
    return np.hstack([np.clip(exponent + 128, 2, 250).astype(np.uint8), _bytes(random, n, 16)])


def _scales_and_mins(
    random: np.random.Generator, n: int, groups: int, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of scales, and of mins that lie about them so that group means are near zero."""
    top, spread = (1 << bits) - 1, 1 << (bits - 3)
    scales = random.integers(top // 3, top + 1, (n, groups))
    mins = np.clip(scales + random.integers(-spread, spread + 1, (n, groups)), 0, top)
    return scales.astype(np.uint8), mins.astype(np.uint8)


def _q2_k(random: np.random.Generator, n: int, d: np.ndarray) -> Bytes:
    scales, mins = _scales_and_mins(random, n, 16, 4)
    return np.hstack([scales | mins << 4, _bytes(random, n, 64), _half(d), _half(d * 1.5)])


def _q3_k(random: np.random.Generator, n: int, d: np.ndarray) -> Bytes:
    return np.hstack([_bytes(random, n, 32 + 64 + 12), _half(d * _signs(random, n))])


def _k_head(random: np.random.Generator, n: int, d: np.ndarray, mean_code: float) -> Bytes:
    scales, mins = _scales_and_mins(random, n, 8, 6)
    low = scales[:, :4] | scales[:, 4:] >> 4 << 6
    middle = mins[:, :4] | mins[:, 4:] >> 4 << 6
    high = (scales[:, 4:] & 15) | mins[:, 4:] << 4
    return np.hstack([_half(d), _half(d * mean_code), low, middle, high])


def _q4_k(random: np.random.Generator, n: int, d: np.ndarray) -> Bytes:
    return np.hstack([_k_head(random, n, d, 7.5), _bytes(random, n, 128)])


def _q5_k(random: np.random.Generator, n: int, d: np.ndarray) -> Bytes:
    return np.hstack([_k_head(random, n, d, 15.5), _bytes(random, n, 160)])


def _q6_k(random: np.random.Generator, n: int, d: np.ndarray) -> Bytes:
    scales = random.integers(32, 128, (n, 16)) * random.choice([-1, 1], (n, 16))
    return np.hstack([_bytes(random, n, 192), scales.astype(np.int8).view(np.uint8), _half(d)])


def _iq4_xs(random: np.random.Generator, n: int, d: np.ndarray) -> Bytes:
    return np.hstack([_half(d * _signs(random, n)), _bytes(random, n, 2 + 4 + 128)])


_DRAWS: dict[str, Callable[[np.random.Generator, int, np.ndarray], Bytes]] = {
    "Q4_0": _signed_codes(16),
    "Q4_1": _codes_with_min(16, 7.5),
    "Q5_0": _signed_codes(4 + 16),
    "Q5_1": _codes_with_min(4 + 16, 15.5),
    "Q8_0": _signed_codes(32),
    "MXFP4": _mxfp4,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _signed_codes(16),
    "IQ4_XS": _iq4_xs,
}
