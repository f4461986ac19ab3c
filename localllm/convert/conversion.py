"""A checkpoint folder becomes a model file: config, tokenizer and tensors, one tensor at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localllm.convert.checkpoint import Checkpoint
from localllm.convert.registry import find_layout
from localllm.convert.storing import STORED_TYPES
from localllm.convert.tensors import PlannedTensor, plan_tensors
from localllm.convert.tokenizers import tokenizer_metadata
from localllm.errors import UsageError
from localllm.gguf import MadeTensor, QuantType, quant_type, write_gguf
from localllm.gguf.types import FILE_TYPES, QUANTIZATION_VERSION
from localllm.ops.spec import Float32
from localllm.units import si

AUTO = "auto"
_SAMPLING = {  # generation_config.json -> the model file
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}
_CARD = "README.md"
_CARD_HEAD = 1 << 16  # bytes

Progress = Callable[[int, int], None]
"""Bytes of the checkpoint that have been read, and all of them."""


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        path: the model file.
        name: of the model.
        architecture: as in `general.architecture`.
        type: what most weights are stored as.
        tensors: how many.
        parameters: how many.
        bytes: of the file.
        notes: what of the checkpoint a model file cannot say.
    """

    path: Path
    name: str
    architecture: str
    type: str
    tensors: int
    parameters: int
    bytes: int
    notes: tuple[str, ...]


def convert_checkpoint(
    folder: Path, output: Path, *, type: str = "F16", progress: Progress | None = None
) -> Conversion:
    """Writes the model file of a checkpoint; `output` appears only when it is whole.

    Args:
        folder: config.json, safetensors files and tokenizer, as transformers saves them.
        output: where to; an existing file is replaced.
        type: F32, F16, BF16, Q8_0, or "auto" for what most of the checkpoint has.
        progress: told how far it is, tensor by tensor.

    Raises:
        UsageError: there is no checkpoint, or the type is none of these.
        ModelFileError: it is damaged, or nothing that a model file can say.
    """
    if type != AUTO and type not in STORED_TYPES:
        known = ", ".join((*STORED_TYPES, AUTO))
        raise UsageError(f"--type {type}: is none of {known}", "others are made by quantize")
    checkpoint = Checkpoint.open(folder)
    layout = find_layout(checkpoint)
    metadata = layout.metadata(checkpoint)
    planned = plan_tensors(checkpoint, layout, metadata["block_count"])
    stored = quant_type(_most_common_type(planned) if type == AUTO else type)
    rows = next(tensor.shape[0] for tensor in planned if tensor.name == "token_embd.weight")
    tokenizer, notes = tokenizer_metadata(checkpoint, rows)
    parameters = sum(math.prod(tensor.shape) for tensor in planned)
    counted = _counted(planned, progress)
    tensors: dict[str, MadeTensor | Float32] = {
        **{tensor.name: tensor.made(stored, counted) for tensor in planned},
        **layout.extra(checkpoint),
    }
    write_gguf(
        output,
        {
            "general.architecture": layout.arch,
            **_general(checkpoint, parameters, stored),
            **{f"{layout.arch}.{key}": value for key, value in metadata.items()},
            f"{layout.arch}.vocab_size": rows,
            **tokenizer,
        },
        tensors,
    )
    return Conversion(
        path=output,
        name=checkpoint.name,
        architecture=layout.arch,
        type=stored.name,
        tensors=len(tensors),
        parameters=parameters,
        bytes=output.stat().st_size,
        notes=tuple(notes),
    )


def _counted(planned: list[PlannedTensor], progress: Progress | None) -> Callable[[int], None]:
    """Adds up what was read."""
    total = sum(part.nbytes for tensor in planned for part in tensor.parts.values())
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    return count


def _most_common_type(planned: list[PlannedTensor]) -> str:
    """The type that most of the bytes are stored as."""
    sizes: Counter[str] = Counter()
    for tensor in planned:
        for part in tensor.parts.values():
            sizes[part.type] += part.nbytes
    return sizes.most_common(1)[0][0]


def _general(checkpoint: Checkpoint, parameters: int, type: QuantType) -> dict[str, Any]:
    """What is said of any model: its name, size, licence, type, and how it likes to be sampled."""
    found: dict[str, Any] = {
        "general.type": "model",
        "general.name": checkpoint.name,
        "general.size_label": si(parameters),
        "general.file_type": FILE_TYPES.index(type.name),
        "general.quantization_version": QUANTIZATION_VERSION,
    }
    if license := _license(checkpoint):
        found["general.license"] = license
    generation = checkpoint.optional("generation_config.json")
    for key, name in _SAMPLING.items():
        if generation.has(key):
            read = generation.integer if key == "top_k" else generation.number
            found[f"general.sampling.{name}"] = read(key, low=0)
    return found


def _license(checkpoint: Checkpoint) -> str:
    """The licence that the head of the model card names; empty where none does."""
    path = checkpoint.folder / _CARD
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        lines = stream.read(_CARD_HEAD).decode("utf-8", "replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return ""
    for line in lines[1:]:
        if line.strip() == "---":
            break
        if line.startswith("license:"):
            return line.removeprefix("license:").strip().strip("\"'")
    return ""
