"""llama.cpp's own quantiser, from the libraries that llama-cpp-python brings."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from localllm.gguf import quant_type


def quantize_rows(type_name: str, values: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
    """The blocks that ggml makes of float32 [rows, columns]."""
    ggml = ctypes.CDLL(str(_library("libggml-base.so")))
    call = ggml.ggml_quantize_chunk
    call.restype = ctypes.c_size_t
    call.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    quant = quant_type(type_name)
    values = np.ascontiguousarray(values, np.float32)
    out = np.zeros(quant.nbytes(values.size), np.uint8)
    weights = None if importance is None else importance.ctypes.data
    call(quant.id, values.ctypes.data, out.ctypes.data, 0, *values.shape, weights)
    return out


def quantize_file(
    source: Path,
    target: Path,
    file_type: int,
    importance: dict[str, np.ndarray] | None = None,
    overrides: dict[str, str] | None = None,
) -> None:
    """What `llama-quantize` does."""
    llama_cpp = pytest.importorskip("llama_cpp")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread, params.allow_requantize = file_type, 2, True
    if importance is not None:
        entry = llama_cpp.llama_model_imatrix_data
        entries = (entry * (len(importance) + 1))()
        for place, (name, values) in enumerate(importance.items()):
            pointer = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entries[place] = entry(name.encode(), pointer, values.size)
        params.imatrix = ctypes.cast(entries, ctypes.POINTER(entry))
    if overrides is not None:
        entry = llama_cpp.llama_model_tensor_override
        entries = (entry * (len(overrides) + 1))()
        for place, (pattern, name) in enumerate(overrides.items()):
            entries[place] = entry(pattern.encode(), quant_type(name).id)
        params.tt_overrides = ctypes.cast(entries, ctypes.POINTER(entry))
    done = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params)
    assert done == 0


def _library(name: str) -> Path:
    llama_cpp = pytest.importorskip("llama_cpp")
    return Path(llama_cpp.__file__).parent / "lib" / name
