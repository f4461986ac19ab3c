"""`tokenizer.model`: a SentencePiece model, read for what a vocabulary needs of it.

The format: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto, in
the wire format of protocol buffers (https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from localllm.convert.vocabulary import BYTE, MOST_TOKENS, NORMAL
from localllm.errors import ModelFileError
from localllm.gguf.mapping import MappedFile

_MOST_BYTES = 1 << 26
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
UNIGRAM, BPE = 1, 2


@dataclass
class SentencePieces:
    """A model: pieces with scores and kinds (numbered as GGUF numbers them), and its settings."""

    pieces: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    kind: int = UNIGRAM
    charsmap: bytes = b""
    space_prefix: bool = True
    merges_spaces: bool = True


def read_sentencepiece(path: Path) -> SentencePieces:
    """Reads a model file.

    Raises:
        ModelFileError: it is damaged, or not such a file.
    """
    file = MappedFile(path)
    if file.data.size > _MOST_BYTES:
        raise ModelFileError(f"{path}: {file.data.size} bytes are too many for a tokenizer")
    model = SentencePieces()
    try:
        for number, value in _fields(file.data.tobytes()):
            if number == 1 and isinstance(value, bytes):
                _add_piece(model, value)
            elif number == 2 and isinstance(value, bytes):  # trainer_spec
                model.kind = int(dict(_fields(value)).get(3, UNIGRAM))
            elif number == 3 and isinstance(value, bytes):  # normalizer_spec
                _read_normalizer(model, dict(_fields(value)))
    except (ValueError, TypeError, struct.error):
        raise ModelFileError(f"{path}: is not a SentencePiece model, or a damaged one") from None
    if not model.pieces or len(model.pieces) > MOST_TOKENS:
        raise ModelFileError(f"{path}: {len(model.pieces)} pieces: not a SentencePiece model")
    return model


def _add_piece(model: SentencePieces, data: bytes) -> None:
    fields = dict(_fields(data))
    (score,) = struct.unpack("<f", _blob(fields.get(2, bytes(4))))
    kind = int(fields.get(3, NORMAL))
    if not math.isfinite(score) or kind not in range(NORMAL, BYTE + 1):
        raise ValueError
    model.pieces.append(_blob(fields.get(1, b"")).decode())
    model.scores.append(score)
    model.types.append(kind)


def _read_normalizer(model: SentencePieces, fields: dict[int, bytes | int]) -> None:
    model.charsmap = _blob(fields.get(2, b""))
    model.space_prefix = bool(fields.get(3, 1))
    model.merges_spaces = bool(fields.get(4, 1))


def _blob(value: bytes | int) -> bytes:
    if isinstance(value, bytes):
        return value
    raise TypeError


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Number and value of each field of a message; a fixed-size number as its bytes.

    Raises:
        ValueError: the message ends within a field, or has one of an unknown kind.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(kind, len(data) + 1)
        if size > len(data) - at:
            raise ValueError
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError
