"""How much of a prompt goes into a step, so that the answers beside it keep their pace."""

from __future__ import annotations

STRETCH = 2.25  # times as long as without a prompt beside them may a step of answers take
FEWEST = 8  # tokens of a prompt in a step: it gets on, however slow the machine is
_WEIGHT = 0.25  # of the newest step in an average


class Pace:
    """Learns what steps take, and says how many tokens of prompts the next one may have.

    A step of answers alone takes some time, and each token of a prompt adds to it. While answers
    are under way a step is stretched so far and no further; the more prompts wait for the fewer
    answers, the further, since the answers to come are delayed too.
    """

    def __init__(self) -> None:
        self._step = 0.0  # seconds of a step of answers alone; 0: not known yet
        self._token = 0.0  # seconds that a token of a prompt adds

    def allowance(self, answers: int, prompts: int) -> int:
        """Tokens of prompts in the next step, beside so many answers (at least one)."""
        if not self._step or not self._token:
            return FEWEST
        stretch = STRETCH * max(1.0, prompts / answers)
        return max(FEWEST, int((stretch - 1) * self._step / self._token))

    def took(self, seconds: float, answers: int, tokens: int) -> None:
        """Note a step with so many answers, and so many tokens of prompts."""
        if not tokens:
            self._step = _average(self._step, seconds)
        elif not answers:
            self._token = _average(self._token, seconds / tokens)
        elif self._step and seconds > self._step:
            self._token = _average(self._token, (seconds - self._step) / tokens)


def _average(known: float, new: float) -> float:
    return known + (new - known) * _WEIGHT if known else new
