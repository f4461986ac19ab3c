"""Small synthetic vocabularies, valid for llama.cpp, trained on a few sentences."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np

from localllm.tokenize.bpe import BYTE_CHARACTERS

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_TEXT = """
The quick brown fox jumps over the lazy dog, and then the other dog asks whether the fox would like
to run there again. It was the best of times, it was the worst of times; there is nothing that they
could have done about the weather in the north. When in the course of human events, one hundred and
twenty people were walking through the streets of the old town, reading their letters and thinking
of the answer. She said: "I will be there before the end of the day," but nobody was listening.
def answer(question): return [word for word in question.split() if word not in (1, 23, 456, 7890)]
"""


def train_merges(words: Counter[tuple[str, ...]], count: int) -> list[tuple[str, str]]:
    """The first `count` merges of byte-pair encoding, or fewer where `words` has no more pairs."""
    words = Counter(words)
    merges: list[tuple[str, str]] = []
    known = {symbol for word in words for symbol in word}
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                pairs[pair] += times
        fresh = [(-times, pair) for pair, times in pairs.items() if "".join(pair) not in known]
        if not fresh:
            break
        _, best = min(fresh)
        merges.append(best)
        known.add("".join(best))
        merged: Counter[tuple[str, ...]] = Counter()
        for word, times in words.items():
            out: list[str] = []
            for symbol in word:
                if out and (out[-1], symbol) == best:
                    out[-1] += symbol
                else:
                    out.append(symbol)
            merged[tuple(out)] += times
        words = merged
    return merges


def _words() -> Counter[str]:
    return Counter(re.findall(r" ?[A-Za-z]+| ?[0-9]| ?[^\w\s]+|\s+", _TEXT))


def bpe_vocabulary(size: int = 512, pre: str = "gpt-2") -> dict[str, Any]:
    """Metadata of a byte-level BPE vocabulary with ChatML's special tokens at its end."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words: Counter[tuple[str, ...]] = Counter()
    for word, times in _words().items():
        words[tuple(BYTE_CHARACTERS[byte] for byte in word.encode())] += times
    merges = train_merges(words, size - 256 - len(special))
    tokens = BYTE_CHARACTERS + ["".join(pair) for pair in merges] + special
    types = [NORMAL] * (len(tokens) - len(special)) + [CONTROL] * len(special)
    tokens, types = _padded(tokens, types, size)
    first = tokens.index(special[0])
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": first,
        "tokenizer.ggml.eos_token_id": first + 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }


def spm_vocabulary(size: int = 512, space_prefix: bool = True) -> dict[str, Any]:
    """Metadata of a SentencePiece BPE vocabulary with scores and byte tokens, as Llama 2's."""
    words: Counter[tuple[str, ...]] = Counter()
    for word, times in _words().items():
        words[tuple(word.replace(" ", "▁").replace("\n", "▁"))] += times
    characters = sorted({character for word in words for character in word})
    head = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    merges = train_merges(words, size - len(head) - len(characters))
    pieces = ["".join(pair) for pair in merges] + characters
    tokens = head + pieces
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(pieces)
    tokens, types = _padded(tokens, types, size)
    scores = np.zeros(size, np.float32)
    scores[len(head) : len(head) + len(pieces)] = -np.arange(len(pieces), dtype=np.float32)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": space_prefix,
    }


def _padded(tokens: list[str], types: list[int], size: int) -> tuple[list[str], list[int]]:
    """Tokens that no text is encoded to but that have one, so that drawing them makes text."""
    if len(tokens) > size:
        raise ValueError(f"a vocabulary of {size} is too small; the least is {len(tokens)}")
    missing = range(len(tokens), size)
    return tokens + [f"[PAD{index}]" for index in missing], types + [NORMAL] * len(missing)
