"""The catalog of known models, read from `models.toml` and checked field by field."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from localllm.errors import LocalLLMError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]


@dataclass(frozen=True)
class Shape:
    """The sizes of a model, enough to count its weights or to make random ones.

    `ffn` is the inner width of a dense layer, or of one expert where `experts` > 0.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    experts: int = 0
    experts_used: int = 0

    @property
    def parameters(self) -> int:
        """Number of weights in the matrices (norms and biases left out: under 0.1 %)."""
        attention = 2 * self.width * self.head_dim * (self.heads + self.kv_heads)
        dense = 3 * self.width * self.ffn
        feed_forward = self.experts * (dense + self.width) if self.experts else dense
        embeddings = self.vocab * self.width * (1 if self.tied else 2)
        return self.layers * (attention + feed_forward) + embeddings


@dataclass(frozen=True)
class CatalogModel:
    """One entry: `bytes` is the size of the file of the default quantisation."""

    alias: str
    repository: str
    quantisation: str
    architecture: str
    parameters: int
    context: int
    licence: str
    bytes: int
    shape: Shape


Catalog = Mapping[str, CatalogModel]


@lru_cache(maxsize=1)
def load_catalog() -> Catalog:
    """The catalog of this installation, by alias, in the file's order."""
    return read_catalog(_catalog_file())


def read_catalog(path: Path) -> Catalog:
    """Read and check a catalog file.

    Raises:
        LocalLLMError: names the file, the line and the field at fault.
    """
    text = path.read_text(encoding="utf-8")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LocalLLMError(f"{path}: not valid TOML: {error}") from None
    lines = _entry_lines(text)
    entries = document.get("model", [])
    if not isinstance(entries, list) or document.keys() - {"model"}:
        raise LocalLLMError(f"{path}: line 1: the catalog is a list of [[model]] tables")
    catalog: dict[str, CatalogModel] = {}
    for entry, (start, keys) in zip(entries, lines, strict=True):
        try:
            model = _entry(entry)
            if model.alias in catalog:
                raise _FieldError("alias", f"{model.alias!r} stands here twice")
        except _FieldError as error:
            line = keys.get(error.field, start)
            raise LocalLLMError(f"{path}: line {line}: {error.field}: {error.reason}") from None
        catalog[model.alias] = model
    return catalog


class _FieldError(Exception):
    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field, self.reason = field, reason


def _entry(entry: Mapping[str, Any]) -> CatalogModel:
    shape_fields = {f.name: f for f in fields(Shape)}
    own_fields = [f.name for f in fields(CatalogModel) if f.name != "shape"]
    for name in entry:
        if name not in shape_fields and name not in own_fields:
            raise _FieldError(name, "unknown field")
    own = {name: _typed(entry, name, str if name in _TEXT else int) for name in own_fields}
    shape = {
        name: _typed(entry, name, bool if name == "tied" else int)
        for name, field in shape_fields.items()
        if name in entry or name not in ("experts", "experts_used")
    }
    model = CatalogModel(**own, shape=Shape(**shape))
    _check(model)
    return model


_TEXT = frozenset({"alias", "repository", "quantisation", "architecture", "licence"})


def _typed(entry: Mapping[str, Any], name: str, kind: type) -> Any:
    if name not in entry:
        raise _FieldError(name, "is missing")
    value = entry[name]
    if type(value) is not kind:
        wanted = {str: "text", int: "a whole number", bool: "true or false"}[kind]
        raise _FieldError(name, f"must be {wanted}, is {value!r}")
    if kind is not bool and not value:
        raise _FieldError(name, f"is {value!r}")
    if isinstance(value, int) and value < 0:
        raise _FieldError(name, f"is below 0: {value}")
    return value


def _check(model: CatalogModel) -> None:
    from localllm.models.registry import supported_architectures

    shape = model.shape
    if model.architecture not in supported_architectures():
        known = ", ".join(supported_architectures())
        raise _FieldError("architecture", f"{model.architecture!r} is not one of {known}")
    if model.repository.count("/") != 1:
        raise _FieldError("repository", f"{model.repository!r} is not of the form user/repo")
    if model.alias != model.alias.lower() or any(c in model.alias for c in ":/ "):
        raise _FieldError("alias", f"{model.alias!r} must be lower case, without : / or space")
    if shape.heads % shape.kv_heads:
        raise _FieldError("kv_heads", f"{shape.kv_heads} does not divide heads {shape.heads}")
    if shape.experts_used > shape.experts:
        raise _FieldError("experts_used", f"{shape.experts_used} of {shape.experts} experts")
    if abs(shape.parameters / model.parameters - 1) > 0.01:
        computed = f"the shape makes {shape.parameters:,}"
        raise _FieldError("parameters", f"{model.parameters:,}, but {computed}")


def _entry_lines(text: str) -> list[tuple[int, dict[str, int]]]:
    """Line of every `[[model]]` header, and of the keys below it."""
    entries: list[tuple[int, dict[str, int]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip().startswith("[[model]]"):
            entries.append((number, {}))
        elif entries and "=" in line and not line.lstrip().startswith("#"):
            entries[-1][1].setdefault(line.split("=")[0].strip(), number)
    return entries


def _catalog_file() -> Path:
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "models.toml", package.parent / "models.toml"):
        if candidate.is_file():
            return candidate
    raise LocalLLMError(f"{package / 'models.toml'} is missing: the installation is damaged")
