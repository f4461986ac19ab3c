"""A vocabulary on its way into a model file: tokens by id, their kinds, the metadata they make."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from localllm.convert.fields import Fields
from localllm.errors import ModelFileError
from localllm.gguf.metadata import shown

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

MOST_TOKENS = 1 << 22
_ADDED_SCORE, _ABSENT_SCORE = -1000.0, -10000.0
# added tokens that steer, though not every tokenizer says that they do
_STEERING = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\]", re.DOTALL)


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in a text before anything else is."""

    id: int
    text: str
    special: bool


@dataclass
class Vocabulary:
    """What `tokenizer.ggml` will say.

    Attributes:
        model: tokenizer.ggml.model.
        pre: tokenizer.ggml.pre.
        tokens: as stored, by id.
        types: by id.
        scores: by id; None where the model has none.
        more: further keys, without "tokenizer.ggml." before them.
        notes: what of the tokenizer a model file cannot say.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None
    more: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, added: Iterable[AddedToken], rows: int) -> None:
        """Puts added tokens in their places; one beyond the embedding's rows cannot be used."""
        for token in added:
            if token.id >= rows:
                self.notes.append(
                    f"token {shown(token.text)} ({token.id}) is left out: the embedding has "
                    f"{rows} rows"
                )
                continue
            self.resize(max(len(self.tokens), token.id + 1))
            special = token.special or _STEERING.fullmatch(token.text) is not None
            # one that does not steer stands in a text, with plain spaces
            self.tokens[token.id] = token.text if special else token.text.replace("\u2581", " ")
            self.types[token.id] = CONTROL if special else USER_DEFINED
            if self.scores is not None:
                self.scores[token.id] = _ADDED_SCORE

    def resize(self, count: int) -> None:
        """Fills up to `count` tokens with ones that no text is encoded to."""
        for number in range(len(self.tokens), count):
            self.tokens.append(f"[PAD{number}]")
            self.types.append(UNUSED)
            if self.scores is not None:
                self.scores.append(_ABSENT_SCORE)

    def metadata(self) -> dict[str, Any]:
        """The keys of the model file."""
        found: dict[str, Any] = {
            "model": self.model,
            "pre": self.pre,
            "tokens": self.tokens,
            "token_type": np.array(self.types, np.int32),
        }
        if self.scores is not None:
            found["scores"] = np.array(self.scores, np.float32)
        return {f"tokenizer.ggml.{key}": value for key, value in (found | self.more).items()}


def by_id(vocab: Fields, rows: int) -> list[str | None]:
    """The tokens of a map from token to id, by id; None where an id has none.

    Raises:
        ModelFileError: an id is no number, beyond the embedding's rows, or there twice.
    """
    tokens: list[str | None] = []
    for text, number in vocab.values.items():
        if type(number) is not int or not 0 <= number < rows:
            raise ModelFileError(
                f"{vocab.where}: token {shown(text)}: id {shown(str(number))} is beyond the "
                f"{rows} rows of the embedding"
            )
        tokens += [None] * (number + 1 - len(tokens))
        if tokens[number] is not None:
            raise ModelFileError(f"{vocab.where}: id {number} stands for two tokens")
        tokens[number] = text
    return tokens


def read_added(tokenizer: Fields, config: Fields, beside: Fields) -> list[AddedToken]:
    """The added tokens of a checkpoint, in the order of their ids.

    Args:
        tokenizer: tokenizer.json, which says all where it is.
        config: tokenizer_config.json, which did before version 5 of transformers.
        beside: added_tokens.json of older checkpoints.
    """
    found: dict[int, AddedToken] = {}
    for text in beside.values:
        number = beside.integer(text, low=0, high=MOST_TOKENS)
        found[number] = AddedToken(number, text, False)
    decoder = config.object("added_tokens_decoder")
    for key in decoder.values:
        if not key.isascii() or not key.isdigit() or len(key) > 8:
            raise decoder.fail(shown(key), "is no token id")
        found[int(key)] = _added(int(key), decoder.object(key))
    for fields in tokenizer.objects("added_tokens"):
        number = fields.integer("id", low=0, high=MOST_TOKENS)
        found[number] = _added(number, fields)
    return [found[number] for number in sorted(found)]


def _added(number: int, fields: Fields) -> AddedToken:
    return AddedToken(number, fields.text("content"), fields.flag("special", False))
