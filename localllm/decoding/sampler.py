"""One sequence's sampler: from a row of logits to the next token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from localllm.decoding import filters
from localllm.decoding.constraint import Constraint
from localllm.decoding.filters import Candidates
from localllm.decoding.params import PRESETS, GenerationParams, flag
from localllm.decoding.penalties import History
from localllm.errors import LocalLLMError, UsageError

FILTERS: dict[str, Callable[[Candidates, Any], Candidates]] = {  # those after top-k
    "top_p": filters.top_p,
    "min_p": filters.min_p,
    "temperature": filters.temperature,
}


class Sampler:
    """Draws tokens for one sequence; its history and its random numbers are its own.

    Args:
        params: what was asked for.
        vocab_size: number of tokens; logits beyond it (padding of the matrix) are never drawn.
        prompt: tokens before the answer, for the repetition penalty.
        constraint: what the answer has to follow.
    """

    def __init__(
        self,
        params: GenerationParams,
        vocab_size: int,
        prompt: Iterable[int] = (),
        constraint: Constraint | None = None,
    ) -> None:
        for token in params.logit_bias:
            if token >= vocab_size:
                raise UsageError(
                    f"{flag('logit_bias')} {token}: the token id must be >= 0 and < {vocab_size}"
                )
        self.params = params.resolved()
        self.vocab_size = vocab_size
        self._greedy = params.greedy
        self._history = History(self.params, prompt)
        self._constraint = constraint
        self._random = np.random.Generator(np.random.PCG64(params.seed))
        order = PRESETS[self.params.sampler_order]
        self._chain = [
            (FILTERS[name], getattr(self.params, name)) for name in order if name in FILTERS
        ]

    def sample(self, logits: npt.NDArray[np.float32]) -> int:
        """The next token for float32[vocab] logits, which stay as they are; ``accept`` it after.

        Raises:
            LocalLLMError: the logits hold NaN or +inf, or nothing but -inf; or the answer cannot
                go on as its constraint demands.
        """
        if logits.ndim != 1 or len(logits) < self.vocab_size:
            raise LocalLLMError(
                f"the model gave logits of shape {list(logits.shape)}, its vocabulary has "
                f"{self.vocab_size} tokens"
            )
        row = logits[: self.vocab_size]
        if self._history.active or self._constraint is not None:
            row = row.copy()
        if self._constraint is not None:
            self._constraint.mask(row)
        if self._history.active:
            self._history.apply(row)
        if self._greedy:
            best = int(row.argmax())  # the index of a NaN, if there is one
            _require_finite(float(row[best]))
            return best
        return filters.draw(self.filter(row), self._random.random())

    def filter(self, logits: npt.NDArray[np.float32]) -> Candidates:
        """The candidates that the chain keeps of a row of logits, and their final logits.

        Raises:
            LocalLLMError: see ``sample``.
        """
        # top-k leads in every order: temperature keeps the ranking, and min-p compares with the
        # maximum alone, so neither changes what top-k keeps, and all that follows has k tokens.
        candidates = filters.top_k(Candidates(None, logits), self.params.top_k or 0)
        _require_finite(candidates.maximum())
        for apply, value in self._chain:
            candidates = apply(candidates, value)
        return candidates

    def accept(self, token: int) -> None:
        """Take note of the token that was chosen."""
        self._history.accept(token)
        if self._constraint is not None:
            self._constraint.accept(token)


def _require_finite(maximum: float) -> None:
    if math.isfinite(maximum):
        return
    what = "no possible token" if maximum == -np.inf else f"{maximum} among them"
    raise LocalLLMError(
        f"the model's logits are not usable: {what}", "the model file may be damaged"
    )
