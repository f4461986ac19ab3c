"""Damaged and hostile metadata end in one error that names the field."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from localllm.errors import ModelFileError
from localllm.tokenize import load_tokenizer

from .building import byte_pair, model_file, sentence_piece, word_piece

KINDS = {
    "gpt2": byte_pair(["the"]),
    "llama": sentence_piece([("a", -1.0)]),
    "t5": sentence_piece([("a", -1.0)], "t5"),
    "bert": word_piece(["▁a"]),
}
SHORT = np.zeros(3, np.int32)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        *((kind, "model", value) for kind in KINDS for value in (None, "rwkv", 7)),
        *((kind, "tokens", value) for kind in KINDS for value in (None, [], SHORT, "x")),
        *((kind, "token_type", value) for kind in KINDS for value in (SHORT, ["x"], 1)),
        *((kind, "bos_token_id", value) for kind in KINDS for value in (-1, 1 << 31, "x", True)),
        *((kind, "eos_token_id", 1 << 20) for kind in KINDS),
        *((kind, "fim_pad_token_id", 1 << 20) for kind in KINDS),
        *((kind, "add_bos_token", "yes") for kind in KINDS),
        *((kind, "scores", value) for kind in ("llama", "t5") for value in (None, SHORT, ["x"])),
        ("gpt2", "merges", None),
        ("gpt2", "merges", SHORT),
        ("gpt2", "pre", "no-such-thing"),
        ("gpt2", "pre", 3),
        ("llama", "add_space_prefix", 1),
        ("bert", "unknown_token_id", 99),
    ],
)
def test_wrong_field(kind: str, field: str, value: Any) -> None:
    fields = {**KINDS[kind], field: value}
    if value is None:
        del fields[field]
    with pytest.raises(ModelFileError, match=rf"tiny\.gguf: tokenizer\.ggml\.{field}\b"):
        load_tokenizer(model_file(fields))


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_twice(kind: str) -> None:
    tokens = [*KINDS[kind]["tokens"]]
    tokens[-1] = tokens[3]
    with pytest.raises(ModelFileError, match=r"tokens: .* stands twice, as 3 and"):
        load_tokenizer(model_file({**KINDS[kind], "tokens": tokens}))


def test_scores_that_are_no_numbers() -> None:
    for wrong in (np.nan, np.inf, -np.inf):
        fields = sentence_piece([("a", wrong)])
        with pytest.raises(ModelFileError, match="scores"):
            load_tokenizer(model_file(fields))


def test_byte_tokens_that_are_none() -> None:
    fields = sentence_piece([("a", -1.0)])
    fields["tokens"] = [text.replace("<0x41>", "<0xZZ>") for text in fields["tokens"]]
    with pytest.raises(ModelFileError, match="<0xZZ>"):
        load_tokenizer(model_file(fields))


def test_empty_and_broken_tokens_are_harmless() -> None:
    for kind, fields in KINDS.items():
        tokens = [text.encode() for text in fields["tokens"]]
        tokens[-1] = b"\xff\xfe"
        tokens[-2] = b""
        tokenizer = load_tokenizer(model_file({**fields, "tokens": tokens}))
        ids = tokenizer.encode("a \udcff é <note>", parse_special=True)
        assert all(0 <= token < tokenizer.vocab_size for token in ids), kind
        tokenizer.decode(range(tokenizer.vocab_size))


def test_merges_of_unknown_tokens_are_harmless() -> None:
    fields = byte_pair(["the"], "gpt-2")
    fields["merges"] = ["", " ", "nospace", "q u", "qu i", "Ġ x y", " a", "t h", "é é", *"ab"]
    tokenizer = load_tokenizer(model_file(fields))
    text = "quiet the aé x"
    assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text


def test_unknown_token_types_are_unused() -> None:
    fields = byte_pair(["the"])
    kinds = fields["token_type"].copy()
    kinds[65], kinds[66] = 99, -5
    tokenizer = load_tokenizer(model_file({**fields, "token_type": kinds}))
    assert tokenizer.token_bytes(65) == tokenizer.token_bytes(66) == b""


def test_types_may_be_missing() -> None:
    fields = byte_pair(["the"])
    del fields["token_type"]
    assert load_tokenizer(model_file(fields)).encode("the", add_special=False) == [257]


def test_ids_past_a_small_vocabulary_are_no_defaults() -> None:
    tokenizer = load_tokenizer(
        model_file({"model": "llama", "tokens": ["a"], "scores": np.zeros(1, np.float32)})
    )
    assert (tokenizer.bos_id, tokenizer.eos_id) == (None, None)
    assert tokenizer.encode("a", add_special=False) == [0, 0, 0, 0]  # three bytes of ▁ unknown, a
