"""What a model file is, in the few facts that people ask for first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any

from localllm.gguf import GGUFFile
from localllm.gguf.types import FILE_TYPES
from localllm.units import in_bytes, si

# What a model's file may recommend, in the words of llama.cpp's metadata keys.
_RECOMMENDED = {
    "temperature": ("general.sampling.temp", float),
    "top_k": ("general.sampling.top_k", int),
    "top_p": ("general.sampling.top_p", float),
    "min_p": ("general.sampling.min_p", float),
    "repeat_penalty": ("general.sampling.penalty_repeat", float),
    "repeat_last_n": ("general.sampling.penalty_last_n", int),
}


@dataclass(frozen=True)
class ModelFacts:
    """Facts of one model file; `tensor_types` counts weights by the type they are stored as."""

    name: str
    architecture: str
    parameters: int
    quantisation: str
    bits_per_weight: float
    bytes: int
    context: int | None
    layers: int | None
    width: int | None
    vocabulary: int | None
    licence: str | None
    tensor_types: dict[str, int]

    def __str__(self) -> str:
        """One phrase for a banner: size, quantisation, bytes."""
        return f"{si(self.parameters)} parameters, {self.quantisation}, {in_bytes(self.bytes)}"


def describe(file: GGUFFile) -> ModelFacts:
    """The facts of an open model file."""
    types: Counter[str] = Counter()
    stored = 0
    for tensor in file.tensors.values():
        types[tensor.type.name] += prod(tensor.shape)
        stored += tensor.nbytes
    architecture = file.get("general.architecture", str, "unknown")
    number = file.get("general.file_type", int, None)
    stated = dict(enumerate(FILE_TYPES)).get(-1 if number is None else number, "-")
    parameters = sum(types.values())
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    return ModelFacts(
        name=file.get("general.name", str, None) or file.path.stem,
        architecture=architecture,
        parameters=parameters,
        quantisation=stated if stated != "-" else types.most_common(1)[0][0] if types else "none",
        bits_per_weight=8 * stored / parameters if parameters else 0.0,
        bytes=file.nbytes,
        context=file.get(f"{architecture}.context_length", int, None),
        layers=file.get(f"{architecture}.block_count", int, None),
        width=file.get(f"{architecture}.embedding_length", int, None),
        vocabulary=len(tokens) if tokens is not None and hasattr(tokens, "__len__") else None,
        licence=file.get("general.license", str, None),
        tensor_types=dict(types.most_common()),
    )


def recommended_params(file: GGUFFile) -> dict[str, Any]:
    """Generation parameters that a model's file recommends, by the names of `GenerationParams`."""
    found = {name: file.get(key, kind, None) for name, (key, kind) in _RECOMMENDED.items()}
    return {name: value for name, value in found.items() if value is not None}
