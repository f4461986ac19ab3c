"""An adapter's matrices beside the weights of the model that they are for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from localllm.errors import ModelFileError
from localllm.gguf.metadata import shown
from localllm.models.blocks import Model
from localllm.ops.low_rank import LowRank
from localllm.ops.spec import Float32, Weight

_FLOAT = 4  # bytes
_EXPERTS = ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")


class Matrix(Protocol):
    """A tensor of an adapter's file."""

    @property
    def name(self) -> str:
        """As it stands in the file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Row-major."""

    def float32(self) -> Float32:
        """The values."""


@dataclass(frozen=True)
class Pair:
    """What an adapter's file holds for one weight of the base model.

    Attributes:
        a: [rank, in].
        b: [out, rank].
        scale: factor on B A.
        heads: where the base model's rows are those of so many heads, each with the two halves
            that rotation pairs interleaved: B's rows are still in the original order. 0: nothing
            was moved.
    """

    a: Matrix
    b: Matrix
    scale: float
    heads: int = 0


class AdapterFile:
    """An adapter that was found to fit a model, not read yet.

    Args:
        path: of the file or folder.
        pairs: by the name of the tensor in the base model.
        model: the base model.

    Raises:
        ModelFileError: a tensor has no counterpart in the model, or does not fit it.
    """

    def __init__(self, path: Path, pairs: Mapping[str, Pair], model: Model) -> None:
        self.path = path
        self._pairs = pairs
        self._targets = _targets(model)
        if not pairs:
            raise ModelFileError(f"{path}: the adapter holds no tensors")
        for name, pair in pairs.items():
            self._check(name, pair, model.config.arch)

    @property
    def rank(self) -> int:
        """The largest rank of a weight."""
        return max(pair.a.shape[0] for pair in self._pairs.values())

    @property
    def nbytes(self) -> int:
        """Bytes that the adapter takes in use; every row range of a fused weight has its own A."""
        return _FLOAT * sum(
            len(self._targets[name]) * math.prod(pair.a.shape) + math.prod(pair.b.shape)
            for name, pair in self._pairs.items()
        )

    def read(self) -> dict[str, LowRank]:
        """The adapter's `Terms`: a fused weight's by its row ranges.

        Raises:
            ModelFileError: a value is not finite, or the file was cut short meanwhile.
        """
        terms: dict[str, LowRank] = {}
        for name, pair in self._pairs.items():
            a, b = self._values(pair.a), self._values(pair.b, pair.scale)
            whole = LowRank(a, _interleaved(b, pair.heads) if pair.heads else b)
            for weight in self._targets[name]:
                stop = weight.first_row + weight.shape[0]
                terms[weight.name] = whole.rows(weight.first_row, stop)
        return terms

    def _check(self, name: str, pair: Pair, arch: str) -> None:
        where = f"{self.path}: tensor {shown(pair.a.name)}"
        if name.endswith(tuple(f"{part}.weight" for part in _EXPERTS)):
            raise ModelFileError(f"{where}: adapters of experts are not supported")
        if name not in self._targets:
            raise ModelFileError(
                f"{where}: the model (architecture {arch}) has no linear weight {shown(name)}"
            )
        out, width = self._targets[name][0].info.shape
        rank = pair.a.shape[0]
        if rank < 1 or pair.a.shape[1] != width:
            raise ModelFileError(
                f"{where}: expected shape [rank, {width}], found {list(pair.a.shape)}"
            )
        if pair.b.shape != (out, rank):
            raise ModelFileError(
                f"{self.path}: tensor {shown(pair.b.name)}: expected shape {[out, rank]}, "
                f"found {list(pair.b.shape)}"
            )

    def _values(self, matrix: Matrix, scale: float = 1.0) -> Float32:
        with np.errstate(over="ignore", invalid="ignore"):  # said below
            values: Float32 = matrix.float32() * np.float32(scale)
        if not np.isfinite(values).all():
            raise ModelFileError(
                f"{self.path}: tensor {shown(matrix.name)}: holds a value that is not finite"
            )
        return values


def paired(
    path: Path, halves: Mapping[str, Mapping[str, Matrix]], names: tuple[str, str]
) -> Iterator[tuple[str, Matrix, Matrix]]:
    """Name, A and B of each weight, of halves by their names.

    Raises:
        ModelFileError: one stands alone, or is no matrix.
    """
    for name, found in halves.items():
        for half in names:
            if half not in found:
                other = next(iter(found.values()))
                raise ModelFileError(
                    f"{path}: tensor {shown(other.name)}: there is no {half} beside it"
                )
            if len(found[half].shape) != 2:
                raise ModelFileError(
                    f"{path}: tensor {shown(found[half].name)}: must be a matrix, has shape "
                    f"{list(found[half].shape)}"
                )
        yield name, found[names[0]], found[names[1]]


def _targets(model: Model) -> dict[str, list[Weight]]:
    """The weights of a model that can be adapted, by tensor: one, or the row ranges of one."""
    targets: dict[str, list[Weight]] = {}
    for linear in model.linears():
        if linear.weight.info.name != model.embedding.info.name:  # a head that embeds, too
            targets.setdefault(linear.weight.info.name, []).append(linear.weight)
    return targets


def _interleaved(b: Float32, heads: int) -> Float32:
    """Rows of heads in the converter's order for rotation pairs that are neighbours."""
    halves = b.reshape(heads, 2, -1, b.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(b.shape)
