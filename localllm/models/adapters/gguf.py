"""LoRA adapters as llama.cpp writes them, in GGUF.

`adapter.lora.alpha` is the scale times the rank; 0 is a scale of 1. Tensors are named after the
weight that they are for, with `.lora_a` and `.lora_b` behind it, rows in the order of the model's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from localllm.errors import ModelFileError
from localllm.gguf import GGUFFile, TensorInfo
from localllm.gguf.metadata import shown
from localllm.models.adapters.base import Pair, paired
from localllm.models.blocks import Model
from localllm.ops.spec import Float32, Weight


@dataclass(frozen=True, eq=False)
class _Stored:
    """A tensor of the file as a `Matrix`."""

    info: TensorInfo

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.info.shape

    def float32(self) -> Float32:
        if self.info.file is not None:
            self.info.file.require_unchanged()
        return Weight(self.name, self.shape, self.info).float32()


def read_gguf(path: Path, model: Model) -> dict[str, Pair]:
    """The pairs of a file by the names of the model's tensors.

    Raises:
        ModelFileError: naming the file, and the key or tensor that is wrong or not supported.
    """
    file = GGUFFile.open(path)
    for key, wanted in (
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("general.architecture", model.config.arch),
    ):
        found = file.get(key, str, "")
        if found != wanted:
            raise ModelFileError(f"{path}: {key}: {shown(found)!r}, expected {wanted!r}")
    if "adapter.alora.invocation_tokens" in file.metadata:
        raise ModelFileError(f"{path}: adapter.alora.invocation_tokens: not supported")
    alpha = file.get("adapter.lora.alpha", float, 0.0)
    halves: dict[str, dict[str, _Stored]] = {}
    for info in file.tensors.values():
        name, dot, half = info.name.rpartition(".")
        if not dot or half not in ("lora_a", "lora_b"):
            raise ModelFileError(
                f"{path}: tensor {shown(info.name)}: neither lora_a nor lora_b of a weight"
            )
        if not info.type.runnable:
            raise ModelFileError(
                f"{path}: tensor {shown(info.name)}: type {info.type.name} is not read"
            )
        halves.setdefault(name, {})[half] = _Stored(info)
    return {
        name: Pair(a, b, alpha / max(a.shape[0], 1) if alpha else 1.0)
        for name, a, b in paired(path, halves, ("lora_a", "lora_b"))
    }
