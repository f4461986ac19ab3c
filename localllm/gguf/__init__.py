"""Model files: reading, writing and dequantising GGUF."""

from localllm.gguf.metadata import StringArray
from localllm.gguf.reader import GGUFFile, TensorInfo
from localllm.gguf.types import QuantType, quant_type, quant_type_by_id

__all__ = [
    "GGUFFile",
    "QuantType",
    "StringArray",
    "TensorInfo",
    "quant_type",
    "quant_type_by_id",
]
