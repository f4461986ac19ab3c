"""The filters of the sampler chain: pure functions from candidates to fewer candidates.

Every filter keeps at least the likeliest token, and what it keeps is always a prefix of the
candidates in descending order of their logits (ties: the lower id first), so that order is made
once, by ``_native.largest``, and passed on.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from localllm._native import largest

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]

_BLOCK = 512


class Candidates(NamedTuple):
    """Tokens that may still be drawn: ``logits[i]`` belongs to token ``ids[i]``.

    ``ids`` None stands for 0..n-1 (the whole vocabulary, in order). ``descending`` says that the
    logits are sorted. The largest logit must be finite; others may be -inf.
    """

    ids: Ids | None
    logits: Floats
    descending: bool = False

    def take(self, indices: Ids) -> Candidates:
        """The candidates at these indices, which stand in descending order."""
        ids = indices if self.ids is None else self.ids[indices]
        return Candidates(ids, self.logits[indices], True)

    def maximum(self) -> float:
        """The largest logit."""
        return float(self.logits[0] if self.descending else self.logits.max())

    def weights(self) -> npt.NDArray[np.float64]:
        """Probabilities but for the division by their sum; the largest is 1."""
        shifted = np.subtract(self.logits, self.maximum(), dtype=np.float64)
        return np.exp(shifted, out=shifted)

    def token(self, index: int) -> int:
        """The token id at an index."""
        return int(index if self.ids is None else self.ids[index])


def top_k(candidates: Candidates, k: int) -> Candidates:
    """Keep the k largest logits (0: all)."""
    if k <= 0 or k >= len(candidates.logits):
        return candidates
    if candidates.descending:
        ids = None if candidates.ids is None else candidates.ids[:k]
        return Candidates(ids, candidates.logits[:k], True)
    return candidates.take(largest(candidates.logits, k))


def top_p(candidates: Candidates, p: float) -> Candidates:
    """Keep the shortest descending prefix whose probabilities sum to at least p (1: all)."""
    if p >= 1:
        return candidates
    weights = candidates.weights()
    goal = p * float(weights.sum())
    n = len(weights)
    if candidates.descending:
        return top_k(candidates, int(np.searchsorted(np.cumsum(weights), goal)) + 1)
    # The prefix is nearly always short: look for it among the largest few before sorting more.
    k = min(64, n)
    while True:
        indices = largest(candidates.logits, k)
        cumulative = np.cumsum(weights[indices])
        if cumulative[-1] >= goal or k == n:
            return candidates.take(indices[: int(np.searchsorted(cumulative, goal)) + 1])
        k = min(k * 8, n)


def min_p(candidates: Candidates, fraction: float) -> Candidates:
    """Keep tokens at least ``fraction`` times as likely as the likeliest (0: all)."""
    if fraction <= 0:
        return candidates
    floor = candidates.maximum() + math.log(fraction)
    if candidates.descending:
        return top_k(candidates, max(1, int(np.searchsorted(-candidates.logits, -floor, "right"))))
    kept = np.flatnonzero(candidates.logits >= floor)
    ids = kept if candidates.ids is None else candidates.ids[kept]
    return Candidates(ids, candidates.logits[kept])


def temperature(candidates: Candidates, value: float) -> Candidates:
    """Divide the logits by a temperature > 0; the largest becomes 0, so that none overflows."""
    if value == 1:
        return candidates
    with np.errstate(over="ignore"):
        logits = np.subtract(candidates.logits, candidates.maximum(), dtype=np.float64) / value
    return Candidates(candidates.ids, logits, candidates.descending)


def draw(candidates: Candidates, uniform: float) -> int:
    """The token at the quantile ``uniform`` in [0, 1) of the candidates' distribution."""
    weights = candidates.weights()
    # A running sum over a whole vocabulary would take longest: find the block, then look inside.
    starts = np.arange(0, len(weights), _BLOCK)
    sums = np.add.reduceat(weights, starts)
    goal = uniform * float(sums.sum())
    block = _quantile(sums, goal)
    start = int(starts[block])
    goal -= float(sums[:block].sum())
    return candidates.token(start + _quantile(weights[start : start + _BLOCK], goal))


def _quantile(weights: npt.NDArray[np.float64], goal: float) -> int:
    """The first index whose running sum exceeds the goal; by rounding there may be none."""
    cumulative = np.cumsum(weights)
    last = np.searchsorted(cumulative, cumulative[-1])  # the last of any weight
    return int(min(np.searchsorted(cumulative, goal, "right"), last))
