"""SentencePiece's compiled normaliser: replacements of text, the longest match first.

The format is a length, a double-array trie of that many bytes (XCDA: Kanda, Space- and
Time-Efficient String Dictionaries, 2018) and the replacements, each ended by a zero byte.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from localllm.errors import ModelFileError
from localllm.tokenize.vocabulary import PREFIX, Vocabulary

_FIELD = "precompiled_charsmap"


class CharsMap:
    """The normaliser of one vocabulary; user-defined tokens pass it untouched."""

    def __init__(self, trie: list[int], replacements: bytes, keep: list[bytes]) -> None:
        self._trie = trie
        self._replacements = replacements
        self._keep: dict[int, list[bytes]] = {}
        for text in sorted(keep, key=len, reverse=True):
            self._keep.setdefault(text[0], []).append(text)

    @classmethod
    def read(cls, vocabulary: Vocabulary, keep: list[bytes]) -> CharsMap:
        """The vocabulary's normaliser, or one that changes nothing where there is none.

        Raises:
            ModelFileError: the field is damaged.
        """
        value = vocabulary.file.get(PREFIX + _FIELD, list, None)
        if value is None:
            return cls([], b"", keep)
        if not isinstance(value, np.ndarray) or value.dtype.itemsize != 1:
            raise vocabulary.fail(_FIELD, "expected an array of bytes")
        blob = value.tobytes()
        size = int.from_bytes(blob[:4], "little")
        if len(blob) < 4 or size % 4 or size + 4 >= len(blob):
            raise vocabulary.fail(_FIELD, "cut short")
        if blob[-1]:
            raise vocabulary.fail(_FIELD, "its last replacement has no end")
        return cls(np.frombuffer(blob, "<u4", size // 4, 4).tolist(), blob[4 + size :], keep)

    def apply(self, text: str) -> str:
        """`text` with every match replaced.

        Raises:
            ModelFileError: the trie points out of itself.
        """
        if not self._trie:
            return text
        raw = text.encode()
        out, position = [], 0
        try:
            while position < len(raw):
                used, replacement = self._step(raw, position)
                out.append(replacement)
                position += used
        except IndexError:
            raise ModelFileError(f"{PREFIX}{_FIELD}: its trie points out of itself") from None
        return b"".join(out).decode("utf-8", "replace")

    def _step(self, raw: bytes, position: int) -> tuple[int, bytes]:
        for kept in self._keep.get(raw[position], ()):
            if raw.startswith(kept, position):
                return len(kept), kept
        trie = self._trie
        node = _base(trie[0])
        length = value = 0
        for end in range(position, len(raw)):
            byte = raw[end]
            if not byte:
                break
            node ^= byte
            unit = trie[node]
            if unit & 0x800000FF != byte:
                break
            node ^= _base(unit)
            if unit >> 8 & 1:
                length, value = end - position + 1, trie[node] & 0x7FFFFFFF
        if length:
            end = self._replacements.find(b"\0", value)
            if end < 0:
                raise IndexError
            return length, self._replacements[value:end]
        lead = raw[position]
        length = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        return length, raw[position : position + length]


@lru_cache(maxsize=1 << 12)
def _base(unit: int) -> int:
    return (unit >> 10) << ((unit & (1 << 9)) >> 6)
