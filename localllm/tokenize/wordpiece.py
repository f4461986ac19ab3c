"""WordPiece ("bert"): words cut into the longest pieces that the vocabulary has."""

from __future__ import annotations

from collections.abc import Iterable

from localllm.tokenize.base import SPACE, Tokenizer
from localllm.tokenize.bert_words import BertWords
from localllm.tokenize.merging import WordCache
from localllm.tokenize.vocabulary import Vocabulary

LONGEST_WORD = 100  # characters; a longer one is unknown, as in the tokenizers package


class WordPieceTokenizer(Tokenizer):
    """BERT's tokenizer; U+2581 marks the first piece of a word, in place of ## on the others."""

    strips_space = True

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(vocabulary, add_bos=True, add_eos=False)
        self._separator = vocabulary.special.get("seperator")  # spelled so in the format
        unknown = vocabulary.special.get("unknown")
        if unknown is None:
            raise vocabulary.fail("unknown_token_id", "missing from the file's metadata")
        if self.bos_id is None or self._separator is None:
            raise vocabulary.fail("tokens", "too few to hold the tokens [CLS] and [SEP]")
        self._unknown = unknown
        self._first: dict[str, int] = {}
        self._later: dict[str, int] = {}
        for index, token in enumerate(vocabulary.tokens):
            text = token.decode("utf-8", "surrogateescape")
            if text.startswith(SPACE) and text != SPACE:
                self._first[text[1:]] = index
            else:
                self._later[text] = index
        lowercase = vocabulary.flag("normalizer.lowercase", True)
        self._words = BertWords(
            lowercase=lowercase,
            strip_accents=vocabulary.flag("normalizer.strip_accents", lowercase),
        )
        self._cache = WordCache(self._encode_word)

    def _prefix(self) -> list[int]:
        return [self.bos_id] if self.bos_id is not None else []

    def _suffix(self) -> list[int]:
        return [self._separator] if self._separator is not None else []

    def _encode_text(self, text: str, after_special: bool) -> Iterable[int]:
        return self._cache.encode_all(self._words(text))

    def _encode_word(self, word: str) -> Iterable[int]:
        if len(word) > LONGEST_WORD:
            return (self._unknown,)
        found, start, pieces = [], 0, self._first
        while start < len(word):
            for end in range(len(word), start, -1):
                token = pieces.get(word[start:end])
                if token is not None:
                    found.append(token)
                    start, pieces = end, self._later
                    break
            else:
                return (self._unknown,)
        return found
