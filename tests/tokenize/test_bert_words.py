"""The words of BERT's vocabularies against those that the tokenizers package finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from localllm.tokenize.bert_words import BertWords
from localllm.tokenize.unicode import is_unassigned

from .building import words_of_all_kinds

pytestmark = pytest.mark.peer
tokenizers: Any = pytest.importorskip("tokenizers")

COUNT = 2000
VARIANTS = [(True, True), (True, False), (False, False), (False, True)]


def theirs(lowercase: bool, strip_accents: bool) -> Callable[[str], list[str]]:
    normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents
    )
    pieces = tokenizers.pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    return lambda text: [word for word, _ in pieces(normalizer.normalize_str(text))]


def without_young_capitals(text: str) -> str:
    """Without the capitals that Unicode 15.1 does not know, and versions of the package do."""
    lower = tokenizers.normalizers.Lowercase().normalize_str
    return "".join(c for c in text if not is_unassigned(c) or lower(c) == c)


@pytest.mark.parametrize(("lowercase", "strip_accents"), VARIANTS)
def test_random_text(lowercase: bool, strip_accents: bool) -> None:
    expected = theirs(lowercase, strip_accents)
    words = BertWords(lowercase=lowercase, strip_accents=strip_accents)
    cases = [without_young_capitals(text) for text in words_of_all_kinds(21, COUNT)]
    assert [text for text in cases if words(text) != expected(text)] == []


@pytest.mark.slow
@pytest.mark.parametrize(("lowercase", "strip_accents"), VARIANTS)
def test_every_character(lowercase: bool, strip_accents: bool) -> None:
    """Each within a word, and between marks, which may change places."""
    expected = theirs(lowercase, strip_accents)
    words = BertWords(lowercase=lowercase, strip_accents=strip_accents)
    last = 0xE1000  # beyond it private ones alone; before it four planes with none at all
    codes = [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, last)]
    for start in range(0, len(codes), 256):
        some = without_young_capitals("".join(map(chr, codes[start : start + 256])))
        text = " ".join(f"a{c}\u0345b\u0334{c}" for c in some)
        assert words(text) == expected(text), hex(codes[start])
