"""Stop sequences: the answer ends before them, and no part of one is ever shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class StopSequences:
    """Finds the first stop text in a stream that arrives in pieces.

    The stop that is complete first wins (of several that end together, the longest), so that the
    result does not depend on how the text was cut. Text that may become a stop is held back.
    """

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def add(self, text: str) -> str:
        """Text that is now safe to show; once ``matched`` is set there will be no more."""
        if not self._stops or self.matched is not None:
            return "" if self.matched is not None else text
        text = self._held + text
        found = [
            (text.find(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in text
        ]
        if found:
            end, length, self.matched = min(found)
            self._held = ""
            return text[: end + length]
        held = max(overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """The end of the stream: what was held back is text after all."""
        held, self._held = self._held, ""
        return held


class Detokenizer(Protocol):
    """Tokens in, whole characters out (``localllm.tokenize.StreamingDetokenizer``)."""

    def add(self, token: int, /) -> str:
        """Characters completed by this token."""

    def flush(self) -> str:
        """What is left at the end."""


class TextStream:
    """Tokens in, text out: whole characters, stop sequences cut off."""

    def __init__(self, detokenizer: Detokenizer, stops: Iterable[str] = ()) -> None:
        self._detokenizer = detokenizer
        self._stops = StopSequences(stops)

    @property
    def stopped(self) -> str | None:
        """The stop sequence that ended the text, if one did."""
        return self._stops.matched

    def add(self, token: int) -> str:
        """Text newly safe to show after this token."""
        return self._stops.add(self._detokenizer.add(token))

    def finish(self) -> str:
        """Text still held back when the tokens end."""
        return self._stops.add(self._detokenizer.flush()) + self._stops.flush()


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``stop`` (not all of it)."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
