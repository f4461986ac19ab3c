"""How likely the model found a token, before anything that sampling does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from localllm._native import largest

LEAST = -9999.0  # stands for impossible: JSON has no infinity


@dataclass(frozen=True)
class Logprob:
    """Natural logarithms of probabilities.

    Attributes:
        token: the one that stands in the text.
        logprob: its own.
        top: the likeliest tokens and theirs, the likeliest first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def logprob(logits: npt.NDArray[np.float32], token: int, count: int) -> Logprob:
    """Of a token and the `count` likeliest ones under float32[vocab] logits."""
    shifted = logits - logits.max()
    total = float(np.log(np.exp(shifted).sum(dtype=np.float64)))

    def one(at: int) -> float:
        return max(float(shifted[at]) - total, LEAST)

    top = largest(logits, count).tolist() if count else []
    return Logprob(token, one(token), tuple((at, one(at)) for at in top))
