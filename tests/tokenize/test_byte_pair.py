"""Byte-pair encoding on vocabularies small enough to follow by hand."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.tokenize import Tokenizer, load_tokenizer
from localllm.tokenize.merging import _SHORT, merge

from .building import byte_pair, model_file, random_texts

WORDS = ("the", " the", "hello", " world", "hell", "aa", "aaaa", "ünï", "日本", "!!", "\n\n")


def load(pre: str = "llama-bpe", **fields: object) -> Tokenizer:
    return load_tokenizer(model_file(byte_pair(WORDS, pre, **fields)))


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    ids = tokenizer.encode(text, add_special=False)
    return [tokenizer.token_bytes(token).decode("utf-8", "replace") for token in ids]


def test_merges() -> None:
    assert pieces(load("gpt-2"), "hello the world") == ["hello", " the", " world"]
    assert pieces(load("gpt-2"), "hellothe") == ["hello", "the"]


def test_pretokenizer_decides_where_merges_end() -> None:
    assert pieces(load("gpt-2"), "aaaa!!\n\n") == ["aaaa", "!!", "\n\n"]
    digits = byte_pair(["123", "12"], "qwen2")
    assert pieces(load_tokenizer(model_file(digits)), "123") == ["1", "2", "3"]
    digits["pre"] = "llama-bpe"
    assert pieces(load_tokenizer(model_file(digits)), "1234") == ["123", "4"]


def test_a_word_that_is_a_token_needs_no_merges() -> None:
    fields = byte_pair(["the"])
    fields["merges"] = ["x y"]
    assert pieces(load_tokenizer(model_file(fields)), "the") == ["the"]
    assert pieces(load_tokenizer(model_file({**fields, "pre": "gpt-2"})), "the") == list("the")


def test_bos_and_eos() -> None:
    tokenizer = load()
    assert tokenizer.encode("the")[0] == tokenizer.bos_id
    assert tokenizer.encode("")[:1] == [tokenizer.bos_id]
    both = load(add_bos_token=False, add_eos_token=True)
    assert both.encode("") == [both.eos_id]
    assert both.encode("", add_special=False) == []


def test_missing_pretokenizer_is_the_default_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tokenizer = load("")
    assert "tokenizer.ggml.pre" in caplog.text
    assert tokenizer.encode("a1", add_special=False) == load("default").encode(
        "a1", add_special=False
    )


def test_merge_that_gives_no_token_falls_back_to_its_bytes() -> None:
    fields = byte_pair(["the"], "gpt-2")
    fields["merges"] = [*fields["merges"], "x y"]
    assert pieces(load_tokenizer(model_file(fields)), "xy") == ["x", "y"]


TOKENIZER = load()


@settings(deadline=None)
@given(st.text())
def test_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special=False)) == text


def test_hard_text_comes_back() -> None:
    for pre in ("gpt-2", "llama-bpe", "deepseek-llm", "default", "gpt-4o", "afmoe", "superbpe"):
        tokenizer = load(pre)
        for text in random_texts(3, 50):
            assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text


def test_lone_surrogates_become_replacement_characters() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("a\ud800b", add_special=False)) == "a\ufffdb"


def naive_merge(parts: list[bytes], ranks: dict[bytes, float]) -> list[bytes]:
    """The rule itself: over and over the pair of the least rank, the leftmost of equals."""
    while True:
        found = [(ranks[a + b" " + b], i) for i, (a, b) in enumerate(pairwise(parts)) if
                 a + b" " + b in ranks]  # fmt: skip
        if not found:
            return parts
        _, index = min(found)
        parts = [*parts[:index], parts[index] + parts[index + 1], *parts[index + 2 :]]


@pytest.mark.parametrize("ties", [False, True])
def test_merging_equals_the_rule(ties: bool) -> None:
    source = random.Random(7)
    for round in range(150):
        symbols = [bytes([97 + source.randrange(3)]) for _ in range(source.randint(1, 2 * _SHORT))]
        known, ranks = [b"a", b"b", b"c"], dict[bytes, float]()
        for _ in range(source.randint(1, 30)):
            left, right = source.choice(known), source.choice(known)
            # in any order: a later merge may come before the one that makes its parts
            ranks[left + b" " + right] = source.randrange(4) if ties else source.random()
            known.append(left + right)
        assert merge(list(symbols), ranks, b" ") == naive_merge(symbols, ranks), round


@pytest.mark.parametrize("text", ["a" * 100_000, " " * 100_000, "the" * 30_000])
def test_long_words_take_no_square_time(text: str) -> None:
    tokenizer = load()
    start = time.process_time()
    ids = tokenizer.encode(text, add_special=False)
    assert time.process_time() - start < 20  # square time: hours
    assert tokenizer.decode(ids) == text
