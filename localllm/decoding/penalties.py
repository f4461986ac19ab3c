"""Logit bias and the three penalties, on the few logits they touch.

The penalty order is the same in llama.cpp, transformers and vLLM: repetition scales, then frequency
and presence subtract.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from localllm.decoding.params import GenerationParams

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


def repetition(logits: Logits, ids: Ids, penalty: float) -> None:
    """In place: positive logits of ``ids`` (each once) are divided, the others multiplied."""
    seen = logits[ids]
    logits[ids] = np.where(seen > 0, seen / penalty, seen * penalty)


def frequency_and_presence(
    logits: Logits, ids: Ids, counts: Ids, frequency: float, presence: float
) -> None:
    """In place: logit -= count * frequency + presence, for tokens with ``counts`` > 0."""
    logits[ids] -= (counts * frequency + presence).astype(np.float32)


class History:
    """The tokens that penalties look at, and what they do to the next logits.

    Frequency and presence count generated tokens only (OpenAI); repetition looks at the last
    ``repeat_last_n`` tokens of prompt and answer together.
    """

    def __init__(self, params: GenerationParams, prompt: Iterable[int]) -> None:
        """``params`` must be resolved: no None where a preset has a default."""
        self._params = params
        self._bias_ids = np.fromiter(params.logit_bias.keys(), np.int64)
        self._bias = np.fromiter(params.logit_bias.values(), np.float32)
        self._generated: Counter[int] = Counter()
        self._counts = params.frequency_penalty != 0 or params.presence_penalty != 0
        last = params.repeat_last_n if params.repeat_last_n is not None else -1
        self._repeats = params.repeat_penalty != 1 and last != 0
        self._window: deque[int] = deque()
        self._in_window: Counter[int] = Counter()
        self._width = last
        if self._repeats:
            for token in prompt:
                self._remember(token)

    @property
    def active(self) -> bool:
        """Whether ``apply`` can change anything at all."""
        return bool(len(self._bias_ids)) or self._counts or self._repeats

    def accept(self, token: int) -> None:
        """Take note of a generated token."""
        if self._counts:
            self._generated[token] += 1
        if self._repeats:
            self._remember(token)

    def apply(self, logits: Logits) -> None:
        """Bias, repetition, frequency and presence on float32[vocab], in place."""
        params = self._params
        if len(self._bias_ids):
            logits[self._bias_ids] += self._bias
        if self._in_window:
            ids = np.fromiter(self._in_window, np.int64, len(self._in_window))
            repetition(logits, ids, params.repeat_penalty)
        if self._generated:
            ids = np.fromiter(self._generated, np.int64, len(self._generated))
            counts = np.fromiter(self._generated.values(), np.int64, len(self._generated))
            frequency_and_presence(
                logits, ids, counts, params.frequency_penalty, params.presence_penalty
            )

    def _remember(self, token: int) -> None:
        self._in_window[token] += 1
        if self._width < 0:
            return
        self._window.append(token)
        if len(self._window) > self._width:
            gone = self._window.popleft()
            self._in_window[gone] -= 1
            if not self._in_window[gone]:
                del self._in_window[gone]
