"""Small vocabularies of every kind, and text that tokenizers find hard."""

from __future__ import annotations

import itertools
import random
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from localllm.evaluate.synthetic.vocabularies import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
)
from localllm.gguf import GGUFFile
from localllm.tokenize.bpe import BYTE_CHARACTERS
from localllm.tokenize.merging import merge
from localllm.tokenize.vocabulary import PREFIX

Metadata = dict[str, Any]


def model_file(fields: Metadata) -> GGUFFile:
    """A file with these `tokenizer.ggml` fields (a key with a dot stands for itself)."""
    metadata: Metadata = {}
    for key, value in fields.items():
        if isinstance(value, list) and value and isinstance(value[0], str):
            value = [text.encode() for text in value]
        metadata[key if "." in key else PREFIX + key] = value
    return GGUFFile(Path("tiny.gguf"), 3, metadata, {})


def byte_pair(words: Sequence[str] = (), pre: str = "llama-bpe", **fields: Any) -> Metadata:
    """Byte-level BPE: 256 bytes, the merges that make `words`, and four special tokens."""
    tokens, merges = list(BYTE_CHARACTERS), list[str]()
    for word in words:
        ranks = {line.encode(): float(rank) for rank, line in enumerate(merges)}
        symbols = [BYTE_CHARACTERS[byte].encode() for byte in word.encode()]
        made, *rest = [part.decode() for part in merge(symbols, ranks, b" ")]
        for part in rest:
            merges.append(f"{made} {part}")
            made += part
            tokens.append(made)
    kinds = [NORMAL] * len(tokens) + [CONTROL, CONTROL, CONTROL, USER_DEFINED]
    tokens += ["<|begin|>", "<|end|>", "<|im_end|>", "<note>"]
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": np.array(kinds, np.int32),
        "merges": merges or ["a b"],
        "bos_token_id": tokens.index("<|begin|>"),
        "eos_token_id": tokens.index("<|end|>"),
        **fields,
    }


def all_pairs(pre: str) -> Metadata:
    """BPE in which neighbours of all sorts merge: where a text is cut shows in its ids."""
    plain = pre in ("gemma4", "sarvam-moe", "granite-embed-multi-311m")
    plain_characters = list("abcdefghijklmnopqrstuvwxyzABC'.,!?0123456789▁é日本語가\t-")
    single = plain_characters if plain else BYTE_CHARACTERS
    pairs = list(itertools.product(single, single))
    pairs = random.Random(5).sample(pairs, min(len(pairs), 20_000))
    extra = [f"<0x{byte:02X}>" for byte in range(256)] if plain else []
    lines = ["\n" * count for count in range(1, 8)] if plain else []
    tokens = ["<|endoftext|>", *single, *extra, *(a + b for a, b in pairs), *lines]
    kinds = [CONTROL] + [NORMAL] * len(single) + [BYTE] * len(extra)
    kinds += [NORMAL] * (len(tokens) - len(kinds)) + [CONTROL, USER_DEFINED]
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": [*tokens, "<special>", "<note>"],
        "token_type": np.array(kinds, np.int32),
        "merges": [f"{a} {b}" for a, b in pairs],
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def sentence_piece(
    pieces: Sequence[tuple[str, float]] = (), model: str = "llama", **fields: Any
) -> Metadata:
    """SentencePiece: <unk>, <s>, </s>, 256 bytes, `pieces` with their scores, two added tokens."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(pieces)
    scores = [0.0] * 259 + [score for _, score in pieces] + [0.0, 0.0]
    return {
        "model": model,
        "tokens": [*tokens, *(piece for piece, _ in pieces), "<|im_end|>", "<note>"],
        "token_type": np.array([*kinds, CONTROL, USER_DEFINED], np.int32),
        "scores": np.array(scores, np.float32),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        **fields,
    }


def word_piece(pieces: Sequence[str], **fields: Any) -> Metadata:
    """WordPiece: [PAD], [UNK], [CLS], [SEP] and `pieces`."""
    return {
        "model": "bert",
        "tokens": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces],
        "token_type": np.array([CONTROL] * 4 + [NORMAL] * len(pieces), np.int32),
        "unknown_token_id": 1,
        "bos_token_id": 2,
        "seperator_token_id": 3,
        "padding_token_id": 0,
        **fields,
    }


_RANGES = (
    *[(0x20, 0x7E)] * 4,
    *((0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x590, 0x6FF)),
    *((0x660, 0x669), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1780, 0x17FF)),
    *((0x1C80, 0x1CFF), (0x2000, 0x206F), (0x2160, 0x2188), (0x2200, 0x22FF), (0x3040, 0x30FF)),
    *((0x4E00, 0x9FFF), (0xA640, 0xA7FF), (0xAC00, 0xD7A3), (0xE000, 0xE0FF), (0xFB00, 0xFDFF)),
    *((0xFF00, 0xFFEF), (0x0, 0x1F), (0x7F, 0xA0), (0x10000, 0x1FFFF), (0x1D400, 0x1D7FF)),
    *((0x1F300, 0x1FAFF), (0x20000, 0x2A6DF), (0, 0x10FFFF)),
)
_HARD = (
    "the The THE hello World don't I'M we'll it's 'S 'ſ 'T 're 'VE 'll 'LL 'd x's x'S 1234567 12 3 "
    "1,000.50 \u0661\u0662\u0663 ½ ² Ⅷ ﬁ İ ı ß ǅ \u212a ℵ e\u0301 n\u0303 \u212b 각 한국어 日本語 "
    "中文，。 ภาษาไทย हिन्दी العربية עברית ελληνικά русский 😀 "
    "👨\u200d👩\u200d👧 🏳️\u200d🌈 🇩🇪 foo_bar "
    "camelCase HTTPServer <a>b</a> {{}} /* */ // --- ... !!! ??? ___ ▁ ▁▁ \ufeff \ufffd \x00 \x1c "
    "\x85 \u180e \u200b <|x|> don\u2019t IMGIMGABZ <sentinel:12> AB ABc abC ÀÉ àéÀ"
)
_WORDS = _HARD.split(" ")
_SPACES = (
    *[" "] * 6,
    *("  ", "   ", "\n", "\n\n", "\r\n", "\t", "\r", "\v", "\f", "\xa0", "\u2003", "\u3000"),
    *("\u1680", "\u2028", "\x85", " \n ", "\n \n", "\t\t", "     "),
)


def random_text(random: random.Random, special: Sequence[str] = ()) -> str:
    """Mixed scripts, marks, digits, white space, unassigned code points, contractions, runs."""
    out: list[str] = []
    for _ in range(random.randint(1, 14)):
        kind = random.random()
        if kind < 0.35:
            out.append(random.choice(_WORDS))
        elif kind < 0.6:
            out.append(random.choice(_SPACES))
        elif kind < 0.9:
            low, high = random.choice(_RANGES)
            codes = [random.randint(low, high) for _ in range(random.randint(1, 5))]
            out += [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
        elif kind < 0.95 and special:
            out.append(random.choice(special))
        else:
            out.append(random.choice("aA1! \n") * random.randint(1, 60))
    return "".join(out)


@lru_cache
def _by_category() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for code in range(0x110000):
        found.setdefault(unicodedata.category(chr(code)), []).append(chr(code))
    return found


def words_of_all_kinds(seed: int, count: int, special: Sequence[str] = ()) -> Iterator[str]:
    """Texts of `random_text` with what WordPiece finds hard: marks and symbols of every category,
    Hangul whole and in parts, unassigned and private code points, and words of 90 to 110
    characters, of which those over 100 are unknown.
    """
    source = random.Random(seed)
    categories = ["Mn", "Mc", "Me", "Po", "Pd", "Sm", "Sk", "So", "Lu", "Lt"]
    categories += ["Cf", "Cc", "Cn", "Co"]
    for _ in range(count):
        parts = [random_text(source, special)]
        for _ in range(source.randint(1, 4)):
            of = _by_category()[source.choice(categories)]
            parts += [source.choice("aÉ각한ᄀ中 "), *source.choices(of, k=source.randint(1, 3))]
        parts.append("".join(chr(source.randint(0xAC00, 0xD7A3)) for _ in range(3)))
        if source.random() < 0.2:
            parts += [" ", source.choice("aÀ각ς") * source.randint(30, 110)]
        source.shuffle(parts)
        yield "".join(parts)


def random_texts(seed: int, count: int, special: Sequence[str] = ()) -> Iterator[str]:
    """`count` texts of `random_text`."""
    source = random.Random(seed)
    return (random_text(source, special) for _ in range(count))
