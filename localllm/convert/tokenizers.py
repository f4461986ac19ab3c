"""The tokenizer of a checkpoint as metadata of a model file, from whichever files it has."""

from __future__ import annotations

from typing import Any

import numpy as np

from localllm.convert.chat_template import chat_templates
from localllm.convert.checkpoint import Checkpoint
from localllm.convert.fields import Fields
from localllm.convert.sentencepiece import BPE, read_sentencepiece
from localllm.convert.special_tokens import special_tokens
from localllm.convert.tokenizer_json import mark_words, space_prefix, vocabulary_of
from localllm.convert.vocab_txt import read_vocab_txt, with_usual_tokens
from localllm.convert.vocabulary import Vocabulary, read_added
from localllm.errors import ModelFileError, UsageError


def tokenizer_metadata(checkpoint: Checkpoint, rows: int) -> tuple[dict[str, Any], list[str]]:
    """The keys of the tokenizer and of the chat templates, and what could not be kept.

    Args:
        checkpoint: with a tokenizer.model, which counts first, a tokenizer.json, or BERT's
            vocab.txt.
        rows: of the embedding; the vocabulary is filled up to as many tokens.

    Raises:
        UsageError: there is no tokenizer.
        ModelFileError: it is damaged, or of a kind that no model file can say.
    """
    tokenizer = checkpoint.optional("tokenizer.json")
    config = checkpoint.optional("tokenizer_config.json")
    lines = checkpoint.folder / "vocab.txt"
    if (checkpoint.folder / "tokenizer.model").is_file():
        vocabulary = _of_sentencepiece(checkpoint, tokenizer, config, rows)
    elif tokenizer.values or lines.is_file():
        if not tokenizer.values or tokenizer.object("model").text("type", "") == "WordPiece":
            config = with_usual_tokens(config)
        if not tokenizer.values:
            tokenizer = read_vocab_txt(lines, config)
        vocabulary = vocabulary_of(tokenizer, config, rows)
    else:
        raise UsageError(
            f"{checkpoint.folder}: there is no tokenizer.json, tokenizer.model or vocab.txt"
        )
    vocabulary.add(read_added(tokenizer, config, checkpoint.optional("added_tokens.json")), rows)
    vocabulary.resize(rows)
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    if len(ids) != rows:
        again = next(t for number, t in enumerate(vocabulary.tokens) if ids[t] != number)
        raise ModelFileError(f"{tokenizer.where}: token {again!r} stands twice")
    special = special_tokens(checkpoint, tokenizer, config, ids)
    if vocabulary.model == "bert":
        mark_words(vocabulary)
        types = checkpoint.config.integer("type_vocab_size", 1)
        vocabulary.more["token_type_count"] = types
    vocabulary.more = special | vocabulary.more
    return vocabulary.metadata() | chat_templates(checkpoint, config), vocabulary.notes


def _of_sentencepiece(
    checkpoint: Checkpoint, tokenizer: Fields, config: Fields, rows: int
) -> Vocabulary:
    path = checkpoint.folder / "tokenizer.model"
    model = read_sentencepiece(path)
    count = min(len(model.pieces), rows)
    vocabulary = Vocabulary(
        "llama" if model.kind == BPE else "t5",
        "default",
        model.pieces[:count],
        model.types[:count],
        model.scores[:count],
    )
    if count < len(model.pieces):
        left = len(model.pieces) - count
        vocabulary.notes.append(f"the last {left} tokens are left out: the embedding has no rows")
    prefix = model.space_prefix
    if tokenizer.values:
        prefix = space_prefix(tokenizer)
    elif config.has("add_prefix_space"):
        prefix = config.flag("add_prefix_space", prefix)
    vocabulary.more["add_space_prefix"] = prefix
    if model.kind != BPE:
        vocabulary.more["remove_extra_whitespaces"] = model.merges_spaces
        if model.charsmap:
            vocabulary.more["precompiled_charsmap"] = np.frombuffer(model.charsmap, np.uint8)
    elif model.charsmap or model.merges_spaces:
        vocabulary.notes.append("the tokenizer's normalisation of a text is left out")
    return vocabulary
