"""Converted tokenizers beside the libraries they come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from localllm.convert.checkpoint import Checkpoint
from localllm.convert.fields import Fields
from localllm.convert.tokenizers import tokenizer_metadata
from localllm.gguf import GGUFFile, write_gguf
from localllm.tokenize import Tokenizer, load_tokenizer

COUNT = 2000
ROWS = 512


def converted(folder: Path, rows: int = ROWS, **config: Any) -> Tokenizer:
    """The tokenizer of a folder, by way of a file."""
    fields = Fields({"architectures": [], **config}, "config.json")
    metadata, _ = tokenizer_metadata(Checkpoint(folder, "model", fields, {}), rows)
    write_gguf(folder / "t.gguf", {"general.architecture": "llama", **metadata}, {})
    return load_tokenizer(GGUFFile.open(folder / "t.gguf"))


def compare(ours: Tokenizer, theirs: Callable[[str], list[int]], cases: list[str]) -> list[str]:
    """The texts whose ids differ."""
    assert len(cases) == COUNT
    return [text for text in cases if ours.encode(text, parse_special=True) != theirs(text)]
