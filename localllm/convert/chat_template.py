"""The chat templates of a checkpoint, from wherever the versions of transformers put them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from localllm.convert.checkpoint import Checkpoint
from localllm.convert.fields import Fields
from localllm.errors import ModelFileError
from localllm.gguf.mapping import MappedFile

_MOST_BYTES = 1 << 20
_MOST_TEMPLATES = 64
_DEFAULT = "default"


def chat_templates(checkpoint: Checkpoint, config: Fields) -> dict[str, Any]:
    """The metadata keys of a checkpoint's templates; none where it has none.

    Args:
        checkpoint: with `chat_template.jinja` and `additional_chat_templates/`, or
            `chat_template.json`.
        config: tokenizer_config.json, whose template, or list of named ones, counts first.
    """
    templates = _configured(config)
    if not templates:
        templates = _stored(checkpoint)
    named = {
        re.sub(r"[^A-Za-z0-9]", "_", name): text
        for name, text in templates.items()
        if name != _DEFAULT
    }
    found: dict[str, Any] = {f"tokenizer.chat_template.{name}": t for name, t in named.items()}
    if named:
        found["tokenizer.chat_templates"] = list(named)
    if _DEFAULT in templates:
        found["tokenizer.chat_template"] = templates[_DEFAULT]
    return found


def _configured(config: Fields) -> dict[str, str]:
    if not config.has("chat_template"):
        return {}
    if isinstance(config.values["chat_template"], str):
        return {_DEFAULT: config.text("chat_template")}
    listed = config.objects("chat_template")[:_MOST_TEMPLATES]
    return {fields.text("name"): fields.text("template") for fields in listed}


def _stored(checkpoint: Checkpoint) -> dict[str, str]:
    path = checkpoint.folder / "chat_template.jinja"
    if not path.is_file():
        return _configured(checkpoint.optional("chat_template.json"))
    more = sorted((checkpoint.folder / "additional_chat_templates").glob("*.jinja"))
    return {_DEFAULT: _read(path), **{p.stem: _read(p) for p in more[:_MOST_TEMPLATES]}}


def _read(path: Path) -> str:
    data = MappedFile(path).data
    if data.size > _MOST_BYTES:
        raise ModelFileError(f"{path}: {data.size} bytes are too many for a template")
    try:
        return data.tobytes().decode()
    except UnicodeDecodeError:
        raise ModelFileError(f"{path}: is not UTF-8") from None
