"""Every dequantiser equals the gguf package's own to the bit, on any bytes a file may hold."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from localllm.errors import ModelFileError
from localllm.gguf import dequantize, quant_type
from localllm.gguf.types import QUANT_TYPES, RUNNABLE_TYPES


def reference(data: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return quants.dequantize(data, GGMLQuantizationType[name])


def random_blocks(name: str, rows: int, blocks: int, seed: int) -> np.ndarray:
    """Random bytes: scales come out as any fp16, infinite and NaN among them."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (rows, blocks * quant_type(name).type_size), dtype=np.uint8)


@pytest.mark.parametrize("quant", RUNNABLE_TYPES, ids=str)
def test_random_bytes_equal_the_gguf_package(quant):
    data = random_blocks(quant.name, rows=64, blocks=513, seed=quant.id)
    expected = reference(
        data if quant.name not in ("F32", "F16") else typed(data, quant), quant.name
    )
    found = dequantize(data, quant, expected.shape)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)  # NaN equals NaN here
    same = found.view(np.uint32) == expected.view(np.uint32)
    assert (same | np.isnan(expected)).all(), "equal but for the bits: a zero of the other sign"


def typed(data, quant):
    return data.view(np.float32 if quant.name == "F32" else np.float16)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q6_K", "MXFP4", "BF16"])
def test_shapes_and_layouts_of_the_input_do_not_matter(name):
    quant = quant_type(name)
    data = random_blocks(name, rows=12, blocks=3, seed=1)
    columns = 3 * quant.block_size
    expected = dequantize(data, quant, (12, columns))
    stacked = dequantize(data.reshape(-1), quant, (3, 4, columns))
    np.testing.assert_array_equal(stacked.reshape(12, columns), expected)
    misaligned = np.empty(data.size + 1, np.uint8)[1:]
    misaligned[:] = data.reshape(-1)
    np.testing.assert_array_equal(dequantize(misaligned, quant, (12, columns)), expected)
    np.testing.assert_array_equal(dequantize(data[::2], quant, (6, columns)), expected[::2])


@pytest.mark.parametrize("name", ["F32", "F16", "Q8_0", "IQ4_XS"])
def test_result_is_the_callers_own(name):
    quant = quant_type(name)
    data = random_blocks(name, 1, 4, seed=2)
    data.flags.writeable = False
    before = data.copy()
    dequantize(data, quant, (4 * quant.block_size,))[:] = 0
    np.testing.assert_array_equal(data, before)


@pytest.mark.parametrize("exponent", [0, 1, 2, 127, 128, 254, 255])
def test_mxfp4_scale_at_its_edges(exponent):
    data = np.array([[exponent, *range(16)]], np.uint8)
    np.testing.assert_array_equal(
        dequantize(data, quant_type("MXFP4"), (1, 32)), reference(data, "MXFP4")
    )


@pytest.mark.parametrize("quant", [quant for quant in QUANT_TYPES if not quant.runnable], ids=str)
def test_types_that_do_not_run_are_named(quant):
    with pytest.raises(ModelFileError, match=rf"\b{quant.name}\b"):
        dequantize(np.zeros(quant.type_size, np.uint8), quant, (quant.block_size,))


def test_wrong_length_is_refused():
    with pytest.raises(ValueError, match="17 bytes are not Q4_0"):
        dequantize(np.zeros(17, np.uint8), quant_type("Q4_0"), (32,))
