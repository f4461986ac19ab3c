"""WordPiece ("bert"): words cut into the longest pieces that the vocabulary has."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

import regex  # type: ignore[import-untyped]

from localllm.tokenize.base import SPACE, Tokenizer
from localllm.tokenize.merging import WordCache
from localllm.tokenize.unicode import is_unassigned
from localllm.tokenize.vocabulary import Vocabulary

_LONGEST_TOKEN = 1024  # characters


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
        self._ids = {
            token.decode("utf-8", "surrogateescape"): index
            for index, token in enumerate(vocabulary.tokens)
        }
        self._longest = min(max(map(len, self._ids)), _LONGEST_TOKEN)
        lowercase = vocabulary.flag("normalizer.lowercase", True)
        self._characters = _Characters(
            lowercase, vocabulary.flag("normalizer.strip_accents", lowercase)
        )
        self._cache = WordCache(self._encode_word)

    def _prefix(self) -> list[int]:
        return [self.bos_id] if self.bos_id is not None else []

    def _suffix(self) -> list[int]:
        return [self._separator] if self._separator is not None else []

    def _encode_text(self, text: str, after_special: bool) -> Iterable[int]:
        words = text.translate(self._characters).split(" ")
        return self._cache.encode_all(word for word in words if word)

    def _encode_word(self, word: str) -> Iterable[int]:
        word = SPACE + word
        found, start = [], 0
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                token = self._ids.get(word[start:end])
                if token is not None:
                    found.append(token)
                    start = end
                    break
            else:
                return (self._unknown,)
        return found


class _Characters(dict[int, str]):
    """What each character of a text becomes, for `str.translate`: a space, a word of its own (with
    spaces around it), nothing, or itself without case and accents.

    As llama.cpp has it: a character is decomposed to the first of its parts only, so a Hangul
    syllable becomes its first consonant (BERT keeps all three).
    """

    def __init__(self, lowercase: bool, strip_accents: bool) -> None:
        super().__init__()
        self._lowercase = lowercase
        self._strip_accents = strip_accents

    def __missing__(self, code: int) -> str:
        self[code] = result = self._become(chr(code))
        return result

    def _become(self, character: str) -> str:
        if is_unassigned(character):
            return character
        if self._strip_accents:
            character = unicodedata.normalize("NFD", character)[0]
        if regex.match(r"\s", character):
            return " "
        if character in "\0\ufffd" or regex.match(r"\p{C}", character):
            return ""
        if self._strip_accents and regex.match(r"\p{M}", character):
            return ""
        alone = _stands_alone(character)
        if self._lowercase:
            character = character.lower()[0]
        return f" {character} " if alone else character


_CJK = regex.compile(
    r"[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    r"\U0002b920-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f]"  # from 2b920: as in BERT's code
)


def _stands_alone(character: str) -> bool:
    if _CJK.match(character) or regex.match(r"\p{P}", character):
        return True
    return character < "\x7f" and regex.match(r"\p{S}", character) is not None
