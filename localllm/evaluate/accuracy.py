"""Perplexity of a model on a text, and its KL divergence from a base model.

The protocol is llama-perplexity's, so that the figures compare: chunks that follow each other, a
BOS token at the start of each where the vocabulary wants one, the second half of each scored.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from localllm.engine.engine import Engine
from localllm.engine.machine import default_threads, kernels, require_threads
from localllm.engine.runner import Logits
from localllm.errors import UsageError
from localllm.evaluate.scoring import (
    Scores,
    logits,
    logits_bytes,
    score,
    scored,
    side_by_side,
)
from localllm.evaluate.texts import Text, Tokens, cut, same_vocabulary
from localllm.gguf import GGUFFile
from localllm.models import load_definition
from localllm.ops.packed import PackedCache
from localllm.tokenize import load_tokenizer

Say = Callable[[str], None]  # told what is being measured
LEAST_CONTEXT = 8  # tokens; of fewer, next to nothing is scored


@dataclass(frozen=True)
class EvalPlan:
    """How accuracy is measured.

    Attributes:
        context: tokens of a chunk.
        chunks: of each text, at most; None: all.
        threads: None: the physical cores that this process may use.
        packed: where packed weights are kept; None: nowhere.

    Raises:
        UsageError: an impossible number.
    """

    context: int = 512
    chunks: int | None = None
    threads: int | None = None
    packed: PackedCache | None = None

    def __post_init__(self) -> None:
        if self.context < LEAST_CONTEXT:
            raise UsageError(f"--ctx {self.context}: must be >= {LEAST_CONTEXT}")
        if self.chunks is not None and self.chunks < 1:
            raise UsageError(f"--chunks {self.chunks}: must be >= 1")
        require_threads(self.threads)

    def load(self, path: Path) -> Engine:
        """The engine of a model, with room for the chunks of a step.

        Raises:
            UsageError: the model generates no text.
            ModelFileError, LocalLLMError: see `Engine.load`.
        """
        config = load_definition(GGUFFile.open(path)).config
        if not getattr(config, "causal", True):
            raise UsageError(
                f"{path}: an embedding model ({config.arch}): it predicts no text",
                "perplexity is of models that generate",
            )
        return Engine.load(
            path,
            context=self.context,
            texts=side_by_side(self.context),
            threads=self.threads,
            packed=self.packed,
            drafter=None,
            reserved=2 * logits_bytes(config.vocab, self.context),
        )


def evaluate(
    path: Path, base: Path | None, texts: Sequence[Text], plan: EvalPlan, say: Say
) -> dict[str, Any]:
    """Measure a model, beside a base model where one is given.

    Both are in memory at once and read each chunk in turn: nothing of the base's logits, hundreds
    of megabytes a chunk, is kept longer than that.

    Returns:
        the figures of `summary` over all texts; those of each text in `texts`, if there are
        several; and what was measured: model, base, context, chunks, threads, isa, seconds,
        tokens_per_second (read by the model, and by the base beside it, scored or not), bos.

    Raises:
        UsageError: a text is too short, the vocabularies differ, or a model generates no text.
        LocalLLMError: a model cannot be loaded, or its logits are not finite.
    """
    kernels()  # before anything is loaded: LOCALLLM_ISA may ask for what cannot run here
    say("reading the text")
    tokenizers = [load_tokenizer(GGUFFile.open(one)) for one in (path, base) if one is not None]
    if not same_vocabulary(tokenizers):
        raise UsageError(f"--base {base}: has another vocabulary than {path}")
    pieces = [cut(tokenizers[0], text, plan.context, plan.chunks) for text in texts]
    chunks = np.concatenate(pieces)
    say("loading")
    engine = plan.load(path)
    other = None if base is None else plan.load(base)
    start = time.perf_counter()
    reference = logits(other, chunks) if other else None
    scores = measure(engine, chunks, reference, plan, say)
    seconds = time.perf_counter() - start
    report = {
        "model": str(path),
        "base": None if base is None else str(base),
        **summary(scores),
        "context": plan.context,
        "chunks": len(chunks),
        "bos": bool(engine.tokenizer.add_bos and engine.tokenizer.bos_id is not None),
        "threads": plan.threads or default_threads(),
        "isa": kernels(),
        "seconds": seconds,
        "tokens_per_second": chunks.size / seconds,
        "notes": engine.notes,
    }
    return report | {"texts": list(_by_text(texts, pieces, scores))}


def measure(
    engine: Engine, chunks: Tokens, base: Iterator[Logits] | None, plan: EvalPlan, say: Say
) -> Scores:
    """The scores of a model's tokens; see `score`."""
    total = chunks.shape[0] * len(scored(plan.context))
    parts: list[Scores] = []
    done, start, surprise = 0, time.perf_counter(), 0.0
    say(f"0 of {len(chunks)} chunks")
    for part in score(logits(engine, chunks), chunks, base, plan.threads or default_threads()):
        parts.append(part)
        done += len(part)
        surprise += float(part["surprise"].sum())
        left = (time.perf_counter() - start) * (total - done) / done
        say(
            f"{done * len(chunks) // total} of {len(chunks)} chunks, {left:.0f} s left, "
            f"perplexity {math.exp(min(700.0, surprise / done)):.4g}"
        )
    return np.concatenate(parts)


def summary(scores: Scores) -> dict[str, Any]:
    """The figures of some scores, by the formulas of llama-perplexity.

    Errors are standard errors of the mean. Without a base, what is measured against it is None.

    Returns:
        tokens (scored), perplexity, perplexity_error; base_perplexity, perplexity_ratio,
        perplexity_ratio_error; kl_divergence: mean, error, median, p99, p999, max, min in nats;
        top1_agreement and top1_agreement_error, rms_delta_p and rms_delta_p_error as shares of 1.
    """
    surprise, base_surprise = scores["surprise"], scores["base_surprise"]
    mean, error = _mean(surprise)
    found: dict[str, Any] = {
        "tokens": len(scores),
        "perplexity": _exp(mean),
        "perplexity_error": _exp(mean) * error,
    }
    against = (
        "base_perplexity",
        "perplexity_ratio",
        "perplexity_ratio_error",
        "kl_divergence",
        "top1_agreement",
        "top1_agreement_error",
        "rms_delta_p",
        "rms_delta_p_error",
    )
    if np.isnan(base_surprise).any():
        return found | dict.fromkeys(against)
    ratio, ratio_error = _mean(surprise - base_surprise)
    divergences = scores["divergence"]
    divergence, divergence_error = _mean(divergences)
    median, p99, p999 = np.quantile(divergences, [0.5, 0.99, 0.999])
    agreement, agreement_error = _mean(scores["same_top"].astype(np.float64))
    delta, delta_error = _mean((np.exp(-surprise) - np.exp(-base_surprise)) ** 2)
    rms = math.sqrt(delta)
    values = (
        _exp(float(base_surprise.mean())),
        _exp(ratio),
        _exp(ratio) * ratio_error,
        {
            "mean": divergence,
            "error": divergence_error,
            "median": float(median),
            "p99": float(p99),
            "p999": float(p999),
            "max": float(divergences.max()),
            "min": float(divergences.min()),
        },
        agreement,
        agreement_error,
        rms,
        0.5 / rms * delta_error if rms else 0.0,
    )
    return found | dict(zip(against, values, strict=True))


def _by_text(
    texts: Sequence[Text], pieces: Sequence[Tokens], scores: Scores
) -> Iterator[dict[str, Any]]:
    end = 0
    for text, chunks in zip(texts, pieces, strict=True):
        start, end = end, end + len(chunks) * len(scored(chunks.shape[1]))
        yield {"text": text.name, "chunks": len(chunks), **summary(scores[start:end])}


def _mean(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std() / math.sqrt(max(1, len(values) - 1)))


def _exp(value: float) -> float:
    """Also of what no float holds: then the largest."""
    return math.exp(min(value, 709.0))
