"""Guessing the next tokens cheaply, so that one step of the model can check several of them.

Losslessly, for every way of sampling: the sampler draws each token from the model's own logits as
it would without drafts, and a drafted token only saves a step where the draw agrees with it. The
rule, and prompt lookup: Saxena, "Prompt Lookup Decoding" (2023); Yang et al., "Inference with
Reference" (2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

LONGEST = 3  # tokens of the text's end that are looked for earlier in it
MOST_DRAFTS = 15  # in a step: with the token before them 16 rows, for which weights are read once
FIRST_DRAFTS = 4
FIRST_REST, LONGEST_REST = 16, 512  # steps without drafts after they did not pay
MOST_SAVED = 2  # steps


class Drafter(Protocol):
    """Guesses how a text goes on."""

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """At most ``count`` tokens that may follow ``tokens``; a text only grows between calls."""


class PromptLookup:
    """What came after an earlier place of the text's last three, two or one tokens.

    The place that the last drafts were taken from goes on where it still fits: a copy does not
    jump to another place that begins alike. Else it is the latest. It pays where an answer repeats
    its prompt: edits, summaries, quotes, code.
    """

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> the place after its latest one
        self._known = 0  # n-grams that end before this place are in the table
        self._distance = 0  # from the place of the last drafts to the text's end; 0: none

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """See ``Drafter.propose``."""
        for end in range(self._known, len(tokens)):  # not yet those that end the text itself
            for size in range(1, min(LONGEST, end) + 1):
                self._after[tuple(tokens[end - size : end])] = end
        self._known = len(tokens)
        self._distance = self._found(tokens)
        if not self._distance:
            return []
        # A period that runs into the text's end goes round.
        start = len(tokens) - self._distance
        return [tokens[start + i % self._distance] for i in range(count)]

    def _found(self, tokens: Sequence[int]) -> int:
        """The distance from a place like the text's end back to it; 0: there is none."""
        longest, place = min(LONGEST, len(tokens)), len(tokens) - self._distance
        before = tokens[max(0, place - longest) : place]
        if self._distance and before == tokens[-len(before) :]:
            return self._distance
        for size in range(longest, 0, -1):
            start = self._after.get(tuple(tokens[len(tokens) - size :]))
            if start is not None:
                return len(tokens) - start
        return 0


class Speculation:
    """Drafts for one text: more while they are right, none while that is the quicker way.

    It keeps account of the seconds that drafts saved. When they have cost as much as a step they
    rest for some tokens, twice as many each time, so that they can never cost much.

    Args:
        drafter: guesses the tokens.
    """

    def __init__(self, drafter: Drafter) -> None:
        self.drafter = drafter
        self._count = FIRST_DRAFTS
        self._step = 0.0  # seconds of a step without drafts; 0: not known yet
        self._saved = 0.0  # seconds, since the last rest
        self._resting = 0  # steps to go without drafts
        self._rest = FIRST_REST

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Tokens to try in the next step, at most so many."""
        if most <= 0 or self._resting or not self._step:
            return []
        return self.drafter.propose(tokens, min(self._count, most))

    def took(self, seconds: float, drafted: int, accepted: int) -> None:
        """Note a step that drafted so many tokens, of which so many were right."""
        if not drafted:
            self._step += (seconds - self._step) * (0.25 if self._step else 1.0)
            self._resting = max(0, self._resting - 1)
            return
        # Savings long ago are no reason to go on, so only so much of them counts.
        saved = self._saved + (accepted + 1) * self._step - seconds
        self._saved = min(saved, MOST_SAVED * self._step)
        if accepted == drafted:
            self._count = min(2 * drafted, MOST_DRAFTS)
            self._rest = FIRST_REST
        elif accepted < drafted / 2:
            self._count = max(drafted // 2, 1)
        if self._saved < -self._step:
            self._resting, self._saved, self._count = self._rest, 0.0, FIRST_DRAFTS
            self._rest = min(2 * self._rest, LONGEST_REST)
