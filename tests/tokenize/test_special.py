"""Special tokens: when their text is parsed, which end the generation, what they print."""

from __future__ import annotations

import numpy as np
import pytest

from localllm.evaluate.synthetic.vocabularies import CONTROL, USER_DEFINED
from localllm.tokenize import Tokenizer, load_tokenizer

from .building import byte_pair, model_file, sentence_piece


def load(**fields: object) -> Tokenizer:
    return load_tokenizer(model_file(byte_pair(["the", " the"], **fields)))


def names(tokenizer: Tokenizer, text: str, parse_special: bool) -> list[str]:
    ids = tokenizer.encode(text, add_special=False, parse_special=parse_special)
    return [tokenizer.token_bytes(token).decode() for token in ids]


def test_control_tokens_are_parsed_only_where_asked() -> None:
    tokenizer = load()
    text = "the<|im_end|> the"
    assert names(tokenizer, text, True) == ["the", "<|im_end|>", " the"]
    assert "<|im_end|>" not in names(tokenizer, text, False)
    assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text


def test_user_defined_tokens_are_always_parsed() -> None:
    assert names(load(), "the<note>the", False) == ["the", "<note>", "the"]


def test_the_longest_special_token_comes_first() -> None:
    fields = byte_pair(["the"])
    kinds = fields["token_type"].tolist()
    fields["tokens"] = [*fields["tokens"], "<a", "<a>", "a>b", "?!"]
    fields["token_type"] = np.array([*kinds, *[USER_DEFINED] * 4], np.int32)
    tokenizer = load_tokenizer(model_file(fields))
    assert names(tokenizer, "<a>x", False) == ["<a>", "x"]
    assert names(tokenizer, "<a<a>", False) == ["<a", "<a>"]
    assert names(tokenizer, "x?!?!", False) == ["x", "?!", "?!"]
    # of equal length: by id, wherever they stand
    assert names(tokenizer, "<a>b", False) == ["<a>", "b"]


def test_phi3_tokens_swallow_the_white_space_after_them() -> None:
    fields = sentence_piece([("▁", -1.0), ("a", -2.0)])
    fields["general.name"] = "Phi-3 mini"
    tokenizer = load_tokenizer(model_file(fields))
    ids = tokenizer.encode("<|im_end|> \n a", add_special=False, parse_special=True)
    assert tokenizer.decode(ids) == "<|im_end|>a"
    del fields["general.name"]
    ids = load_tokenizer(model_file(fields)).encode(
        "<|im_end|> \n a", add_special=False, parse_special=True
    )
    assert tokenizer.decode(ids) == "<|im_end|> \n a"


def test_end_of_generation_by_id_and_by_text() -> None:
    tokenizer = load()
    ids = tokenizer.vocabulary.ids
    assert tokenizer.eos_id == ids[b"<|end|>"]
    assert tokenizer.eog_ids == {ids[b"<|end|>"], ids[b"<|im_end|>"]}
    more = load(eot_token_id=5, fim_rep_token_id=6)
    assert more.eog_ids == {5, 6, ids[b"<|end|>"], ids[b"<|im_end|>"]}


def test_gpt_oss_goes_on_after_end() -> None:
    fields = byte_pair()
    kinds = fields["token_type"].tolist()
    fields["tokens"] = [*fields["tokens"], "<|return|>", "<|call|>"]
    fields["token_type"] = np.array([*kinds, CONTROL, CONTROL], np.int32)
    fields["eos_token_id"] = len(kinds)
    tokenizer = load_tokenizer(model_file(fields))
    end = tokenizer.vocabulary.ids[b"<|end|>"]
    assert end not in tokenizer.eog_ids
    assert not tokenizer.is_control(end)
    assert names(tokenizer, "<|end|>", False) == ["<|end|>"]


def test_token_11_ends_nothing_by_default() -> None:
    fields = byte_pair()
    del fields["bos_token_id"], fields["eos_token_id"]
    tokenizer = load_tokenizer(model_file(fields))
    assert tokenizer.bos_id is None
    assert 11 not in tokenizer.eog_ids
    assert tokenizer.encode("x")  # bos is asked for by the pre-tokenizer, but there is none


def test_decode_shows_or_skips_control_tokens() -> None:
    tokenizer = load()
    ids = tokenizer.encode("the<|im_end|><note>", parse_special=True)
    assert tokenizer.decode(ids) == "<|begin|>the<|im_end|><note>"
    assert tokenizer.decode(ids, skip_special=True) == "the<note>"


@pytest.mark.parametrize("token", [-1, 1 << 40])
def test_ids_outside_the_vocabulary(token: int) -> None:
    tokenizer = load()
    for use in (tokenizer.token_bytes, tokenizer.is_control, lambda t: tokenizer.decode([t])):
        with pytest.raises(IndexError, match="outside the vocabulary"):
            use(token)
