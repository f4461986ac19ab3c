"""Splits a stream of text into what the model thought and what it answers."""

from __future__ import annotations

from localllm.decoding.stopping import overlap

TAGS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<thought>", "</thought>"))


def opened(prompt: str, tags: tuple[tuple[str, str], ...] = TAGS) -> tuple[str, str] | None:
    """The pair of tags whose opening one the prompt ends in, if it does."""
    ending = prompt.rstrip()
    return next((pair for pair in tags if ending.endswith(pair[0])), None)


class ReasoningParser:
    """State machine over the text of one answer, fed in pieces that may split a tag anywhere.

    Reasoning counts only at the start of an answer, as models write it: a `<think>` later on is
    text. White space around the tags belongs to neither part.

    Args:
        prompt: text of the prompt; where it ends in an opened tag, the answer starts inside it.
        tags: pairs of an opening and a closing tag.
    """

    def __init__(self, prompt: str = "", tags: tuple[tuple[str, str], ...] = TAGS) -> None:
        self._tags = tags
        self._held = ""
        self._state = "before"  # before | inside | after (closing tag seen) | content
        self._close = ""
        inside = opened(prompt, tags)
        if inside is not None:
            self._state, self._close = "inside", inside[1]
        self._started = False

    @property
    def thinking(self) -> bool:
        """Whether the stream stands inside the reasoning."""
        return self._state == "inside"

    def add(self, text: str, done: bool = False) -> tuple[str, str]:
        """Take the next piece; return the (reasoning, content) that is certain now.

        Args:
            text: the piece, possibly empty.
            done: no more will come: give out what is held back.
        """
        self._held += text
        reasoning = content = ""
        while True:
            state = self._state
            if state == "before":
                self._enter(done)
            elif state == "inside":
                reasoning += self._think(done)
            elif state == "after":
                self._held = self._held.lstrip()
                if self._held:
                    self._state = "content"
            else:
                content += self._held
                self._held = ""
            if self._state == state:
                return reasoning, content

    def _enter(self, done: bool) -> None:
        start = self._held.lstrip()
        for opening, closing in self._tags:
            if start.startswith(opening):
                self._state, self._close = "inside", closing
                self._held = start[len(opening) :]
                return
        if done or (start and not any(opening.startswith(start) for opening, _ in self._tags)):
            self._state = "content"

    def _think(self, done: bool) -> str:
        before, found, after = self._held.partition(self._close)
        if found:
            self._state, self._held = "after", after
            return self._spoken(before.rstrip())
        keep = 0 if done else overlap(self._held, self._close)
        end = len(self._held) - keep
        if not done:  # white space before the closing tag is not part of the reasoning
            end = len(self._held[:end].rstrip())
        self._held, given = self._held[end:], self._held[:end]
        return self._spoken(given)

    def _spoken(self, text: str) -> str:
        if not self._started:
            text = text.lstrip()
            self._started = bool(text)
        return text
