"""Random adapters for model files, and the same models with the adapters merged into them."""

import json
import struct

import numpy as np

from localllm.gguf import GGUFFile, dequantize, write_gguf
from localllm.models import load_definition
from localllm.models.adapters.loading import open_adapter

NOT_ADAPTED = ("token_embd", "norm", "ffn_gate_inp", "_exps", "bias", "rope_")


def random_pairs(path, rank=4, seed=0, only=""):
    """A and B for the linear weights of a model file whose names contain `only`."""
    random = np.random.default_rng(seed)
    pairs = {}
    for name, info in GGUFFile.open(path).tensors.items():
        if only in name and not any(part in name for part in NOT_ADAPTED):
            out, width = info.shape
            a = random.standard_normal((rank, width), np.float32) / np.float32(width**0.5)
            b = random.standard_normal((out, rank), np.float32) / np.float32(rank**0.5)
            pairs[name] = a, b
    return pairs


def write_adapter(path, pairs, arch, alpha=2.0, metadata=None, dtype=np.float32):
    """A GGUF adapter as llama.cpp writes it."""
    tensors = {}
    for name, (a, b) in pairs.items():
        tensors |= {f"{name}.lora_a": a.astype(dtype), f"{name}.lora_b": b.astype(dtype)}
    keys = {
        "general.architecture": arch,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
    }
    write_gguf(path, keys | (metadata or {}), tensors)
    return path


def merged(path, base, pairs, scale):
    """The base model with W + scale B A for W, all in float32."""
    file = GGUFFile.open(base)
    tensors = {}
    for name, info in file.tensors.items():
        values = dequantize(info.data, info.type, info.shape)
        if name in pairs:
            a, b = pairs[name]
            values = (values + scale * (b.astype(np.float64) @ a)).astype(np.float32)
        tensors[name] = values
    write_gguf(path, file.metadata, tensors)
    return path


def write_peft(folder, tensors, **config):
    """A folder as PEFT saves it; tensors by name, float32."""
    folder.mkdir(exist_ok=True)
    values = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors))
    return folder


def safetensors(tensors):
    header, data = {}, b""
    for name, values in tensors.items():
        raw = np.ascontiguousarray(values).tobytes()
        header[name] = entry("F32", values.shape, len(data), len(data) + len(raw))
        data += raw
    return with_header(header, data)


def entry(kind, shape, start, stop):
    return {"dtype": kind, "shape": list(shape), "data_offsets": [start, stop]}


def with_header(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def read_terms(path, base):
    """What an adapter adds to a model file's weights."""
    return open_adapter(path, load_definition(GGUFFile.open(base))).read()
