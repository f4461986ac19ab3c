"""What quantising made of a model: sizes and errors, by the type of the tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod, sqrt
from pathlib import Path

from localllm.compress.mixes import TypePlan
from localllm.gguf import GGUFFile, QuantType


@dataclass
class TypeCount:
    """The tensors of one type.

    Attributes:
        tensors: how many there are.
        weights: numbers in them.
        bytes: what they take in the file.
        relative_error: root of the sum of the errors' squares by that of the weights' squares, over
            those that were quantised anew; None where none was.
    """

    tensors: int = 0
    weights: int = 0
    bytes: int = 0
    relative_error: float | None = None


@dataclass(frozen=True)
class QuantizeReport:
    """What was made of a model.

    Attributes:
        source: the file that was read, of a split one the shard that was named.
        output: the file that was written.
        mix: how it was quantised.
        source_bytes: of all shards.
        bytes: of the output.
        bits_per_weight: bits of the output's tensors by their weights.
        relative_error: of all tensors that were quantised anew; see `TypeCount`.
        before: tensors of the source by their type.
        after: tensors of the output by theirs.
        notes: what the user should know, a line each.
        seconds: how long it took.
    """

    source: Path
    output: Path
    mix: str
    source_bytes: int
    bytes: int
    bits_per_weight: float
    relative_error: float
    before: Mapping[str, TypeCount]
    after: Mapping[str, TypeCount]
    notes: tuple[str, ...]
    seconds: float


@dataclass
class Loss:
    """Sums of squares by the new type: of the weights that were quantised, and of their errors."""

    squares: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    errors: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, type: str, squares: float, errors: float) -> None:
        """Count some rows."""
        self.squares[type] += squares
        self.errors[type] += errors

    def relative(self) -> float:
        """The relative error of all; see `TypeCount`. 0 where nothing was quantised."""
        squares = sum(self.squares.values())
        return sqrt(sum(self.errors.values()) / squares) if squares else 0.0

    def relative_of(self, type: str) -> float | None:
        """That of one type; None where nothing was quantised to it, or only zeros."""
        squares = self.squares.get(type)
        return sqrt(self.errors[type] / squares) if squares else None


def quantize_report(
    source: GGUFFile,
    output: Path,
    plan: TypePlan,
    loss: Loss,
    notes: Sequence[str],
    seconds: float,
) -> QuantizeReport:
    """The report of a model that has been written."""
    before = counts(source, {name: tensor.type for name, tensor in source.tensors.items()})
    after = counts(source, plan.types)
    for name, count in after.items():
        count.relative_error = loss.relative_of(name)
    weights = sum(count.weights for count in after.values())
    stored = sum(count.bytes for count in after.values())
    return QuantizeReport(
        source=source.path,
        output=output,
        mix=plan.mix.name,
        source_bytes=source.nbytes,
        bytes=output.stat().st_size,
        bits_per_weight=8 * stored / weights if weights else 0.0,
        relative_error=loss.relative(),
        before=before,
        after=after,
        notes=tuple(notes),
        seconds=seconds,
    )


def counts(source: GGUFFile, types: Mapping[str, QuantType]) -> dict[str, TypeCount]:
    """Tensors by type, those with most weights first."""
    found: dict[str, TypeCount] = {}
    for name, tensor in source.tensors.items():
        count = found.setdefault(types[name].name, TypeCount())
        count.tensors += 1
        count.weights += prod(tensor.shape)
        count.bytes += types[name].nbytes(prod(tensor.shape))
    return dict(sorted(found.items(), key=lambda item: -item[1].weights))
