"""Model files: reading, writing and dequantising GGUF."""

from localllm.gguf.dequantize import dequantize
from localllm.gguf.metadata import StringArray
from localllm.gguf.reader import GGUFFile, TensorInfo
from localllm.gguf.types import QuantType, quant_type, quant_type_by_id
from localllm.gguf.writer import MadeTensor, write_gguf

__all__ = [
    "GGUFFile",
    "MadeTensor",
    "QuantType",
    "StringArray",
    "TensorInfo",
    "dequantize",
    "quant_type",
    "quant_type_by_id",
    "write_gguf",
]
