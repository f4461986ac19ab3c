r"""The words of a text as BERT's vocabularies know them, equal to those of the tokenizers package.

That package's `BertNormalizer` and `BertPreTokenizer`: controls go, a Chinese character and a
punctuation mark are words of their own, white space separates the others; accents and case go where
the vocabulary has none. llama.cpp keeps only the first character of each decomposition, which loses
most of a Hangul syllable, and drops more marks than were dropped in training.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

import regex  # type: ignore[import-untyped]

from localllm.tokenize.unicode import is_unassigned

# Marks, punctuation and controls that are younger than the tables of the tokenizers package: plain
# characters to it. The ranges also span what is plain anyway.
_YOUNG = (
    r"\u061d\u07fd\u0890-\u08e2\u09fd-\u09fe\u0a76\u0afa-\u0aff\u0b55\u0c04-\u0c3c\u0c77\u0c84"
    r"\u0d00\u0d3b-\u0d3c\u0d81\u0eba\u0ece\u1715\u180f-\u1886\u1abf-\u1ace\u1b7d-\u1b7e"
    r"\u1df6-\u1dfb\u2e43-\u2e5d\ua82c\ua8c5\ua8ff\ua9bd\U00010d24-\U00010f89"
    r"\U00011070-\U00011074\U000110c2-\U000110cd\U000111c9\U000111cf\U0001123e-\U00011241"
    r"\U0001133b\U00011438-\U0001145e\U00011660-\U0001166c\U000116b9\U0001182f-\U00011fff"
    r"\U00012ff1-\U00013455\U00016e97-\U00016f4f\U00016fe2-\U00016ff1\U0001cf00-\U0001cf46"
    r"\U0001e000-\U0001e4ef\U0001e944-\U0001e95f"
)
_NOT_YOUNG = re.compile(f"[^{_YOUNG}]+")
# with what those tables have in another place than Unicode has now
_CONTROL = regex.compile(rf"(?V1)[[\p{{C}}--[\t\n\r{_YOUNG}]]\0\ufffd]")
_MARK = regex.compile(rf"(?V1)[[\p{{Mn}}--[{_YOUNG}]]\u1734\U0001171e]")
_PUNCTUATION = regex.compile(
    rf"(?V1)[[\p{{P}}--[{_YOUNG}]]!-/:-@\[-`\{{-\~\u166d\U000111c9]"  # all of ASCII's symbols
)
_CHINESE = re.compile(
    r"[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    r"\U0002b920-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f]"  # from 2b920: as in BERT's code
)


class BertWords:
    """Cuts texts into words.

    Args:
        lowercase: take away case.
        strip_accents: decompose characters, and leave out the marks (not those that take room).
    """

    def __init__(self, *, lowercase: bool, strip_accents: bool) -> None:
        def finished(character: str) -> str:
            if is_unassigned(character):
                return character
            if strip_accents and _MARK.match(character):
                return ""
            if _PUNCTUATION.match(character):
                return f" {character} "
            return character.lower() if lowercase else character

        self._strip_accents = strip_accents
        self._clean = _Table(_cleaned)
        self._finish = _Table(finished)

    def __call__(self, text: str) -> list[str]:
        """The words of a text, in order; none is empty."""
        text = text.translate(self._clean)
        if self._strip_accents and not text.isascii():
            text = _NOT_YOUNG.sub(lambda part: unicodedata.normalize("NFD", part[0]), text)
        return text.translate(self._finish).split()


class _Table(dict[int, str]):
    """What each character becomes, for `str.translate`; found on the first request."""

    def __init__(self, become: Callable[[str], str]) -> None:
        super().__init__()
        self._become = become

    def __missing__(self, code: int) -> str:
        self[code] = result = self._become(chr(code))
        return result


def _cleaned(character: str) -> str:
    if _CHINESE.match(character):
        return f" {character} "
    if is_unassigned(character):
        return character
    if _CONTROL.match(character):
        return ""
    return " " if character.isspace() else character
