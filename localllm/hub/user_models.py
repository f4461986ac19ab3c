"""The user's own `models.toml`: aliases, presets, and further models of the catalog's form."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from localllm.errors import LocalLLMError, UsageError
from localllm.files import locked, replacing
from localllm.hub.catalog import (
    Catalog,
    CatalogModel,
    FieldError,
    Shape,
    catalog_model,
    load_catalog,
    read_entries,
    require_alias,
    table_lines,
)
from localllm.hub.folders import expanded, user_models_file
from localllm.hub.store import BUNDLED

# What a preset may set -> the type of its value. Their names are those of the flags.
PRESET_FIELDS: dict[str, type] = {
    "system": str,
    "think": bool,
    "ctx": int,
    "template": str,
    "adapter": str,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "max_tokens": int,
    "stop": list,
    "seed": int,
    "frequency_penalty": float,
    "presence_penalty": float,
    "repeat_penalty": float,
    "logit_bias": list,
    "strategy": str,
    "sampler_order": str,
}
_PATHS = ("template", "adapter")
_NOT_SAMPLING = ("system", "think", "ctx", "logit_bias", *_PATHS)
_CATALOG_FIELDS = frozenset(f.name for kind in (CatalogModel, Shape) for f in fields(kind)) - {
    "shape",
    "alias",
}

Preset = Mapping[str, Any]


@dataclass(frozen=True)
class UserModel:
    """One entry of the user's file.

    Attributes:
        alias: what the user calls it.
        target: the MODEL that it stands for.
        preset: settings below flags and environment, by the names of `PRESET_FIELDS`.
        catalog: the model as the catalog would have it, where the entry describes one.
    """

    alias: str
    target: str
    preset: Preset = field(default_factory=dict)
    catalog: CatalogModel | None = None


def user_models() -> Mapping[str, UserModel]:
    """The user's models by alias; empty where there is no such file.

    Raises:
        LocalLLMError: names the file, the line and the field at fault.
    """
    path = user_models_file()
    try:
        changed = path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise LocalLLMError(f"{path}: {error.strerror}") from None
    return _read(path, changed)


def known_models() -> Catalog:
    """The catalog, and the models that the user's file describes in its form."""
    own = {name: one.catalog for name, one in user_models().items() if one.catalog is not None}
    return {**load_catalog(), **own}


def read_user_models(path: Path) -> dict[str, UserModel]:
    """Read and check such a file; raises as `user_models`."""
    if not path.is_file():
        raise LocalLLMError(f"{path}: not a regular file")  # a FIFO could be waited for forever
    return {model.alias: model for model in read_entries(path, lambda e: _entry(e, path.parent))}


def add_alias(name: str, target: str) -> None:
    """Write an alias to the end of the user's file, which is made where there is none.

    Raises:
        UsageError: the name cannot be one, or is taken.
        LocalLLMError: the file is wrong, or cannot be written.
    """
    entry = {"alias": name, "target": target}
    try:
        _entry(entry, Path())
    except FieldError as error:
        raise UsageError(f"{error.field}: {error.reason}") from None
    # JSON's escapes are TOML's, but for pairs of surrogates.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items()]
    with _changing() as path:
        if (taken := user_models().get(name)) is not None:
            hint = f"`localllm alias --remove {name}` takes it away"
            raise UsageError(f"{name} stands for {taken.target} already", hint)
        text = _text()
        _write(path, text + ("\n" if text else "") + "\n".join(["[[model]]", *lines, ""]))


def remove_alias(name: str) -> None:
    """Take an entry out of the user's file; all else in it stays as it stands.

    Raises:
        UsageError: there is none of that name.
        LocalLLMError: the file is wrong, or cannot be written.
    """
    with _changing() as path:
        names = list(user_models())
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]}?" if close else "`localllm alias` lists them"
            raise UsageError(f"no alias {name!r} in {path}", hint)
        text = _text()
        table = table_lines(text)[names.index(name)]
        lines = [f"{line}\n" for line in text.removesuffix("\n").split("\n")]
        del lines[table.first - 1 : table.last]
        if table.first > 1 and not "".join(lines[table.first - 2 : table.first]).strip():
            del lines[table.first - 2 : table.first - 1]  # of two empty lines that meet, one
        _write(path, "".join(lines))


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> dict[str, UserModel]:
    return read_user_models(path)


def _entry(entry: Mapping[str, Any], folder: Path) -> UserModel:
    known = {"alias", "target", *PRESET_FIELDS}
    described = "repository" in entry and "target" not in entry
    if described:
        known = known - {"target"} | _CATALOG_FIELDS
    for name in entry:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f", did you mean {close[0]}?" if close else ""
            raise FieldError(name, f"unknown field{hint}")
    preset = {name: _value(name, entry[name]) for name in PRESET_FIELDS if name in entry}
    _check(preset)
    for name in _PATHS:
        if name in preset:
            if "\0" in preset[name]:
                raise FieldError(name, f"{preset[name]!r} is no path")
            preset[name] = str(folder / expanded(preset[name]))
    if described:
        model = catalog_model({k: v for k, v in entry.items() if k not in preset})
        return UserModel(model.alias, f"{model.repository}:{model.quantisation}", preset, model)
    for name in ("alias", "target"):
        if not isinstance(entry.get(name), str) or not entry[name]:
            raise FieldError(name, "is missing" if name not in entry else "must be text")
    alias, target = entry["alias"], entry["target"]
    require_alias(alias)
    if alias == BUNDLED:
        raise FieldError("alias", f"{BUNDLED} is the bundled model")
    if not target.isprintable():
        raise FieldError("target", f"{target!r} is no MODEL")
    return UserModel(alias, target, preset)


def _value(name: str, value: Any) -> Any:
    """The value of a preset's field, checked."""
    kind = PRESET_FIELDS[name]
    if kind is list:
        items = value if isinstance(value, list) else [value]
        if all(isinstance(item, str) for item in items):
            return items
    elif kind is float and type(value) is int:
        return float(value)
    elif type(value) is kind:
        return value
    wanted = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    raise FieldError(name, f"must be {wanted.get(kind, 'a list of texts')}, is {value!r}")


def _check(preset: Preset) -> None:
    """Raises FieldError for a value that no generation could have."""
    from localllm.decoding.params import GenerationParams

    for name, value in preset.items():
        if name in _NOT_SAMPLING:
            continue
        given: dict[str, Any] = {name: tuple(value) if name == "stop" else value}
        try:
            GenerationParams(**given)
        except UsageError as error:
            raise FieldError(name, str(error).removeprefix("--")) from None
    if preset.get("ctx", 1) < 1:
        raise FieldError("ctx", f"must be >= 1, is {preset['ctx']}")


def _text() -> str:
    try:
        return user_models_file().read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    with replacing(path.resolve()) as beside:  # what a link points at is replaced
        beside.write_text(text, encoding="utf-8")
        read_user_models(beside)


@contextmanager
def _changing() -> Iterator[Path]:
    """The user's file, which no other process changes meanwhile."""
    path = user_models_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path):
            yield path
    except OSError as error:
        raise LocalLLMError(f"{path}: cannot be written: {error.strerror}") from None
