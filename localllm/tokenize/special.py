"""Finds special tokens written out in a text.

The order is llama.cpp's (`tokenizer_st_partition`): the longest special token takes all its
occurrences first, then the next one looks at what is left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

import numpy as np

from localllm.tokenize.vocabulary import Attribute, Vocabulary

_SPACE = " \t\n\v\f\r"


class _Finder:
    """Tells which of a set of texts occur in a text, without looking for each one."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._by_start: dict[str, tuple[list[int], set[str]]] = {}
        for text in texts:
            lengths, members = self._by_start.setdefault(text[:2], ([], set()))
            members.add(text)
            if len(text) not in lengths:
                lengths.append(len(text))
        starts = sorted(self._by_start, key=len, reverse=True)
        self._starts = re.compile(f"(?=({'|'.join(map(re.escape, starts))}))") if starts else None
        self._single = {start for start in starts if len(start) == 1}

    def present(self, text: str) -> set[str]:
        found: set[str] = set()
        if self._starts is None:
            return found
        for match in self._starts.finditer(text):
            position, start = match.start(), match[1]
            lengths, members = self._by_start[start]
            for length in lengths:
                candidate = text[position : position + length]
                if candidate in members:
                    found.add(candidate)
            if start[:1] in self._single:
                found.add(start[:1])
        return found


class SpecialSplitter:
    """Cuts a text at the special tokens it spells out."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        attributes = vocabulary.attributes
        kinds = attributes & Attribute.SPECIAL
        # user-defined tokens are always parsed, the others only where asked
        quiet = (attributes & (Attribute.CONTROL | Attribute.UNKNOWN)) != 0
        self._always = np.flatnonzero((kinds != 0) & ~quiet).tolist()
        self._all = np.flatnonzero(kinds).tolist()

    def _texts(self, tokens: list[int]) -> dict[str, int]:
        stored = self._vocabulary.tokens
        # a text never holds what surrogateescape makes of invalid bytes: no match, no error
        return {stored[token].decode("utf-8", "surrogateescape"): token for token in tokens}

    @cached_property
    def _finder_always(self) -> tuple[_Finder, dict[str, int]]:
        texts = self._texts(self._always)
        return _Finder(texts), texts

    @cached_property
    def _finder_all(self) -> tuple[_Finder, dict[str, int]]:
        texts = self._texts(self._all)
        return _Finder(texts), texts

    def split(self, text: str, parse_special: bool) -> list[str | int]:
        """Pieces of `text`, in order: ids of special tokens, and the text between them."""
        if not text:
            return []
        if not (self._all if parse_special else self._always):
            return [text]
        finder, tokens = self._finder_all if parse_special else self._finder_always
        pieces: list[str | int] = [text]
        # equal lengths: in the order of their ids
        for special in sorted(finder.present(text), key=lambda s: (-len(s.encode()), tokens[s])):
            token = tokens[special]
            attribute = int(self._vocabulary.attributes[token])
            cut: list[str | int] = []
            for piece in pieces:
                if isinstance(piece, int) or special not in piece:
                    cut.append(piece)
                else:
                    _cut(piece, special, token, attribute, cut)
            pieces = cut
        return pieces


def _cut(piece: str, special: str, token: int, attribute: int, out: list[str | int]) -> None:
    parts = piece.split(special)
    last = len(parts) - 1
    for index, part in enumerate(parts):
        if attribute & Attribute.RSTRIP and index > 0:
            part = part.lstrip(_SPACE)
        if attribute & Attribute.LSTRIP and index < last:
            part = part.rstrip(_SPACE)
        if part:
            out.append(part)
        if index < last:
            out.append(token)
