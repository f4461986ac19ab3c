"""The tensors of a checkpoint as those of a model file: renamed, turned, stacked, stored anew."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from localllm.convert.checkpoint import Checkpoint
from localllm.convert.layout import Layout
from localllm.convert.storing import Stored, float32, store
from localllm.errors import ModelFileError
from localllm.gguf import MadeTensor, QuantType, quant_type
from localllm.gguf.metadata import shown
from localllm.models.safetensors import StoredTensor

_NUMBER = re.compile(r"(?<=\.)(\d{1,5})(?=\.)")
_ENDS = (".weight", ".bias")
# buffers of old checkpoints, which the config says as well
_DROPPED_ENDS = ("rotary_emb.inv_freq", "attention.masked_bias", "attention.bias")
# what runtimes compute with in float32, besides vectors and norms
_FLOAT32 = ("ffn_gate_inp.weight", "position_embd.weight", "token_types.weight")
_F32 = quant_type("F32")


@dataclass
class PlannedTensor:
    """A tensor of the model file to be.

    Attributes:
        name: in that file.
        parts: what it is made of: one tensor, or one for each expert.
        heads: of so many heads the rows change from halves to neighbouring pairs; 0: of none.
        shift: added to every number.
    """

    name: str
    parts: dict[int, StoredTensor] = field(default_factory=dict)
    heads: int = 0
    shift: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Row-major; experts are the first dimension."""
        one = self.parts[0].shape
        return (len(self.parts), *one) if self.name.endswith("_exps.weight") else one

    def stored_as(self, type: QuantType) -> QuantType:
        """The type it gets in a file of that type."""
        if len(self.shape) < 2 or self.name.endswith(("_norm.weight", *_FLOAT32)):
            return _F32
        return type if self.shape[-1] % type.block_size == 0 else quant_type("F16")

    def made(self, type: QuantType, progress: Callable[[int], None]) -> MadeTensor:
        """The tensor in a file of that type; `progress` is told the bytes that were read."""
        stored = self.stored_as(type)

        def make() -> npt.NDArray[np.uint8]:
            out = np.empty(stored.nbytes(math.prod(self.shape)), np.uint8)
            size = out.size // len(self.parts)
            for number, part in self.parts.items():
                values, kind = self._changed(part)
                try:
                    piece = out[number * size : (number + 1) * size]
                    store(values, kind, stored, self.shape[-1], piece)
                except ModelFileError as error:
                    raise _fail(part, error.message, error.hint) from None
                del values
                part.release()
                progress(part.nbytes)
            return out

        return MadeTensor(stored, self.shape, make)

    def _changed(self, part: StoredTensor) -> tuple[Stored, str]:
        """The numbers of a part in their new order, flat, and their type."""
        values = part.stored()
        if self.heads:
            halves = values.reshape(self.heads, 2, -1, *part.shape[1:])
            values = halves.swapaxes(1, 2).reshape(-1)
        if self.shift:
            return float32(values, part.type) + np.float32(self.shift), "F32"
        return values, part.type


def plan_tensors(checkpoint: Checkpoint, layout: Layout, blocks: int) -> list[PlannedTensor]:
    """Every tensor of the model file: in the order of the names, block by block.

    Args:
        checkpoint: where they come from.
        layout: of its architecture.
        blocks: how many the config says there are.

    Raises:
        ModelFileError: a tensor is unknown, missing, of the wrong shape, or there twice.
    """
    turned = layout.turned(checkpoint)
    found: dict[str, PlannedTensor] = {}
    for tensor in checkpoint.tensors.values():
        stem, end, numbers = _split(tensor.name, layout.prefixes)
        if stem.startswith(layout.dropped) or tensor.name.endswith(_DROPPED_ENDS):
            continue
        experts = len(numbers) > 1
        if stem not in layout.names or not end or (experts and end == ".bias"):
            raise _fail(tensor, f"is not known in a {layout.arch} model")
        if numbers and numbers[0] >= blocks:
            raise _fail(tensor, f"is of a block beyond the {blocks} that config.json names")
        name = layout.names[stem].format(*numbers) + end
        planned = found.setdefault(name, PlannedTensor(name))
        planned.heads = turned.get(layout.names[stem], 0)
        planned.shift = layout.shift if name.endswith("norm.weight") else 0.0
        number = numbers[1] if experts else 0
        if number in planned.parts:
            raise _fail(tensor, f"is there twice, also as {shown(planned.parts[number].name)}")
        planned.parts[number] = tensor
    _check_complete(checkpoint, layout, blocks, found)
    for planned in found.values():
        _check_shapes(planned)
    if checkpoint.config.values.get("tie_word_embeddings") is True:
        found.pop("output.weight", None)
    order = [name.format(block) for block in range(blocks) for name in layout.names.values()]
    places = {name: place for place, name in enumerate(dict.fromkeys(order))}
    return sorted(found.values(), key=lambda planned: places[planned.name.rpartition(".")[0]])


def _split(name: str, prefixes: tuple[str, ...]) -> tuple[str, str, list[int]]:
    """`model.layers.3.mlp.gate.weight`: `layers.{}.mlp.gate`, `.weight`, [3]."""
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))  # BERT of old
    end = next((end for end in _ENDS if name.endswith(end)), "")
    stem = name.removesuffix(end)
    return _NUMBER.sub("{}", f"{stem}.")[:-1], end, [int(n) for n in _NUMBER.findall(f"{stem}.")]


def _check_complete(
    checkpoint: Checkpoint, layout: Layout, blocks: int, found: dict[str, PlannedTensor]
) -> None:
    """Every weight of every block must be there; the head may be the embedding's."""
    for stem, name in layout.names.items():
        for block in range(blocks if "{}" in name else 1):
            weight = f"{name.format(block)}.weight"
            planned = found.get(weight)
            if planned is None and name != "output":
                missing = stem.replace("{}", str(block), 1).replace("{}", "0")
                raise ModelFileError(
                    f"{checkpoint.folder}: tensor {missing}.weight: missing from the checkpoint"
                )
            if stem.count("{}") > 1 and planned is not None:
                experts = checkpoint.config.integer(
                    "num_local_experts", checkpoint.config.integer("num_experts", 0, low=0)
                )
                if set(planned.parts) != set(range(experts)):
                    raise ModelFileError(
                        f"{checkpoint.folder}: {weight}: {len(planned.parts)} experts were found, "
                        f"and {experts} are expected"
                    )


def _check_shapes(planned: PlannedTensor) -> None:
    """Parts of one shape, of whole heads where their rows change places."""
    first = planned.parts[0]
    for part in planned.parts.values():
        if part.shape != first.shape:
            raise _fail(part, f"shape {list(part.shape)}, where others have {list(first.shape)}")
    if not first.shape or 0 in first.shape:
        raise _fail(first, "is empty")
    if planned.heads and first.shape[0] % (2 * planned.heads):
        raise _fail(first, f"{first.shape[0]} rows are not {planned.heads} heads")


def _fail(tensor: StoredTensor, problem: str, hint: str = "") -> ModelFileError:
    where = f"{tensor.file.path}: tensor {shown(tensor.name)}"
    return ModelFileError(f"{where}: {problem}", hint)
