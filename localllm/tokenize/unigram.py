"""SentencePiece unigram ("t5"): of all ways to cut a text into tokens, the most probable."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

import numpy as np

from localllm.tokenize.base import SPACE, Tokenizer
from localllm.tokenize.charsmap import CharsMap
from localllm.tokenize.merging import WordCache
from localllm.tokenize.spm import chunk_pattern
from localllm.tokenize.vocabulary import Attribute, Vocabulary

_UNKNOWN_PENALTY = np.float32(10)
_LONGEST_TOKEN = 1024  # characters


class UnigramTokenizer(Tokenizer):
    """Viterbi search over token scores; what no token covers is the unknown token.

    As llama.cpp has it: tokens for single bytes are not used (SentencePiece would, where a
    vocabulary has them).
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary, add_bos=False, add_eos=True)
        if vocabulary.scores is None:
            raise vocabulary.fail("scores", "missing from the file's metadata")
        unknown = vocabulary.special.get("unknown")
        if unknown is None:
            raise vocabulary.fail("unknown_token_id", "missing from the file's metadata")
        self._unknown = unknown
        attributes = vocabulary.attributes
        normal = (attributes & Attribute.NORMAL) != 0
        lowest = vocabulary.scores[normal].min() if normal.any() else np.float32(0)
        self._unknown_score = float(lowest - _UNKNOWN_PENALTY)
        scores = np.where(attributes & Attribute.USER_DEFINED, 0.0, vocabulary.scores)
        usable = Attribute.NORMAL | Attribute.USER_DEFINED | Attribute.UNUSED
        self._tokens: dict[str, tuple[int, float]] = {
            vocabulary.tokens[token].decode("utf-8", "surrogateescape"): (token, score)
            for token, score in zip(
                np.flatnonzero(attributes & usable).tolist(),
                scores[(attributes & usable) != 0].tolist(),
                strict=True,
            )
        }
        # the longest token by first character: bounds the search from each place
        self._longest: dict[str, int] = {}
        for text in self._tokens:
            if len(text) > self._longest.get(text[0], 0):
                self._longest[text[0]] = min(len(text), _LONGEST_TOKEN)
        defined = np.flatnonzero(attributes & Attribute.USER_DEFINED).tolist()
        self._charsmap = CharsMap.read(vocabulary, [vocabulary.tokens[token] for token in defined])
        self._add_space = vocabulary.flag("add_space_prefix", False)
        self._merge_spaces = vocabulary.flag("remove_extra_whitespaces", False)
        self.strips_space = self._add_space or self._merge_spaces
        self._chunks = chunk_pattern([text.encode("utf-8", "replace") for text in self._tokens])
        self._cache = WordCache(self._encode_chunk)

    def _encode_text(self, text: str, after_special: bool) -> Iterable[int]:
        ids = self._cache.encode_all(self._chunks.findall(self._normalise(text)))
        # one unknown token for a run of them
        return [
            token
            for index, token in enumerate(ids)
            if token != self._unknown or not index or ids[index - 1] != self._unknown
        ]

    def _normalise(self, text: str) -> str:
        text = self._charsmap.apply(text)
        if self._merge_spaces:
            words = [word for word in text.split(" ") if word]
            return "".join(SPACE + word for word in words)
        body = text.lstrip(" ")
        if self._add_space and body:  # before the first word, after the spaces in front of it
            text = text[: len(text) - len(body)] + " " + body
        return text.replace(" ", SPACE)

    def _encode_chunk(self, chunk: str) -> Iterable[int]:
        tokens, longest, unknown = self._tokens, self._longest, (self._unknown, self._unknown_score)
        count = len(chunk)
        best = [0.0] + [-inf] * count
        came: list[tuple[int, int]] = [(0, 0)] * (count + 1)  # token that ends here, its start
        for start in range(count):
            base = best[start]
            for end in range(start + 1, min(count, start + longest.get(chunk[start], 0)) + 1):
                found = tokens.get(chunk[start:end])
                if found is not None and base + found[1] > best[end]:
                    best[end] = base + found[1]
                    came[end] = (found[0], start)
            if chunk[start] not in tokens and base + unknown[1] > best[start + 1]:
                best[start + 1] = base + unknown[1]
                came[start + 1] = (unknown[0], start)
        ids, end = [], count
        while end:
            token, end = came[end]
            ids.append(token)
        return reversed(ids)
