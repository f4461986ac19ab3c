"""SentencePiece, unigram and WordPiece on vocabularies small enough to follow by hand."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from localllm.errors import ModelFileError
from localllm.tokenize import Tokenizer, load_tokenizer
from localllm.tokenize.spm import chunk_pattern

from .building import model_file, random_texts, sentence_piece, word_piece

PIECES = [("▁", -1.0), ("a", -2.0), ("b", -3.0), ("ab", -4.0), ("▁a", -5.0), ("ba", -9.0)]


def load(*pieces: tuple[str, float], **fields: object) -> Tokenizer:
    return load_tokenizer(model_file(sentence_piece(pieces or PIECES, **fields)))


def shown(tokenizer: Tokenizer, text: str, **settings: bool) -> list[str]:
    ids = tokenizer.encode(text, add_special=False, **settings)
    return [tokenizer.vocabulary.tokens[token].decode() for token in ids]


def test_the_best_score_merges_first() -> None:
    assert shown(load(), "ab") == ["▁", "ab"]  # not ▁a, b
    assert shown(load(), "aab") == ["▁a", "ab"]
    assert shown(load(), "bab") == ["▁", "b", "ab"]


def test_unknown_characters_become_bytes() -> None:
    assert shown(load(), "é") == ["▁", "<0xC3>", "<0xA9>"]


def test_space_before_a_text() -> None:
    assert shown(load(add_space_prefix=False), "a") == ["a"]
    text = "a<|im_end|>a"
    assert shown(load(), text, parse_special=True) == ["▁a", "<|im_end|>", "▁a"]


@pytest.mark.parametrize("prefix", [True, False])
def test_text_comes_back(prefix: bool) -> None:
    tokenizer = load(add_space_prefix=prefix)
    for text in ["", "a", " a", "  a ", "\na", *random_texts(4, 200)]:
        if "▁" not in text and "<note>" not in text:
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids, skip_special=True) == text


def test_a_token_may_reach_across_a_space() -> None:
    pieces = [*PIECES, ("b▁", -0.5), ("b▁a", -0.4)]
    assert shown(load(*pieces), "ab ab") == ["▁a", "b▁a", "b"]


def test_chunks_cut_only_where_no_token_reaches() -> None:
    pattern = chunk_pattern([b"a", "▁a".encode(), "▁▁".encode(), "]▁x".encode()])
    assert pattern.findall("▁▁ab▁c]▁d▁▁") == ["▁▁ab", "▁c]▁d", "▁▁"]
    assert pattern.findall("a\n▁b") == ["a\n", "▁b"]


@pytest.mark.parametrize("text", ["a" * 100_000, " " * 100_000, "ab" * 50_000])
def test_long_text_takes_no_square_time(text: str) -> None:
    start = time.process_time()
    tokenizer = load(("▁", -1.0), ("a", -2.0), ("aa", -3.0), ("▁▁", -4.0), ("▁▁▁▁", -5.0))
    assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text
    assert time.process_time() - start < 20


PROBABLE = [("▁", -4.0), ("a", -4.0), ("b", -4.0), ("ab", -5.0), ("▁a", -5.0), ("ba", -5.0)]


def test_unigram_takes_the_most_probable_way() -> None:
    tokenizer = load(*PROBABLE, model="t5", add_space_prefix=True)
    assert shown(tokenizer, "aab") == ["▁a", "ab"]
    assert tokenizer.encode("a")[-1] == tokenizer.eos_id
    assert shown(tokenizer, "aéèa") == ["▁a", "<unk>", "a"]
    assert shown(tokenizer, "a  a") == ["▁a", "▁", "▁a"]
    merged = load(*PROBABLE, model="t5", remove_extra_whitespaces=True)
    assert shown(merged, " a  a ") == ["▁a", "▁a"]
    assert merged.decode(merged.encode(" a  a "), skip_special=True) == "a a"


def charsmap(replacements: dict[bytes, bytes]) -> np.ndarray:
    """A compiled normaliser for single bytes: root, then a leaf and its value for each."""
    trie = [0] * 1024
    trie[0] = 256 << 10  # the children of the root stand at 256 ^ byte
    strings = b""
    for index, (source, target) in enumerate(replacements.items()):
        node, value = 256 ^ source[0], 512 + index
        trie[node] = source[0] | 1 << 8 | (node ^ value) << 10
        trie[value] = len(strings)
        strings += target + b"\0"
    blob = np.array(trie, "<u4").tobytes()
    return np.frombuffer(len(blob).to_bytes(4, "little") + blob + strings, np.uint8)


def test_unigram_normaliser() -> None:
    fields = sentence_piece(PROBABLE, "t5", add_space_prefix=True)
    fields["precompiled_charsmap"] = charsmap({b"A": b"a", b"\t": b" ", b"B": b"ba"})
    assert shown(load_tokenizer(model_file(fields)), "A\tB") == ["▁a", "▁", "ba"]


def test_damaged_normaliser() -> None:
    fields = sentence_piece(PROBABLE, "t5")
    whole = charsmap({b"A": b"a"})
    for damaged in (whole[:3], whole[:400], whole[:-1], whole.astype(np.int32)):
        with pytest.raises(ModelFileError, match="precompiled_charsmap"):
            load_tokenizer(model_file({**fields, "precompiled_charsmap": damaged}))
    wild = whole.copy()
    wild[4:8] = 255
    with pytest.raises(ModelFileError, match="precompiled_charsmap"):
        load_tokenizer(model_file({**fields, "precompiled_charsmap": wild})).encode("A")


WORDS = ["▁hello", "▁wor", "ld", "▁,", "▁日", "▁naive", "▁"]


def test_word_piece() -> None:
    tokenizer = load_tokenizer(model_file(word_piece(WORDS)))
    assert shown(tokenizer, "Hello,\tWORLD 日") == ["▁hello", "▁,", "▁wor", "ld", "▁日"]
    assert shown(tokenizer, "naïve") == ["▁naive"]
    assert shown(tokenizer, "hello strange") == ["▁hello", "[UNK]"]
    ids = tokenizer.encode("hello world")
    assert [ids[0], ids[-1]] == [2, 3]
    assert tokenizer.decode(ids, skip_special=True) == "hello world"


def test_word_piece_words_of_more_than_100_characters_are_unknown() -> None:
    tokenizer = load_tokenizer(model_file(word_piece(["▁a", "a", "▁b"])))
    assert shown(tokenizer, "a" * 100) == ["▁a", *["a"] * 99]
    assert shown(tokenizer, "b " + "a" * 101 + " b") == ["▁b", "[UNK]", "▁b"]


def test_word_piece_a_mark_in_the_text_is_no_mark_of_a_word() -> None:
    tokenizer = load_tokenizer(model_file(word_piece(["▁a", "▁x", "▁", "▁▁"])))
    assert shown(tokenizer, "x▁a") == ["[UNK]"]
    assert shown(tokenizer, "x▁") == ["▁x", "▁"]
    assert shown(tokenizer, "▁") == ["▁▁"]


def test_word_piece_keeps_case_and_accents_where_told() -> None:
    fields = word_piece(["▁É", "▁é", "▁e"])
    settings = {"tokenizer.ggml.normalizer.lowercase": False}
    assert shown(load_tokenizer(model_file(fields | settings)), "É") == ["▁É"]
    settings = {"tokenizer.ggml.normalizer.strip_accents": False}
    assert shown(load_tokenizer(model_file(fields | settings)), "É") == ["▁é"]
    assert shown(load_tokenizer(model_file(fields)), "É") == ["▁e"]


def test_no_token_for_a_byte() -> None:
    fields = sentence_piece(PIECES)
    kinds = fields["token_type"]
    fields["tokens"] = [re.sub("<0x..>", lambda m: f"x{m[0]}", text) for text in fields["tokens"]]
    fields["token_type"] = np.where(kinds == 6, 1, kinds).astype(np.int32)
    assert shown(load_tokenizer(model_file(fields)), "é") == ["▁", "<unk>", "<unk>"]
