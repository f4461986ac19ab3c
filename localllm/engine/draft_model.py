"""A smaller model with the same vocabulary that guesses a larger one's next tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

import numpy as np

from localllm.engine.batch import Batch, Ints
from localllm.engine.runner import Logits
from localllm.engine.scheduler import STEP_TOKENS


class DraftModel:
    """The likeliest continuation under a small model.

    It keeps the keys and values of one text, the last one it was asked about; what a new text has
    in common with that is not computed again.

    Args:
        compute: computes batches of the small model, which nobody else may use.
        pages: its pages, int32 [P]: all of them, in any order.
        context: tokens that they hold.
        vocab_size: tokens that may be proposed; logits beyond them are padding.
    """

    def __init__(
        self, compute: Callable[[Batch], Logits], pages: Ints, context: int, vocab_size: int
    ) -> None:
        self.context = context
        self.vocab_size = vocab_size
        self._compute = compute
        self._table = pages[None]
        self._known: list[int] = []  # tokens whose keys and values lie in the pages

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """See ``Drafter.propose``; fewer where the small model's context ends."""
        # The last token is computed in any case: its logits are wanted.
        pairs = zip(self._known, tokens[:-1], strict=False)
        keep = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        del self._known[keep:]
        drafts: list[int] = []
        missing = list(tokens[keep:])
        for _ in range(min(count, self.context - len(tokens) + 1)):
            drafts.append(self._next(missing))
            missing = drafts[-1:]
        return drafts

    def _next(self, missing: list[int]) -> int:
        """The likeliest token after the known ones and these."""
        for at in range(0, len(missing), STEP_TOKENS):
            part = missing[at : at + STEP_TOKENS]
            logits = self._compute(
                Batch(
                    tokens=np.array(part, np.int32),
                    lengths=np.array([len(part)], np.int32),
                    past=np.array([len(self._known)], np.int32),
                    tables=self._table,
                    rows=np.array([len(part) - 1], np.int32),
                )
            )
            self._known += part
        return int(logits[-1, : self.vocab_size].argmax())
