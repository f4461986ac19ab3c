"""Byte-pair encoding ("gpt2"): words of a pre-tokenizer, merged by the order of a list."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable
from functools import cached_property

from localllm.errors import ModelFileError
from localllm.tokenize.base import SPACE, Tokenizer
from localllm.tokenize.merging import WordCache, merge
from localllm.tokenize.pretokenizers import find_pretokenizer, pretokenizer_names
from localllm.tokenize.vocabulary import Vocabulary, check_strings, string_array

_log = logging.getLogger(__name__)


def _byte_characters() -> list[str]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


BYTE_CHARACTERS = _byte_characters()
"""GPT-2's printable stand-in for each byte: itself where printable, else from U+0100 on."""

_SYMBOLS = [character.encode() for character in BYTE_CHARACTERS]
_BYTES = {character: bytes([byte]) for byte, character in enumerate(BYTE_CHARACTERS)}


class BytePairTokenizer(Tokenizer):
    """Byte-level BPE, and the kind on plain UTF-8 that Gemma 4 has."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        name = "gemma4" if vocabulary.model == "gemma4" else vocabulary.pre
        if not name:
            name = "default"
            _log.warning(
                "%s: tokenizer.ggml.pre is missing; text is split in the default way, "
                "which the model may not have been trained with",
                vocabulary.path,
            )
        pretokenizer = find_pretokenizer(name)
        if pretokenizer is None:
            raise ModelFileError(
                f"{vocabulary.path}: tokenizer.ggml.pre: unknown pre-tokenizer {name[:40]!r}",
                f"{len(pretokenizer_names())} are known; a newer version may know it",
            )
        if name in ("chatglm-bpe", "glm4", "glm5") and (
            "tokenizer.ggml.bos_token_id" not in vocabulary.file.metadata
        ):
            vocabulary.special.pop("bos", None)
        super().__init__(vocabulary, add_bos=pretokenizer.add_bos, add_eos=False)
        if name in ("gemma4", "granite-embed-multi-311m"):
            self.add_bos = True  # files say no, and are wrong
        self._kind = pretokenizer
        self._split = pretokenizer.splitter()
        check_strings(vocabulary.file, "merges")
        self._cache = WordCache(self._encode_word)

    @cached_property
    def _ranks(self) -> dict[bytes, float]:
        # built late: where every word of a prompt is a token, nothing asks for it
        merges = string_array(self.vocabulary.file, "merges")
        # from the last to the first: of equal merges the first counts
        return dict(zip(reversed(merges), range(len(merges) - 1, -1, -1), strict=True))

    def _encode_text(self, text: str, after_special: bool) -> Iterable[int]:
        if self._kind.nfc:
            text = unicodedata.normalize("NFC", text)
        if not self._kind.byte_level:
            text = text.replace(" ", SPACE)
        return self._cache.encode_all(self._split(text))

    def _encode_word(self, word: str) -> Iterable[int]:
        kind, ids = self._kind, self.vocabulary.ids
        if kind.byte_level:
            parts = [_SYMBOLS[byte] for byte in word.encode()]
        else:
            parts = [character.encode() for character in word]
        if kind.ignore_merges or (kind.newline_tokens and not word.strip("\n")):
            token = ids.get(b"".join(parts))
            if token is not None:
                return (token,)
        out: list[int] = []
        for part in merge(parts, self._ranks, b" "):
            token = ids.get(part)
            if token is not None:
                out.append(token)
                continue
            # merges made something that is no token: its bytes; one that is no token either is
            # lost, as in llama.cpp
            name = b"%c" if kind.byte_level else b"<0x%02X>"
            out += [ids[name % byte] for byte in part if name % byte in ids]
        return out

    def _decode_normal(self, stored: bytes) -> bytes:
        if not self._kind.byte_level:
            return super()._decode_normal(stored)
        text = stored.decode("utf-8", "surrogateescape")
        return b"".join(
            _BYTES.get(character) or character.encode("utf-8", "surrogateescape")
            for character in text
        )
