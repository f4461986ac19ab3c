"""Writes a model file anew with its tensors quantised, one at a time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from localllm import _native
from localllm.compress.mixes import TypePlan, is_quantised
from localllm.compress.quantize_report import Loss, QuantizeReport, counts, quantize_report
from localllm.errors import LocalLLMError, ModelFileError, UsageError
from localllm.files import require_space
from localllm.gguf import GGUFFile, MadeTensor, QuantType, TensorInfo, write_gguf
from localllm.gguf.types import QUANTIZATION_VERSION

Bytes = npt.NDArray[np.uint8]
Importance = Mapping[str, npt.NDArray[np.float32]]

_STEP_ELEMENTS = 1 << 23  # of one call of the kernels: a fraction of a second
_NATURAL = ("F32", "F16", "BF16")
_NEVER_MEASURED = ("token_embd.weight", "output.weight")  # see docs/imatrix.md


def quantize_file(
    source: GGUFFile,
    target: Path,
    plan: TypePlan,
    *,
    importance: Importance | None = None,
    metadata: Mapping[str, Any] | None = None,
    threads: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> QuantizeReport:
    """Writes `source` to `target`, each tensor as the plan says; `target` appears when it is whole.

    At most one tensor's new bytes and a few rows more are in memory. Metadata and the order of the
    tensors stay; what says that the file was split goes.

    Args:
        source: the model.
        target: where to; an existing file is replaced, but not one that is read.
        plan: the type of each tensor; its mix stands in the file's ``general.file_type``.
        importance: mean squared inputs by tensor name, [columns], or [experts, columns]; a tensor
            without is quantised as if there were none.
        metadata: keys to add.
        threads: processor threads.
        say: told what is under way, often.

    Raises:
        UsageError: the target is the source.
        LocalLLMError: the target cannot be written.
        ModelFileError: a tensor's type is not supported, a number in it is not finite, or the
            importance has another shape; names the tensor.
    """
    start = time.perf_counter()
    for shard in source.shards:
        if target.exists() and target.samefile(shard.path):
            raise UsageError(f"{target} is the source itself", "write to another file with -o")
    work = _Work(source, plan, importance, threads, say)
    work.require_sound()
    sizes = (plan.types[name].nbytes(prod(one.shape)) for name, one in source.tensors.items())
    require_space(target.parent, sum(sizes))
    keys: dict[str, Any] = {
        key: value for key, value in source.exact_metadata().items() if not key.startswith("split.")
    }
    keys["general.quantization_version"] = np.uint32(QUANTIZATION_VERSION)
    keys["general.file_type"] = np.uint32(plan.mix.file_type)
    keys.update(metadata or {})
    tensors = {
        name: MadeTensor(plan.types[name], tensor.shape, partial(work.make, tensor))
        for name, tensor in source.tensors.items()
    }
    try:
        write_gguf(target, keys, tensors)
    except OSError as error:
        raise LocalLLMError(f"{target}: cannot be written: {error.strerror}") from None
    return quantize_report(
        source, target, plan, work.loss, work.notes(), time.perf_counter() - start
    )


@dataclass
class _Work:
    """What is shared by the tensors of one file while they are made."""

    source: GGUFFile
    plan: TypePlan
    importance: Importance | None
    threads: int
    say: Callable[[str], None]
    loss: Loss = field(default_factory=Loss)
    _done: int = 0  # weights
    _total: int = field(init=False)
    _begin: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._total = sum(prod(tensor.shape) for tensor in self.source.tensors.values())

    def require_sound(self) -> None:
        """Checks all that can be checked before anything is written."""
        for tensor in self.source.tensors.values():
            if self._changes(tensor):
                if not tensor.type.runnable:
                    raise self._fail(tensor, f"is stored as {tensor.type}, which cannot be read")
                self._importance_of(tensor)

    def make(self, tensor: TensorInfo) -> Bytes:
        """The new bytes of a tensor."""
        if not self._changes(tensor):
            self._report(tensor)
            self.source.require_unchanged()
            kept: Bytes = tensor.data.copy()
            tensor.release()
            self._done += prod(tensor.shape)
            return kept
        quant = self.plan.types[tensor.name]
        columns = tensor.shape[-1]
        importance = self._importance_of(tensor)
        parts = 1 if importance is None else len(importance)
        out = np.empty(quant.nbytes(prod(tensor.shape)), np.uint8)
        rows = prod(tensor.shape[:-1]) // parts
        step = max(1, _STEP_ELEMENTS // columns)
        for part in range(parts):
            for first in range(0, rows, step):
                self._report(tensor)
                self._rows(
                    tensor,
                    quant,
                    part * rows + first,
                    min(step, rows - first),
                    None if importance is None else importance[part],
                    out,
                )
        return out

    def _rows(
        self,
        tensor: TensorInfo,
        quant: QuantType,
        first: int,
        count: int,
        importance: npt.NDArray[np.float32] | None,
        out: Bytes,
    ) -> None:
        columns = tensor.shape[-1]
        begin, size = tensor.type.nbytes(first * columns), tensor.type.nbytes(count * columns)
        place, length = quant.nbytes(first * columns), quant.nbytes(count * columns)
        data = tensor.data[begin : begin + size]
        self.source.require_unchanged()
        squares, errors, bad = _native.quantize(
            quant.name,
            tensor.type.name,
            columns,
            data,
            importance,
            self.threads,
            out[place : place + length],
        )
        if bad >= 0:
            raise self._bad_row(tensor, quant, first + bad)
        if tensor.file is not None:
            tensor.file.release(data)
        self.loss.add(quant.name, squares, errors)
        self._done += count * columns

    def _changes(self, tensor: TensorInfo) -> bool:
        return self.plan.types[tensor.name] != tensor.type

    def _importance_of(self, tensor: TensorInfo) -> npt.NDArray[np.float32] | None:
        """Importances of a tensor, [parts, columns]; None where there are none."""
        found = None if self.importance is None else self.importance.get(tensor.name)
        if found is None:
            return None
        columns = tensor.shape[-1]
        parts = prod(tensor.shape[:-2])
        if found.size != parts * columns:
            if tensor.name == "token_embd.weight":  # its inputs are tokens, whatever stands there
                return None
            raise self._fail(
                tensor,
                f"the importance matrix has {found.size} columns for it, and it {parts * columns}",
                "it was made for another model",
            )
        return np.ascontiguousarray(found.reshape(parts, columns), np.float32)

    def _bad_row(self, tensor: TensorInfo, quant: QuantType, row: int) -> ModelFileError:
        columns = tensor.shape[-1]
        begin = tensor.type.nbytes(row * columns)
        values = np.empty(columns, np.float32)
        data = tensor.data[begin : begin + tensor.type.nbytes(columns)]
        _native.dequantize(tensor.type.name, data, values)
        place = ", ".join(str(i) for i in np.unravel_index(row, tensor.shape[:-1]))
        wrong = np.flatnonzero(~np.isfinite(values))
        if wrong.size:
            return self._fail(tensor, f"value [{place}, {wrong[0]}] is {values[wrong[0]]}")
        column = int(np.argmax(np.abs(values)))
        value = f"value [{place}, {column}] is {values[column]:g}"
        return self._fail(tensor, f"{value}, too large for {quant}")

    def _fail(self, tensor: TensorInfo, problem: str, hint: str = "") -> ModelFileError:
        return ModelFileError(f"{self.source.path}: tensor {tensor.name}: {problem}", hint)

    def _report(self, tensor: TensorInfo) -> None:
        left = ""
        if self._done:
            passed = time.perf_counter() - self._begin
            left = f", {passed * (self._total - self._done) / self._done:.0f} s left"
        share = 100 * self._done // self._total
        self.say(f"quantising {share} %{left}: {tensor.name} to {self.plan.types[tensor.name]}")

    def notes(self) -> list[str]:
        """What the user should know."""
        notes = []
        main = self.plan.mix.type
        if main not in {quant.name for quant in self.plan.types.values()}:
            instead = next(iter(counts(self.source, self.plan.types)), "nothing")
            notes.append(f"no tensor is fit for {main}: most are stored as {instead}")
        changed = [tensor for tensor in self.source.tensors.values() if self._changes(tensor)]
        again = Counter(t.type.name for t in changed if t.type.name not in _NATURAL)
        if again:
            notes.append(
                f"{sum(again.values())} tensors were quantised before ({', '.join(again)}): their "
                "errors add to the new ones; a file in F16, BF16 or F32 gives a better result"
            )
        if self.plan.fallbacks:
            kinds = Counter(
                f"{wanted} as {self.plan.types[name]}"
                for name, wanted in self.plan.fallbacks.items()
            )
            stored = ", ".join(f"{count} × {kind}" for kind, count in kinds.items())
            notes.append(f"rows that are not whole blocks had to be stored otherwise: {stored}")
        notes += [
            f"--tensor-type {pattern}: finds none of the tensors that are quantised"
            for pattern in self.plan.unused
        ]
        if self.importance is not None:
            without = [
                tensor.name
                for tensor in changed
                if is_quantised(tensor)
                and tensor.name not in _NEVER_MEASURED
                and self._importance_of(tensor) is None
            ]
            if without:
                shown = ", ".join(without[:3]) + (", …" if len(without) > 3 else "")
                count = "1 tensor, which is" if len(without) == 1 else f"{len(without)}, which are"
                notes.append(f"the importance matrix lacks {count} rounded without: {shown}")
        return notes
