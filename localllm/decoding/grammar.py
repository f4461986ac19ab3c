"""Grammars in the making: text, tags and JSON put together, in llguidance's dialect of Lark.

An expression is a piece of such a grammar: `" ".join` makes a sequence of expressions, `" | ".join`
in parentheses a choice, and `?`, `*`, `+` after one repeat it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from localllm.errors import UsageError

_LARGEST_SCHEMA = 64 * 1024  # characters
_DEEPEST_SCHEMA = 64
# Between the parts of JSON: one space, or one line break and its indentation. Without a bound
# models are found to write line breaks until there is no room left.
_JSON_SPACE = "\n[ \t]{0,32}|[ ]"


class Grammar:
    """Makes expressions and keeps the rules they refer to.

    Args:
        control_id: the control token that is written like a text, if there is one, for `tag`.
    """

    def __init__(self, control_id: Callable[[str], int | None]) -> None:
        self._control_id = control_id
        # Without forcing, a text that must come is not tokenized: its tokens are the model's choice
        self._rules = ['%llguidance {"no_forcing": true}']

    def rule(self, body: str, options: str = "") -> str:
        """Gives an expression a name, which is an expression."""
        name = f"rule_{len(self._rules)}"
        self._rules.append(f"{name}{options}: {body}")
        return name

    def text(self, text: str) -> str:
        """This very text, never a control token."""
        return json.dumps(text, ensure_ascii=False)

    def tag(self, text: str) -> str:
        """This control token, or the text where the vocabulary has no such control token."""
        token = self._control_id(text)
        return self.text(text) if token is None else f"<[{token}]>"

    def until(self, tag: str) -> str:
        """Any text up to the first `tag`, and the tag; see there."""
        if self._control_id(tag) is not None:
            return f"{self.rule('/(?s:.*)/')} {self.tag(tag)}"
        return self.rule("/(?s:.*)/", f"[suffix={self.text(tag)}]")

    def space(self) -> str:
        """A little white space, or none."""
        return self.rule(r"/[ \t\r\n]{0,4}/")

    def json(self, schema: Mapping[str, Any]) -> str:
        """JSON text that satisfies a JSON schema.

        The order of an object's properties is that of the schema.

        Raises:
            UsageError: the schema is too large, nests too deeply, is no JSON, or asks for a whole
                number that is not exact in JSON.
        """
        _check_values(schema)
        options = {"whitespace_pattern": _JSON_SPACE}
        try:
            source = json.dumps({**schema, "x-guidance": options}, allow_nan=False)
        except ValueError as error:
            raise UsageError(f"the JSON schema is no JSON: {error}") from error
        if len(source) > _LARGEST_SCHEMA:
            raise UsageError(
                f"the JSON schema has {len(source):,} characters, "
                f"{_LARGEST_SCHEMA:,} are the most that are enforced"
            )
        return self.rule(f"%json {source}")

    def source(self, start: str) -> str:
        """The whole grammar of texts that `start` describes."""
        return "\n".join([*self._rules, f"start: {start}"])


def _check_values(schema: Mapping[str, Any]) -> None:
    level: list[Any] = [schema]
    for _ in range(_DEEPEST_SCHEMA):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                _check_fixed(value)
                inner += value.values()
            elif isinstance(value, (list, tuple)):
                inner += value
        if not inner:
            return
        level = inner
    raise UsageError(f"the JSON schema nests deeper than {_DEEPEST_SCHEMA} levels")


def _check_fixed(schema: Mapping[str, Any]) -> None:
    """Numbers are read as float64 (RFC 8259, section 6): a neighbour of one might come instead."""
    values = schema.get("enum")
    for value in (*(values if isinstance(values, list) else ()), schema.get("const")):
        if type(value) is int and abs(value) > 2**53:
            raise UsageError(
                f"the JSON schema cannot be enforced: {value} is beyond 2**53, where not every "
                "whole number of JSON is exact; a string is"
            )
