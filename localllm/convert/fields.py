"""Typed, bounded values of a JSON object that came with a model; errors name file and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from localllm.errors import ModelFileError
from localllm.gguf.mapping import MappedFile
from localllm.gguf.metadata import shown

_MANY = 1 << 24
_MOST_JSON = 1 << 28  # bytes; the largest tokenizer.json has about 2^25


class Fields:
    """A JSON object; null counts as missing.

    Args:
        values: its members.
        where: what an error calls it: a file, and a key where it lies deeper.
    """

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def fail(self, key: str, problem: str) -> ModelFileError:
        """An error about a key."""
        return ModelFileError(f"{self.where}: {key}: {problem}")

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self.values.get(key) is not None

    def integer(
        self, key: str, default: int | None = None, *, low: int = 1, high: int = _MANY
    ) -> int:
        """A whole number within bounds; required where there is no default."""
        value = self._value(key, default)
        if type(value) is not int or not low <= value <= high:
            raise self.fail(key, f"{_text(value)} is not a whole number from {low} to {high}")
        return value

    def number(
        self, key: str, default: float | None = None, *, low: float = 0.0, high: float = _MANY
    ) -> float:
        """A finite number within bounds."""
        value = self._value(key, default)
        if type(value) not in (int, float) or not low <= value <= high:  # nor is a NaN
            raise self.fail(key, f"{_text(value)} is not a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, f"{_text(value)} is not true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.fail(key, f"{_text(value)} is not a text")
        return value

    def array(self, key: str) -> list[Any]:
        """An array; empty where there is none."""
        value = self._value(key, [])
        if not isinstance(value, list):
            raise self.fail(key, "is not a list")
        return value

    def object(self, key: str) -> Fields:
        """An object; empty where there is none."""
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise self.fail(key, "is not an object")
        return Fields(value, f"{self.where}: {key}")

    def objects(self, key: str) -> list[Fields]:
        """An array of objects; empty where there is none."""
        found = self.array(key)
        if not all(isinstance(value, dict) for value in found):
            raise self.fail(key, "holds something that is no object")
        return [Fields(value, f"{self.where}: {key}[{n}]") for n, value in enumerate(found)]

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.fail(key, "missing")
        return value


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ModelFileError: it is missing, very large, or no JSON.
    """
    file = MappedFile(path)
    if file.data.size > _MOST_JSON:
        raise ModelFileError(f"{path}: {file.data.size} bytes are too many for a file of its kind")
    data = file.data.tobytes()
    try:
        value = json.loads(data)
        if b"\\ud" in data.lower():  # half of a character is no text that could be written
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: is not JSON: {shown(str(error))}") from None


def read_fields(path: Path) -> Fields:
    """The JSON object in a file.

    Raises:
        ModelFileError: as `read_json`, or it holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: must hold a JSON object")
    return Fields(value, str(path))


def _text(value: Any) -> str:
    return shown(json.dumps(value))
