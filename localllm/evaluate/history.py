"""What was predicted of models on this machine, what was measured later, and what to learn from it.

A JSON file in the state folder: one entry a model shape, quantisation and machine. The ratio of
measurement to prediction, its median over the entries of a machine, corrects the next prediction.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from localllm.engine.machine import cpu_name, default_threads, kernels
from localllm.evaluate.speed import FIGURES, Figures
from localllm.files import locked, replacing
from localllm.hub.catalog import Shape
from localllm.hub.folders import state_dir

_MOST_ENTRIES = 500
_LARGEST_FILE = 4 << 20  # bytes; more than so many entries take
_FURTHEST = 2.0  # a correction beyond this is a mistake, not a machine's way


def history_file() -> Path:
    """Where predictions and measurements are remembered."""
    return state_dir() / "fit.json"


def machine_name(threads: int | None) -> str:
    """What a speed was measured on: processor, threads and kernels."""
    return f"{cpu_name()}, {threads or default_threads()} threads, {kernels()}"


@dataclass(frozen=True)
class Subject:
    """What a prediction is about: entries of the same one replace each other."""

    machine: str
    architecture: str
    shape: Shape
    quantisation: str

    @property
    def key(self) -> str:
        """Its name in the file."""
        sizes = self.shape
        return " ".join(
            map(
                str,
                (
                    self.architecture,
                    f"{sizes.layers}x{sizes.width}",
                    f"{sizes.heads}/{sizes.kv_heads}x{sizes.head_dim}",
                    f"{sizes.ffn}x{max(1, sizes.experts)}",
                    sizes.vocab,
                    self.quantisation,
                    self.machine,
                ),
            )
        )


class History:
    """The entries of a file, which is written anew by each change.

    A damaged file counts as an empty one; where it cannot be written, nothing is remembered.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries = self._read()

    def predicted(self, subject: Subject) -> Figures | None:
        """What was said of it, corrections included."""
        return self._of(subject, "predicted")

    def measured(self, subject: Subject) -> Figures | None:
        """What was found of it last."""
        return self._of(subject, "measured")

    def correction(self, machine: str) -> Figures:
        """What to multiply a new prediction for this machine with, by figure; 1 at first."""
        ratios: dict[str, list[float]] = {name: [] for name in FIGURES}
        for entry in self._entries.values():
            if entry["machine"] == machine and "raw" in entry and "measured" in entry:
                for name in FIGURES:
                    raw, found = entry["raw"].get(name), entry["measured"].get(name)
                    if raw and found:
                        ratios[name].append(found / raw)
        return {
            name: min(_FURTHEST, max(1 / _FURTHEST, median(found))) if found else 1.0
            for name, found in ratios.items()
        }

    def predict(self, subject: Subject, raw: Figures) -> Figures:
        """Correct a prediction and remember it, with what it was before; the corrected one."""
        factors = self.correction(subject.machine)
        figures = {name: value * factors[name] for name, value in raw.items()}
        self._note(subject, {"raw": raw, "predicted": figures})
        return figures

    def measure(self, subject: Subject, figures: Figures) -> None:
        """Remember what was measured, beside what was predicted if anything was."""
        self._note(subject, {"measured": figures})

    def _of(self, subject: Subject, what: str) -> Figures | None:
        return self._entries.get(subject.key, {}).get(what)

    def _note(self, subject: Subject, found: dict[str, Figures]) -> None:
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path):
                self._entries |= self._read()  # what others have added since
                entry = self._entries.pop(subject.key, {}) | {"machine": subject.machine} | found
                self._entries[subject.key] = entry  # the last one: what is older goes first
                self._entries = dict(list(self._entries.items())[-_MOST_ENTRIES:])
                with replacing(self.path) as beside:
                    beside.write_text(json.dumps(self._entries, indent=1), encoding="utf-8")

    def _read(self) -> dict[str, dict[str, Any]]:
        with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError):
            if self.path.is_file() and self.path.stat().st_size <= _LARGEST_FILE:
                entries = json.loads(self.path.read_text(encoding="utf-8"))
                return {key: entry for key, entry in entries.items() if _sound(entry)}
        return {}


def _sound(entry: Any) -> bool:
    """Whether an entry is what this program writes: positive numbers under the known names."""
    if not isinstance(entry, dict) or not isinstance(entry.get("machine"), str):
        return False
    for name in entry.keys() & {"raw", "predicted", "measured"}:
        figures = entry[name]
        if not isinstance(figures, dict) or not all(
            isinstance(value, (int, float)) and 0 <= value < 1e18 for value in figures.values()
        ):
            return False
    return True
