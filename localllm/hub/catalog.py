"""The catalog of known models, read from `models.toml` and checked field by field."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

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


class _Named(Protocol):
    @property
    def alias(self) -> str: ...


Entry = TypeVar("Entry", bound=_Named)


@lru_cache(maxsize=1)
def load_catalog() -> Catalog:
    """The catalog of this installation, by alias, in the file's order."""
    return read_catalog(_catalog_file())


def read_catalog(path: Path) -> Catalog:
    """Read and check a catalog file.

    Raises:
        LocalLLMError: names the file, the line and the field at fault.
    """
    return {model.alias: model for model in read_entries(path, catalog_model)}


def read_entries(path: Path, make: Callable[[Mapping[str, Any]], Entry]) -> list[Entry]:
    """What `make` makes of every `[[model]]` of a file, in the file's order.

    Args:
        path: of a TOML file that holds such tables and nothing else.
        make: checks one table; what it makes has the table's `alias`, which stands once in a file.

    Raises:
        LocalLLMError: names the file, the line and the field at fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise LocalLLMError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not TOML
        raise LocalLLMError(f"{path}: not valid TOML: {error}") from None
    tables = table_lines(text)
    entries = document.get("model", [])
    # Only tables have lines of their own that an error could name.
    if document.keys() - {"model"} or not isinstance(entries, list) or len(entries) != len(tables):
        raise LocalLLMError(f"{path}: line 1: the file must be a list of [[model]] tables")
    made: dict[str, Entry] = {}
    for entry, table in zip(entries, tables, strict=True):
        try:
            model = make(entry)
            if model.alias in made:
                raise FieldError("alias", f"{model.alias!r} stands here twice")
        except FieldError as error:
            line = table.keys.get(error.field, table.first)
            raise LocalLLMError(f"{path}: line {line}: {error.field}: {error.reason}") from None
        made[model.alias] = model
    return list(made.values())


class FieldError(Exception):
    """What is wrong with one field of an entry."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field, self.reason = field, reason


def catalog_model(entry: Mapping[str, Any]) -> CatalogModel:
    """The catalog's model of one table.

    Raises:
        FieldError: a field is missing, unknown, or wrong.
    """
    shape_fields = {f.name: f for f in fields(Shape)}
    own_fields = [f.name for f in fields(CatalogModel) if f.name != "shape"]
    for name in entry:
        if name not in shape_fields and name not in own_fields:
            raise FieldError(name, "unknown field")
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
        raise FieldError(name, "is missing")
    value = entry[name]
    if type(value) is not kind:
        wanted = {str: "text", int: "a whole number", bool: "true or false"}[kind]
        raise FieldError(name, f"must be {wanted}, is {value!r}")
    if kind is not bool and not value:
        raise FieldError(name, f"is {value!r}")
    if isinstance(value, int) and value < 0:
        raise FieldError(name, f"is below 0: {value}")
    return value


def _check(model: CatalogModel) -> None:
    from localllm.models.registry import supported_architectures

    shape = model.shape
    if model.architecture not in supported_architectures():
        known = ", ".join(supported_architectures())
        raise FieldError("architecture", f"{model.architecture!r} is not one of {known}")
    if model.repository.count("/") != 1:
        raise FieldError("repository", f"{model.repository!r} is not of the form user/repo")
    require_alias(model.alias)
    if shape.heads % shape.kv_heads:
        raise FieldError("kv_heads", f"{shape.kv_heads} does not divide heads {shape.heads}")
    if shape.experts_used > shape.experts:
        raise FieldError("experts_used", f"{shape.experts_used} of {shape.experts} experts")
    if abs(shape.parameters / model.parameters - 1) > 0.01:
        computed = f"the shape makes {shape.parameters:,}"
        raise FieldError("parameters", f"{model.parameters:,}, but {computed}")


def require_alias(alias: str) -> None:
    """Raises FieldError for what cannot be a model's short name."""
    if alias != alias.lower() or not alias.isprintable() or any(c in alias for c in ":/\\ "):
        raise FieldError("alias", f"{alias!r} must be lower case, without : / or space")


@dataclass
class Table:
    """Where a `[[model]]` table stands: its first line, its last, and the lines of its keys."""

    first: int
    last: int
    keys: dict[str, int]


def table_lines(text: str) -> list[Table]:
    """The lines of every `[[model]]` table; the first line is 1."""
    tables: list[Table] = []
    inside = ""  # the quotes that end a text of several lines
    for number, line in enumerate(text.split("\n"), 1):  # as TOML counts them
        plain = line.strip()
        if inside:
            if inside in line:
                inside = ""
        elif not plain or plain.startswith("#"):
            continue
        elif plain.startswith("[[model]]"):
            tables.append(Table(number, number, {}))
            continue
        elif tables and "=" in line:
            key, _, value = (part.strip() for part in line.partition("="))
            tables[-1].keys.setdefault(key, number)
            quotes = value[:3]
            if quotes in ('"""', "'''") and quotes not in value[3:]:
                inside = quotes
        if tables:
            tables[-1].last = number
    return tables


def _catalog_file() -> Path:
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "models.toml", package.parent / "models.toml"):
        if candidate.is_file():
            return candidate
    raise LocalLLMError(f"{package / 'models.toml'} is missing: the installation is damaged")
