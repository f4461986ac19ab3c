"""`tokenizer.json` of the `tokenizers` package: its model as a vocabulary of the four kinds.

The format: https://huggingface.co/docs/tokenizers, as its `Tokenizer.to_str` writes it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from localllm.convert.fields import Fields
from localllm.convert.pretokenizer import pretokenizer_name
from localllm.convert.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    Vocabulary,
    by_id,
)
from localllm.gguf.metadata import shown
from localllm.tokenize.pretokenizers import find_pretokenizer
from localllm.tokenize.wordpiece import LONGEST_WORD

SPACE = "\u2581"
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_MOST_MERGES = 1 << 24
_MOST_SCORE = 1e30  # far beyond any; of larger ones not every sum is finite


def vocabulary_of(tokenizer: Fields, config: Fields, rows: int) -> Vocabulary:
    """The vocabulary that a tokenizer.json describes, its added tokens not yet among it.

    Args:
        tokenizer: the file.
        config: tokenizer_config.json.
        rows: of the embedding; no token may lie beyond.

    Raises:
        ModelFileError: it is damaged, or of a kind that no model file can say.
    """
    model = tokenizer.object("model")
    kind = model.text("type", "BPE" if model.has("merges") else "")
    if kind == "WordPiece":
        return _word_piece(tokenizer, config, model, rows)
    if kind == "Unigram":
        return _unigram(tokenizer, model, rows)
    if kind != "BPE":
        raise model.fail("type", f"{shown(kind)} is not supported (BPE, Unigram, WordPiece are)")
    if any(part.text("type", "") == "ByteLevel" for part in _parts(tokenizer)):
        return _byte_level(tokenizer, model, rows)
    if model.flag("byte_fallback", False):
        return _sentence_piece(tokenizer, model, rows)
    raise model.fail("type", "BPE is supported on bytes and with byte_fallback, not without")


def _byte_level(tokenizer: Fields, model: Fields, rows: int) -> Vocabulary:
    """Byte-pair encoding on GPT-2's characters for bytes."""
    tokens = by_id(model.object("vocab"), rows)
    normalizers = list(_steps(tokenizer.object("normalizer"), "normalizers"))
    kinds = {step.text("type", "") for step in normalizers} - {"ByteLevel"}
    name = pretokenizer_name(tokenizer, nfc="NFC" in kinds)
    pretokenizer = find_pretokenizer(name)
    if pretokenizer is not None and pretokenizer.nfc:
        kinds.discard("NFC")
    vocabulary = _vocabulary("gpt2", name, tokens)
    for kind in sorted(kinds):
        vocabulary.notes.append(f"the tokenizer's normalisation of a text ({kind}) is left out")
    vocabulary.more["merges"] = [" ".join(pair) for pair in _merges(model)]
    for step in _steps(tokenizer.object("pre_tokenizer"), "pretokenizers"):
        if step.text("type", "") == "ByteLevel" and step.flag("add_prefix_space", True):
            vocabulary.notes.append("the space before a text (add_prefix_space) is left out")
    return vocabulary


def _sentence_piece(tokenizer: Fields, model: Fields, rows: int) -> Vocabulary:
    """SentencePiece's byte-pair encoding: what the merges make gets its rank as a score."""
    tokens = by_id(model.object("vocab"), rows)
    vocabulary = _vocabulary("llama", "default", tokens)
    vocabulary.scores = [0.0] * len(tokens)
    ids = {token: number for number, token in enumerate(tokens) if token is not None}
    for rank, (left, right) in enumerate(_merges(model)):
        number = ids.get(left + right)
        if number is not None and not vocabulary.scores[number]:
            vocabulary.scores[number] = -float(rank + 1)
    unknown = model.text("unk_token", "<unk>")
    for number, token in enumerate(vocabulary.tokens):
        if _BYTE.fullmatch(token):
            vocabulary.types[number] = BYTE
        elif token == unknown:
            vocabulary.types[number] = UNKNOWN
    vocabulary.more["add_space_prefix"] = space_prefix(tokenizer)
    return vocabulary


def _unigram(tokenizer: Fields, model: Fields, rows: int) -> Vocabulary:
    """SentencePiece's unigram model."""
    entries = model.array("vocab")
    if len(entries) > rows:
        raise model.fail("vocab", f"{len(entries)} tokens, and the embedding has {rows} rows")
    tokens: list[str | None] = []
    scores: list[float] = []
    for entry in entries:
        pair: Any = entry if isinstance(entry, list) and len(entry) == 2 else ("", None)
        text, score = pair
        sane = isinstance(text, str) and isinstance(score, int | float) and abs(score) < _MOST_SCORE
        if not sane:
            raise model.fail("vocab", f"{shown(str(entry))} is no token with its score")
        tokens.append(text)
        scores.append(float(score))
    vocabulary = _vocabulary("t5", "default", tokens)
    vocabulary.scores = scores
    unknown = model.integer("unk_id", low=0, high=max(len(tokens) - 1, 0))
    vocabulary.types[unknown] = UNKNOWN
    normalizers = list(_steps(tokenizer.object("normalizer"), "normalizers"))
    vocabulary.more |= {
        "unknown_token_id": unknown,
        "add_space_prefix": space_prefix(tokenizer),
        "remove_extra_whitespaces": any(
            step.object("pattern").text("Regex", "") in (" {2,}", r"\s{2,}", " +")
            for step in normalizers
        ),
    }
    for step in normalizers:
        if step.has("precompiled_charsmap"):
            vocabulary.more["precompiled_charsmap"] = _charsmap(step)
    return vocabulary


def _word_piece(tokenizer: Fields, config: Fields, model: Fields, rows: int) -> Vocabulary:
    """BERT's; what tokenizer_config.json says counts first, as in transformers."""
    if model.text("continuing_subword_prefix", "##") != "##":
        raise model.fail("continuing_subword_prefix", "only ## is supported")
    if model.integer("max_input_chars_per_word", LONGEST_WORD) != LONGEST_WORD:
        raise model.fail("max_input_chars_per_word", f"only {LONGEST_WORD} is supported")
    normalizer = tokenizer.object("normalizer")
    kinds = (normalizer.text("type", ""), tokenizer.object("pre_tokenizer").text("type", ""))
    if kinds != ("BertNormalizer", "BertPreTokenizer"):
        raise tokenizer.fail("normalizer, pre_tokenizer", f"{kinds} are not BERT's")
    if not normalizer.flag("clean_text", True):
        raise normalizer.fail("clean_text", "false is not supported")
    chinese = normalizer.flag("handle_chinese_chars", True)
    if not config.flag("tokenize_chinese_chars", chinese):
        raise config.fail("tokenize_chinese_chars", "false is not supported")
    tokens = by_id(model.object("vocab"), rows)
    for token in tokens:
        if token is not None and token.startswith(f"##{SPACE}") and len(token) > 3:
            raise model.fail("vocab", f"{shown(token)}: no model file can say ## before {SPACE}")
    lowercase = config.flag("do_lower_case", normalizer.flag("lowercase", True))
    vocabulary = _vocabulary("bert", "bert-bge", tokens)
    vocabulary.more["normalizer.lowercase"] = lowercase
    for fields in (config, normalizer):
        if fields.has("strip_accents"):
            strip_accents = fields.flag("strip_accents", lowercase)
            vocabulary.more["normalizer.strip_accents"] = strip_accents
            break
    return vocabulary


def mark_words(vocabulary: Vocabulary) -> None:
    """Writes WordPiece tokens as a model file has them, once the added ones are known: a mark
    stands before the first piece of a word, in place of ## before the others.
    """
    for number, token in enumerate(vocabulary.tokens):
        if vocabulary.types[number] != CONTROL:
            vocabulary.tokens[number] = token[2:] if token.startswith("##") else SPACE + token


def space_prefix(tokenizer: Fields) -> bool:
    """Whether a text gets a space before it."""
    for step in _parts(tokenizer):
        if step.text("type", "") == "Prepend" and step.text("prepend", "") == SPACE:
            return True
        if step.text("type", "") == "Metaspace":
            usual = "always" if step.flag("add_prefix_space", True) else "never"
            return step.text("prepend_scheme", usual) != "never"
    return False


def _vocabulary(model: str, pre: str, tokens: list[str | None]) -> Vocabulary:
    return Vocabulary(
        model,
        pre,
        [f"[PAD{number}]" if token is None else token for number, token in enumerate(tokens)],
        [UNUSED if token is None else NORMAL for token in tokens],
    )


def _merges(model: Fields) -> Iterator[tuple[str, str]]:
    """The pairs, in the order of their ranks: `["a", "b"]`, or `"a b"` in older files."""
    entries = model.array("merges")
    if len(entries) > _MOST_MERGES:
        raise model.fail("merges", f"{len(entries)} are too many")
    for entry in entries:
        pair: Any = entry.split(" ") if isinstance(entry, str) else entry
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(p, str) for p in pair)
        ):
            raise model.fail("merges", f"{shown(str(entry))} is no pair of tokens")
        yield pair[0], pair[1]


def _parts(tokenizer: Fields) -> Iterator[Fields]:
    """Every step of the normaliser, then of the pre-tokenizer."""
    return chain(
        _steps(tokenizer.object("normalizer"), "normalizers"),
        _steps(tokenizer.object("pre_tokenizer"), "pretokenizers"),
    )


def _steps(fields: Fields, inner: str) -> Iterator[Fields]:
    if fields.text("type", "") == "Sequence":
        for step in fields.objects(inner):
            yield from _steps(step, inner)
    elif fields.values:
        yield fields


def _charsmap(step: Fields) -> np.ndarray:
    try:
        blob = base64.b64decode(step.text("precompiled_charsmap"), validate=True)
    except (binascii.Error, ValueError):
        raise step.fail("precompiled_charsmap", "is not base64") from None
    return np.frombuffer(blob, np.uint8)
