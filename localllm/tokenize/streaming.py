"""Tokens one by one into text that can be shown at once."""

from __future__ import annotations

import codecs
from collections.abc import Container

from localllm.tokenize.base import Tokenizer


class StreamingDetokenizer:
    """Emits each character as soon as all its bytes are there, and never before.

    What `add` and `flush` returned, joined, is ``tokenizer.decode(ids, skip_special=True)``, where
    no control token is `shown`.

    Args:
        tokenizer: of the ids to come.
        at_start: the ids begin a text, so a prefix space that the tokenizer put there is taken
            away; False where they continue one that was shown before.
        shown: control tokens that are given out as the text they are written with.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, at_start: bool = True, shown: Container[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._shown = shown
        self._strip = at_start and tokenizer.strips_space
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """The characters that `token` completes; none for a control token that is not shown.

        Raises:
            IndexError: the id is outside the vocabulary.
        """
        if self._tokenizer.is_control(token) and token not in self._shown:
            return ""
        piece = self._tokenizer.token_bytes(token)
        if self._strip and piece:
            self._strip = False
            piece = piece.removeprefix(b" ")
        return self._decoder.decode(piece)

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was cut short."""
        return self._decoder.decode(b"", final=True)
