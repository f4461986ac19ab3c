"""Model files that exist in memory only: metadata and float32 tensors as a `GGUFFile`."""

from pathlib import Path

import numpy as np

from localllm.gguf import GGUFFile, TensorInfo, quant_type

F32 = quant_type("F32")


def memory_file(metadata, tensors, name="memory.gguf"):
    """A `GGUFFile` of arrays by tensor name."""
    infos = {
        key: TensorInfo(key, F32, value.shape, stored(value)) for key, value in tensors.items()
    }
    return GGUFFile(Path(name), 3, metadata, infos)


def stored(array):
    return np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint8)


def changed(file, *, metadata=None, tensors=None):
    """A copy of a file with some keys and tensors replaced; None removes one."""
    return GGUFFile(
        Path("changed.gguf"),
        file.version,
        {k: v for k, v in {**file.metadata, **(metadata or {})}.items() if v is not None},
        {k: v for k, v in {**file.tensors, **(tensors or {})}.items() if v is not None},
    )
