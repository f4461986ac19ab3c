"""SentencePiece byte-pair encoding ("llama"): the neighbours of the highest score merge first."""

from __future__ import annotations

import re
from collections.abc import Iterable

from localllm.tokenize.base import SPACE, Tokenizer
from localllm.tokenize.merging import WordCache, merge
from localllm.tokenize.vocabulary import Vocabulary


class SentencePieceTokenizer(Tokenizer):
    """Scores for merges, bytes for what the vocabulary lacks, a space put before each text."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary, add_bos=True, add_eos=False)
        if vocabulary.scores is None:
            raise vocabulary.fail("scores", "missing from the file's metadata")
        self.strips_space = vocabulary.flag("add_space_prefix", True)
        self._ranks = dict(zip(vocabulary.tokens, (-vocabulary.scores).tolist(), strict=True))
        self._chunks = chunk_pattern(vocabulary.tokens)
        self._cache = WordCache(self._encode_chunk)

    def _encode_text(self, text: str, after_special: bool) -> Iterable[int]:
        if self.strips_space and after_special:
            text = " " + text
        return self._cache.encode_all(self._chunks.findall(text.replace(" ", SPACE)))

    def _encode_chunk(self, chunk: str) -> Iterable[int]:
        ids = self.vocabulary.ids
        out = []
        for part in merge([character.encode() for character in chunk], self._ranks, b""):
            token = ids.get(part)
            if token is not None:
                out.append(token)
            else:
                out += [self._byte_token(byte) for byte in part]
        return out

    def _byte_token(self, byte: int) -> int:
        ids = self.vocabulary.ids
        token = ids.get(b"<0x%02X>" % byte)
        if token is None:
            token = ids.get(bytes([byte]))
        if token is None:
            token = self.vocabulary.special.get("unknown")
        if token is None:
            raise self.vocabulary.fail("tokens", f"there is none for the byte 0x{byte:02X}")
        return token


def chunk_pattern(tokens: list[bytes]) -> re.Pattern[str]:
    """Cuts a text where no token can reach across: before a space, mostly.

    A merge gives a token, so two characters that stand side by side in no token never merge. To
    cut there changes no result, and makes words of a text, which repeat.
    """
    joined = b"\xff".join(tokens).decode("utf-8", "replace")  # U+FFFD between tokens
    inside = set(re.findall(f"(.){SPACE}", joined, re.DOTALL)) - {"\ufffd"}
    inside.add(SPACE)
    if any("\ufffd".encode() in token for token in tokens):
        inside.add("\ufffd")
    before = "".join(map(re.escape, sorted(inside)))
    return re.compile(f"(?s:.)(?:[^{SPACE}]+|(?<=[{before}]){SPACE})*")
