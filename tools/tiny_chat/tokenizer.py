"""Trains tiny-chat's tokenizer: byte-level BPE with the pre-tokenizer of SmolLM.

Every digit is a token of its own, which makes arithmetic learnable, and marks are never joined to
the word behind them, so that a word between quotes is copied from the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB = 4096
END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
CONTROL = [END_OF_TEXT, TURN_START, TURN_END]
MARKUP = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
PRE_TOKENIZER = "smollm"  # its name in GGUF


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Learn the merges from texts; the added tokens take the last ids of the vocabulary."""
    added = CONTROL + MARKUP
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(added),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != VOCAB - len(added):
        raise ValueError(f"too little text for {VOCAB} tokens")
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in MARKUP])
    return tokenizer


def plain_text(text: str) -> str:
    """Text without the added tokens, from which merges may be learned."""
    for token in CONTROL + MARKUP:
        text = text.replace(token, "\n")
    return text
