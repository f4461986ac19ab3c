"""Values to quantise, of the kinds that weights are and that quantisers stumble over."""

import numpy as np

from localllm import _native
from localllm.gguf import quant_type

TYPES = (
    "Q8_0",
    "Q6_K",
    "Q5_K",
    "Q5_1",
    "Q5_0",
    "Q4_K",
    "Q4_1",
    "Q4_0",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4",
    "Q3_K",
    "Q2_K",
    "F16",
    "BF16",
)


def _normal(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return random.standard_normal((rows, columns)) * 0.02


def _outliers(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return random.standard_t(2, (rows, columns)) * 0.01


def _zeros_and_ties(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Whole numbers, and whole groups of nothing else than zeros."""
    groups = np.repeat(random.integers(0, 3, (rows, columns // 16)), 16, axis=1)
    return np.round(random.standard_normal((rows, columns)) * 2) * groups


def _shifted(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Groups of one sign, as positive or negative as can be."""
    shift = np.repeat(random.standard_normal((rows, columns // 16)), 16, axis=1)
    return random.standard_normal((rows, columns)) * 0.01 + shift


def _constant(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return np.repeat(random.standard_normal((rows, columns // 32)), 32, axis=1)


DRAWS = {
    "normal": lambda *shape: _normal(*shape).astype(np.float32),
    "outliers": lambda *shape: _outliers(*shape).astype(np.float32),
    "halves": lambda *shape: _normal(*shape).astype(np.float16).astype(np.float32),
    "zeros and ties": lambda *shape: _zeros_and_ties(*shape).astype(np.float32),
    "shifted": lambda *shape: _shifted(*shape).astype(np.float32),
    "constant": lambda *shape: _constant(*shape).astype(np.float32),
}


def quantized(
    type_name: str,
    values: np.ndarray,
    importance: np.ndarray | None = None,
    threads: int = 2,
) -> np.ndarray:
    """The native quantiser's blocks of float32 [rows, columns]."""
    values = np.ascontiguousarray(values, np.float32)
    out = np.zeros(quant_type(type_name).nbytes(values.size), np.uint8)
    data = values.view(np.uint8).reshape(-1)
    _, _, bad = _native.quantize(type_name, "F32", values.shape[-1], data, importance, threads, out)
    assert bad == -1
    return out
