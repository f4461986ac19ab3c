"""Quality, speed, size and memory of a model's quantisations, measured beside each other.

The one closest to the original is the base. Its logits are kept in a file meanwhile, so that only
one model is in memory at a time, and the base is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from localllm.compress.mixes import Mix, plan_types
from localllm.compress.quantize import quantize_file
from localllm.engine.machine import available_memory, default_threads
from localllm.engine.runner import Logits
from localllm.errors import LocalLLMError, UsageError
from localllm.evaluate.accuracy import EvalPlan, Say, measure, summary
from localllm.evaluate.choice import Option, frontier, recommend_measured
from localllm.evaluate.fit import shape_of
from localllm.evaluate.history import History, Subject
from localllm.evaluate.scoring import Scores, logits, score, scored
from localllm.evaluate.speed import FIGURES, measure_speed
from localllm.evaluate.texts import Text, Tokens, cut, same_vocabulary
from localllm.files import require_space, temporary_folder
from localllm.gguf import GGUFFile
from localllm.models.config import read_config
from localllm.tokenize import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Candidate:
    """A quantisation to measure.

    Attributes:
        quantisation: what it is called.
        open: gives its file, which may be made only then and removed afterwards.
        made: whether it is.
    """

    quantisation: str
    open: Callable[[], AbstractContextManager[Path]]
    made: bool = False


def report(
    base: Candidate,
    others: Sequence[Candidate],
    texts: Sequence[Text],
    plan: EvalPlan,
    history: History,
    machine: str,
    say: Say,
) -> dict[str, Any]:
    """Measure all of them, on a machine of that name; the history remembers what was found.

    Returns:
        `quantisations`, the base first: quantisation, path (None where it was made for this),
        file_bytes, perplexity and what else `accuracy.summary` has, `speed.FIGURES` and
        `speed.SPREAD`, predicted (by an earlier `fit`, or None), frontier (whether none is both
        closer and faster), error (why it could not be measured; the rest is missing then).
        `recommendation`: quantisation and reason. base, context, chunks, tokens, threads, machine,
        memory_available.

    Raises:
        UsageError: a text is too short, or the models have different vocabularies.
        LocalLLMError: the base cannot be measured, or there is no room for its logits.
    """
    available = available_memory()
    rows: list[dict[str, Any]] = []
    with temporary_folder() as folder, base.open() as path:
        kept = _Kept(folder / "logits", path, texts, plan, _saying(base, say))
        rows.append(_row(base, path, kept.scores, plan, history, machine, _saying(base, say)))
        for candidate in others:
            told = _saying(candidate, say)
            try:
                with candidate.open() as file:
                    scores = kept.compare(file, told)
                    rows.append(_row(candidate, file, scores, plan, history, machine, told))
            except UsageError:
                raise
            except LocalLLMError as error:
                rows.append(
                    {"quantisation": candidate.quantisation, "error": str(error), "predicted": None}
                )
        options = options_of(rows)
        best = {option.name for option in frontier(options)}
        choice = recommend_measured(options, available)
        return {
            "base": base.quantisation,
            "context": plan.context,
            "chunks": len(kept.chunks),
            "tokens": len(kept.scores),
            "threads": plan.threads or default_threads(),
            "machine": machine,
            "memory_available": available,
            "quantisations": [row | {"frontier": row["quantisation"] in best} for row in rows],
            "recommendation": {"quantisation": choice.name, "reason": choice.reason},
        }


def options_of(rows: Sequence[dict[str, Any]]) -> list[Option]:
    """The rows of a report that were measured, as choices."""
    return [
        Option(
            row["quantisation"],
            row["file_bytes"],
            row["decode_tokens_per_second"],
            row["peak_memory_bytes"],
            row["kl_divergence"]["mean"] if row["kl_divergence"] else None,
        )
        for row in rows
        if not row["error"]
    ]


class _Kept:
    """The base's logits in a file, float32, in the order of the scored tokens.

    Attributes:
        chunks: of all texts.
        scores: of the base itself.

    Raises:
        LocalLLMError: there is no room for the file.
    """

    def __init__(
        self, path: Path, base: Path, texts: Sequence[Text], plan: EvalPlan, say: Say
    ) -> None:
        self._plan = plan
        self.tokenizer: Tokenizer = load_tokenizer(GGUFFile.open(base))
        pieces = [cut(self.tokenizer, text, plan.context, plan.chunks) for text in texts]
        self.chunks: Tokens = np.concatenate(pieces)
        say("loading")
        engine = plan.load(base)
        shape = len(self.chunks) * len(scored(plan.context)), engine.config.vocab
        hint = "fewer --chunks take less; TMPDIR names another folder"
        # With something to spare: a mapped file that the disk has no room for ends the process.
        require_space(path.parent, 4 * shape[0] * shape[1] * 10 // 9, hint)
        self._logits = np.memmap(path, np.float32, "w+", shape=shape)
        self._ends = [0]
        threads = plan.threads or default_threads()
        parts = []
        for part in score(self._keeping(logits(engine, self.chunks)), self.chunks, None, threads):
            parts.append(part)
            say(f"logits of the base, {self._ends[-1]} of {shape[0]} tokens")
        self.scores = np.concatenate(parts)

    def compare(self, path: Path, say: Say) -> Scores:
        """The scores of another model.

        Raises:
            UsageError: it has another vocabulary.
        """
        say("loading")
        engine = self._plan.load(path)
        if not same_vocabulary([self.tokenizer, engine.tokenizer]):
            raise UsageError(f"{path}: has another vocabulary than the others")
        base = (
            self._logits[start:end] for start, end in zip(self._ends, self._ends[1:], strict=False)
        )
        return measure(engine, self.chunks, base, self._plan, say)

    def _keeping(self, pieces: Iterator[Logits]) -> Iterator[Logits]:
        for piece in pieces:
            start, end = self._ends[-1], self._ends[-1] + len(piece)
            self._logits[start:end] = piece
            self._ends.append(end)
            yield piece


def _row(
    candidate: Candidate,
    path: Path,
    scores: Scores,
    plan: EvalPlan,
    history: History,
    machine: str,
    say: Say,
) -> dict[str, Any]:
    figures = measure_speed(path, plan.threads, plan.packed, say)
    file = GGUFFile.open(path)
    config = read_config(file)
    shape = shape_of(config, tied="output.weight" not in file.tensors)
    subject = Subject(machine, config.arch, shape, candidate.quantisation)
    predicted = history.predicted(subject)
    history.measure(subject, {name: figures[name] for name in FIGURES})
    return {
        "quantisation": candidate.quantisation,
        "path": None if candidate.made else str(path),
        "file_bytes": file.nbytes,
        **{name: value for name, value in summary(scores).items() if name != "tokens"},
        **figures,
        "predicted": predicted and {name: predicted[name] for name in FIGURES},
        "error": None,
    }


def _saying(candidate: Candidate, say: Say) -> Say:
    return lambda text: say(f"{candidate.quantisation}: {text}")


@contextmanager
def there(path: Path) -> Iterator[Path]:
    """A file that is here and stays."""
    yield path


@contextmanager
def made(source: GGUFFile, mix: Mix, threads: int) -> Iterator[Path]:
    """A quantisation made of a file, removed at the end.

    Raises:
        LocalLLMError: it cannot be made.
    """
    with temporary_folder() as folder:
        target = folder / f"{source.path.stem}-{mix.name}.gguf"
        quantize_file(source, target, plan_types(source, mix), threads=threads)
        yield target
