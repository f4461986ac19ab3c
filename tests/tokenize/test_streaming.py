"""The streaming detokenizer: whole characters only, and the same text as `decode` in the end."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.tokenize import StreamingDetokenizer, Tokenizer, load_tokenizer

from .building import byte_pair, model_file, random_texts, sentence_piece, word_piece

KINDS = {
    "byte-pair": byte_pair(["the", "日本"]),
    "sentence-piece": sentence_piece([("▁", -1.0), ("▁▁", -2.0), ("▁a", -3.0), ("a▁", -4.0)]),
    "no-prefix": sentence_piece([("▁", -1.0), ("▁a", -3.0)], add_space_prefix=False),
    "unigram": sentence_piece([("▁", -1.0), ("▁a", -3.0)], "t5", add_space_prefix=True),
    "word-piece": word_piece(["▁the", "ory", "▁é"]),
}
TOKENIZERS = {name: load_tokenizer(model_file(fields)) for name, fields in KINDS.items()}


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = StreamingDetokenizer(tokenizer)
    return [*(detokenizer.add(token) for token in ids), detokenizer.flush()]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(data=st.data())
def test_equals_decode_for_any_ids(kind: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids, skip_special=True)


def test_never_half_a_character() -> None:
    tokenizer = TOKENIZERS["byte-pair"]
    text = "aé日😀b"
    parts = stream(tokenizer, tokenizer.encode(text, add_special=False))
    assert [part for part in parts if part] == list(text)


def test_hard_text() -> None:
    for tokenizer in (TOKENIZERS["byte-pair"], TOKENIZERS["sentence-piece"]):
        for text in random_texts(6, 100):
            ids = tokenizer.encode(text)
            parts = stream(tokenizer, ids)
            assert "".join(parts) == tokenizer.decode(ids, skip_special=True)
            if "\ufffd" not in text:
                assert not any("\ufffd" in part for part in parts)


def test_broken_bytes_become_replacement_characters() -> None:
    tokenizer = TOKENIZERS["sentence-piece"]
    byte = {value: 3 + value for value in range(256)}
    assert stream(tokenizer, [byte[0xC3]]) == ["", "\ufffd"]
    assert stream(tokenizer, [byte[0xC3], byte[0x41]]) == ["", "\ufffdA", ""]
    assert stream(tokenizer, [byte[0xFF]]) == ["\ufffd", ""]


def test_control_tokens_print_nothing() -> None:
    tokenizer = TOKENIZERS["byte-pair"]
    ids = [tokenizer.vocabulary.ids[b"<|im_end|>"], tokenizer.vocabulary.ids[b"<note>"]]
    assert stream(tokenizer, ids) == ["", "<note>", ""]


def test_prefix_space() -> None:
    tokenizer = TOKENIZERS["sentence-piece"]
    a = tokenizer.vocabulary.ids["▁a".encode()]
    assert stream(tokenizer, [1, a, a]) == ["", "a", " a", ""]
    going_on = StreamingDetokenizer(tokenizer, at_start=False)
    assert going_on.add(a) == " a"


def test_ids_outside_the_vocabulary() -> None:
    with pytest.raises(IndexError):
        StreamingDetokenizer(TOKENIZERS["byte-pair"]).add(random.randint(1 << 20, 1 << 30))
