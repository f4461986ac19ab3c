"""`vocab.txt` of BERT checkpoints without a tokenizer.json: a token a line, settings elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from localllm.convert.fields import Fields
from localllm.convert.special_tokens import text_of
from localllm.convert.vocabulary import MOST_TOKENS
from localllm.errors import ModelFileError
from localllm.gguf.mapping import MappedFile
from localllm.gguf.metadata import shown

_MOST_BYTES = 1 << 26
_CLASSES = ("BertTokenizer", "BertTokenizerFast")
_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def with_usual_tokens(config: Fields) -> Fields:
    """tokenizer_config.json with BERT's special tokens where it names none."""
    named = {key: value for key, value in config.values.items() if value is not None}
    return Fields({**_SPECIAL, **named}, config.where)


def read_vocab_txt(path: Path, config: Fields) -> Fields:
    """What the tokenizer.json would be that transformers makes of the file.

    Args:
        path: the file.
        config: tokenizer_config.json, with special tokens.

    Raises:
        ModelFileError: it is damaged, lacks a special token, or is another kind of tokenizer's.
    """
    name = config.text("tokenizer_class", _CLASSES[0])
    if name not in _CLASSES:
        raise config.fail("tokenizer_class", f"{shown(name)} is not supported with a {path.name}")
    vocab = _read(path)
    special = {key: text_of(config, key) or "" for key in _SPECIAL}
    for token in special.values():
        if token not in vocab:
            raise ModelFileError(f"{path}: the special token {shown(token)} is missing")
    return Fields(
        {
            "added_tokens": [
                {"id": vocab[token], "content": token, "special": True}
                for token in special.values()
            ],
            "normalizer": {"type": "BertNormalizer"},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": _template(special["cls_token"], special["sep_token"]),
            "model": {"type": "WordPiece", "vocab": vocab, "unk_token": special["unk_token"]},
        },
        str(path),
    )


def _read(path: Path) -> dict[str, int]:
    """Ids by token; of equal lines the last counts."""
    data = MappedFile(path).data
    if data.size > _MOST_BYTES:
        raise ModelFileError(f"{path}: {data.size} bytes are too many for a vocabulary")
    try:
        lines = data.tobytes().decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise ModelFileError(f"{path}: is not UTF-8") from None
    if len(lines) > MOST_TOKENS:
        raise ModelFileError(f"{path}: {len(lines)} tokens are too many")
    return {line.removesuffix("\r"): number for number, line in enumerate(lines)}


def _template(first: str, last: str) -> dict[str, Any]:
    """[CLS] a [SEP], and [CLS] a [SEP] b [SEP]."""
    cls, sep = ({"SpecialToken": {"id": token}} for token in (first, last))
    texts = [{"Sequence": {"id": name}} for name in "AB"]
    return {
        "type": "TemplateProcessing",
        "single": [cls, texts[0], sep],
        "pair": [cls, texts[0], sep, texts[1], sep],
    }
