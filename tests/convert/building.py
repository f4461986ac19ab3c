"""Checkpoints as transformers saves them, with random weights and tokenizers trained on little."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", minversion="5.0")
tokenizers = pytest.importorskip("tokenizers")

SIZES: dict[str, Any] = {
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 512,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
PAIRS = 8  # of a head of 16
TEXT = (
    "The quick brown fox jumps over the lazy dog; 1234567 sheep, and I'll say it's  3.14!\n\n"
    "It was the best of times, it was the worst of times, it was the age of wisdom.\n"
    "def answer(question):\n    return [word for word in question.split() if word]\n"
    "Größe, naïve café, русский текст, ελληνικά, 日本語の文章。中文，한국어 문장 😀 ÀÉÎ\n"
) * 3


def model(kind: str, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A transformers model with random weights; norms about 1 (Gemma's about 0: it adds 1)."""
    sizes = {**SIZES, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
    if kind not in ("Bert", "Gemma3Text"):
        sizes["rope_parameters"] = DEFAULT_ROPE
    if kind == "Bert":
        del sizes["num_key_value_heads"], sizes["rms_norm_eps"]
    config = getattr(transformers, f"{kind}Config")(
        **{**sizes, "attn_implementation": "eager", **options}
    )
    end = "Model" if kind == "Bert" else "ForCausalLM"
    made = getattr(transformers, kind.removesuffix("Text") + end)(config).eval()
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, value in made.named_parameters():
            value.normal_(0, value.shape[-1] ** -0.5, generator=random)
            if key.lower().endswith("norm.weight"):
                value.add_(0.0 if kind.startswith("Gemma3") else 1.0)
            if key.endswith("bias"):
                value.mul_(4)
    return made.to(dtype)


def save(made: Any, folder: Path, tokenizer: Any = None, **settings: Any) -> Path:
    """Saves a model, and with it a tokenizer of the `tokenizers` package."""
    made.save_pretrained(folder, **settings)
    (tokenizer or byte_level()).save(str(folder / "tokenizer.json"))
    return folder


def configure(folder: Path, **settings: Any) -> None:
    """Writes a tokenizer_config.json."""
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
SPECIAL = ["<|begin|>", "<|end|>", "<|endoftext|>", "<note>"]


def byte_level(
    pattern: str = LLAMA3, *, whole: bool = False, size: int = 500, normalizer: Any = None
) -> Any:
    """Byte-level BPE; an empty pattern is GPT-2's own; `whole`: ignore_merges."""
    pre, trainers = tokenizers.pre_tokenizers, tokenizers.trainers
    made = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=whole))
    split = [pre.Split(tokenizers.Regex(pattern), "isolated")] if pattern else []
    bytes_ = pre.ByteLevel(add_prefix_space=False, use_regex=not pattern)
    made.pre_tokenizer = pre.Sequence([*split, bytes_])
    made.decoder = tokenizers.decoders.ByteLevel()
    made.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    if normalizer is not None:
        made.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL[:3],
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
    made.add_tokens([SPECIAL[3]])
    return made


def begins_with_bos(tokenizer: Any, bos: str, number: int) -> Any:
    """The tokenizer with a template that puts `bos` before a text."""
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, number)]
    )
    return tokenizer


def word_piece(size: int = 512, lowercase: bool = True) -> Any:
    """BERT's."""
    made = tokenizers.BertWordPieceTokenizer(lowercase=lowercase)
    made.train_from_iterator(TEXT.splitlines(), vocab_size=size, show_progress=False)
    made = tokenizers.Tokenizer.from_str(made.to_str())
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return made


def sentencepiece_model(
    folder: Path, kind: str = "bpe", size: int = 500, *, prefix: bool = True
) -> Path:
    """A tokenizer.model as Llama 2 has it; the unigram one normalises as T5's."""
    sentencepiece = pytest.importorskip("sentencepiece")
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    llama = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        model_type=kind,
        vocab_size=size,
        character_coverage=1.0,
        byte_fallback=kind == "bpe",
        split_digits=True,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=["<note>"],
        add_dummy_prefix=prefix,
        hard_vocab_limit=False,
        minloglevel=2,
        **(llama if kind == "bpe" else {}),
    )
    text.unlink()
    (folder / "tokenizer.vocab").unlink()
    return folder / "tokenizer.model"
