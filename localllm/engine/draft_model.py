"""A smaller model with the same vocabulary that guesses a larger one's next tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import numpy as np

from localllm.engine.batch import Batch
from localllm.engine.pages import PagePool, Table
from localllm.engine.runner import Runner


class DraftModel:
    """The likeliest continuation under a small model.

    It keeps the keys and values of one text, the last one it was asked about; what a new text has
    in common with that is not computed again.

    Args:
        runner: computes the small model.
        vocab_size: tokens that may be proposed; rows of the matrix beyond them are padding.
        budget: most tokens in a step.
    """

    def __init__(self, runner: Runner, vocab_size: int, budget: int) -> None:
        self.runner = runner
        self.vocab_size = vocab_size
        self.budget = budget
        self._pool = PagePool(runner.pages, runner.page_size)
        self._table = Table()
        self._known: list[int] = []  # tokens whose keys and values lie in the pages

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """See ``Drafter.propose``; fewer where the small model's context ends."""
        # The last token is computed in any case: its logits are wanted.
        pairs = zip(self._known, tokens[:-1], strict=False)
        keep = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        del self._known[keep:]
        self._pool.truncate(self._table, keep)
        room = self.runner.pages * self.runner.page_size
        drafts: list[int] = []
        missing = list(tokens[keep:])
        for _ in range(min(count, room - len(tokens) + 1)):
            drafts.append(self._next(missing))
            missing = drafts[-1:]
        return drafts

    def _next(self, missing: list[int]) -> int:
        """The likeliest token after the known ones and these."""
        logits = np.zeros((0, self.vocab_size), np.float32)
        for at in range(0, len(missing), self.budget):
            part = missing[at : at + self.budget]
            past = len(self._known)
            self._pool.writable(self._table, past, past + len(part))
            logits = self.runner.step(
                Batch(
                    tokens=np.array(part, np.int32),
                    lengths=np.array([len(part)], np.int32),
                    past=np.array([past], np.int32),
                    tables=np.array([self._table.pages], np.int32),
                    rows=np.array([len(part) - 1], np.int32),
                )
            )
            self._known += part
        return int(logits[-1, : self.vocab_size].argmax())
