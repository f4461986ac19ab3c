"""Which tokens begin, end, separate and fill a text, and which of them an encoder puts there."""

from __future__ import annotations

from typing import Any

from localllm.convert.checkpoint import Checkpoint
from localllm.convert.fields import Fields

# role in transformers -> in the model file's keys, as misspelled there
_ROLES = {
    "bos": "bos",
    "eos": "eos",
    "eot": "eot",
    "unk": "unknown",
    "sep": "seperator",
    "pad": "padding",
    "mask": "mask",
}


def special_tokens(
    checkpoint: Checkpoint, tokenizer: Fields, config: Fields, ids: dict[str, int]
) -> dict[str, Any]:
    """The keys of special tokens, without "tokenizer.ggml." before them.

    Args:
        checkpoint: config.json gives the ids that the tokenizer's own files do not.
        tokenizer: tokenizer.json.
        config: tokenizer_config.json.
        ids: of the tokens, by text.
    """
    texts = {role: text_of(config, f"{role}_token") for role in (*_ROLES, "cls")}
    texts["bos"] = texts["bos"] or texts["cls"]
    texts["eos"] = texts["eos"] or texts["sep"]
    adds = _added_around(tokenizer, config, texts)
    found: dict[str, Any] = {}
    for role, name in _ROLES.items():
        number = ids.get(texts[role] or "")
        if number is None:
            number = checkpoint.config.values.get(f"{role}_token_id")
        if type(number) is int and 0 <= number < len(ids):
            found[f"{name}_token_id"] = number
    return found | {f"add_{role}_token": add for role, add in adds.items()}


def _added_around(
    tokenizer: Fields, config: Fields, texts: dict[str, str | None]
) -> dict[str, bool]:
    """Whether bos, eos and sep are put into a text; `texts` learns what the template names.

    The steps of tokenizer.json say it, else the flags of tokenizer_config.json; where neither does,
    nothing is put there, but a vocabulary without a tokenizer.json has the usual way of its kind.
    """
    processor = tokenizer.object("post_processor")
    steps = processor.objects("processors") or [processor]
    adds = {"bos": False, "eos": False} if tokenizer.values else {}
    if all(step.text("type", "") != "ByteLevel" for step in steps):
        for role in ("bos", "eos"):
            if config.has(f"add_{role}_token"):
                adds[role] = config.flag(f"add_{role}_token", False)
    for step in steps:
        if step.text("type", "") != "TemplateProcessing":
            continue
        single = _template(step, "single")
        first, last = (single[0], single[-1]) if len(single) > 1 else ("", "")
        if first:
            texts["bos"] = texts["bos"] or first
            adds["bos"] = first in (texts["bos"], texts["cls"])
        if last:
            if last != texts["eos"]:
                texts["eot"], texts["eos"] = texts["eos"], last
            adds["eos"] = True
        if between := _between(_template(step, "pair")):
            ends = (texts["sep"], texts["eos"])
            adds["sep"] = any(token in ends for token in between[bool(last) :])
    return adds


def _template(step: Fields, key: str) -> list[str]:
    """The special tokens of a template, in order; a text among them is empty."""
    return [entry.object("SpecialToken").text("id", "") for entry in step.objects(key)]


def _between(pair: list[str]) -> list[str]:
    """The special tokens between two texts."""
    texts = [place for place, token in enumerate(pair) if not token]
    return pair[texts[0] + 1 : texts[-1]] if texts else []


def text_of(config: Fields, key: str) -> str | None:
    """The text of a token that stands there as itself or with its settings."""
    value = config.values.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
