"""The native quantisers: what the formats' own meaning says of their blocks."""

import os
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest

from localllm import _native
from localllm.gguf import dequantize, quant_type
from tests.compress.values import DRAWS, TYPES, quantized

# Bounds of the relative error of normally distributed values, a quarter above what is usual.
BOUNDS = {
    "Q8_0": 0.007,
    "Q6_K": 0.024,
    "Q5_K": 0.045,
    "Q5_1": 0.045,
    "Q5_0": 0.055,
    "Q4_K": 0.095,
    "Q4_1": 0.090,
    "Q4_0": 0.110,
    "IQ4_NL": 0.095,
    "IQ4_XS": 0.100,
    "MXFP4": 0.150,
    "Q3_K": 0.200,
    "Q2_K": 0.400,
    "F16": 0.0004,
    "BF16": 0.003,
}
SEARCHED = ("Q5_1", "Q5_0", "Q4_1", "Q4_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K")


def back(type_name: str, blocks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return dequantize(blocks, quant_type(type_name), shape).astype(np.float64)


@pytest.mark.parametrize("type_name", TYPES)
def test_errors_are_small_whatever_the_shape(type_name: str) -> None:
    random = np.random.default_rng(0)
    block = quant_type(type_name).block_size
    for rows, blocks in ((1, 8), (3, 1), (15, 3), (16, 1), (17, 2), (40, 5)):
        values = DRAWS["normal"](random, rows, max(block, 32) * blocks)
        stored = back(type_name, quantized(type_name, values), values.shape)
        error = np.sqrt(((stored - values) ** 2).sum() / (values**2).sum())
        assert error < BOUNDS[type_name] * (1.3 if values.size < 2000 else 1)


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("draw", DRAWS)
def test_the_reported_error_is_the_error(type_name: str, draw: str) -> None:
    values = DRAWS[draw](np.random.default_rng(1), 21, 512)
    out = np.zeros(quant_type(type_name).nbytes(values.size), np.uint8)
    data = values.view(np.uint8).reshape(-1)
    squares, errors, bad = _native.quantize(type_name, "F32", 512, data, None, 1, out)
    off = back(type_name, out, values.shape) - values
    assert bad == -1
    assert squares == pytest.approx(float((values.astype(np.float64) ** 2).sum()), rel=1e-5)
    assert errors == pytest.approx(float((off**2).sum()), rel=1e-4)


@pytest.mark.parametrize("type_name", SEARCHED)
def test_importance_lowers_the_weighted_error(type_name: str) -> None:
    random = np.random.default_rng(2)
    values = DRAWS["normal"](random, 64, 512)
    importance = np.exp(2 * random.standard_normal(512)).astype(np.float32)
    errors = [
        (importance * (back(type_name, blocks, values.shape) - values) ** 2).sum()
        for blocks in (quantized(type_name, values, importance), quantized(type_name, values))
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("type_name", TYPES)
def test_rows_do_not_depend_on_others_or_threads(type_name: str) -> None:
    values = DRAWS["outliers"](np.random.default_rng(3), 70, 256)
    whole = quantized(type_name, values, threads=1)
    np.testing.assert_array_equal(whole, quantized(type_name, values, threads=7))
    np.testing.assert_array_equal(whole.reshape(70, -1)[33], quantized(type_name, values[33:34]))


@pytest.mark.parametrize("source", ["F16", "BF16", "Q8_0", "Q4_K", "MXFP4"])
def test_a_source_of_any_type_is_read_as_its_values(source: str) -> None:
    values = DRAWS["normal"](np.random.default_rng(4), 19, 512)
    stored = quantized(source, values)
    out = np.zeros(quant_type("Q6_K").nbytes(values.size), np.uint8)
    _native.quantize("Q6_K", source, 512, stored, None, 2, out)
    exact = back(source, stored, values.shape).astype(np.float32)
    np.testing.assert_array_equal(out, quantized("Q6_K", exact))


DIGEST = """
import numpy as np
from hashlib import sha256
from tests.compress.values import DRAWS, TYPES, quantized
random, digest = np.random.default_rng(6), sha256()
importance = random.random(256, np.float32)
for draw in DRAWS.values():
    values = draw(random, 19, 256)
    for name in TYPES:
        digest.update(quantized(name, values).tobytes())
        digest.update(quantized(name, values, importance).tobytes())
print(digest.hexdigest())
"""


def test_all_instruction_sets_make_the_same_bytes() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env=os.environ | {"LOCALLLM_ISA": isa},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for isa in ("scalar", *_native.available_isas()[:-1:2])
    }
    assert len(digests) == 1
    assert digests != {sha256().hexdigest()}


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize(("row", "value"), [(0, np.nan), (16, np.inf), (29, -np.inf)])
def test_a_value_that_is_no_number_is_found(type_name: str, row: int, value: float) -> None:
    values = DRAWS["normal"](np.random.default_rng(7), 30, 256)
    values[row, 77] = value
    assert _bad_row(type_name, values) == row


@pytest.mark.parametrize("type_name", [name for name in TYPES if name not in ("BF16", "MXFP4")])
def test_a_value_that_does_not_fit_is_found(type_name: str) -> None:
    values = DRAWS["normal"](np.random.default_rng(8), 30, 256)
    values[11, 5] = 1e9
    assert _bad_row(type_name, values) == 11


def test_the_largest_floats_do_no_harm() -> None:
    random = np.random.default_rng(9)
    for type_name in TYPES:
        for size in (3e38, 1e-38, 1e-45):
            _bad_row(
                type_name, (DRAWS["normal"](random, 5, 256) * 50).clip(-1, 1) * np.float32(size)
            )


def _bad_row(type_name: str, values: np.ndarray) -> int:
    out = np.zeros(quant_type(type_name).nbytes(values.size), np.uint8)
    data = np.ascontiguousarray(values, np.float32).view(np.uint8).reshape(-1)
    return _native.quantize(type_name, "F32", values.shape[1], data, None, 2, out)[2]


GOOD = ("Q4_0", "F32", 64, np.zeros(512, np.uint8), None, 1, np.zeros(72, np.uint8))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, "Q9_9"),
        (0, 3),
        (0, "Q4_K"),
        (1, ""),
        (1, "Q4_K"),
        (2, 0),
        (2, -64),
        (2, 48),
        (2, 2**31),
        (2, 2**63),
        (3, np.zeros(511, np.uint8)),
        (3, np.zeros(0, np.uint8)),
        (3, np.zeros(128, np.float32)),
        (3, np.zeros(1024, np.uint8)[::2]),
        (4, np.zeros(63, np.float32)),
        (4, np.zeros(64)),
        (4, np.zeros((1, 64), np.float32)),
        (5, 0),
        (5, 10**6),
        (6, np.zeros(71, np.uint8)),
        (6, np.zeros(73, np.uint8)),
        (6, np.zeros(144, np.uint8)[::2]),
        (6, bytes(72)),
    ],
    ids=lambda value: (
        f"{value.dtype}{value.shape}" if isinstance(value, np.ndarray) else str(value)
    ),
)
def test_wrong_arguments_are_refused(place: int, value: object) -> None:
    _native.quantize(*GOOD)
    arguments = [*GOOD]
    arguments[place] = value
    with pytest.raises((ValueError, TypeError)):
        _native.quantize(*arguments)
