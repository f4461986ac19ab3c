"""How models write the calls of tools: one format for each family."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from localllm.chat.call_parser import (
    Found,
    Functions,
    MalformedError,
    Reading,
    Source,
    parse_json,
)
from localllm.decoding.grammar import Grammar
from localllm.errors import UsageError

_MOST_CALLS = 16  # that a grammar lets a model make in one answer: some would never stop
_JSON_END = "\n</parameter>\n"


def _json_arguments(grammar: Grammar, schema: Mapping[str, Any]) -> str:
    return grammar.json(schema)


@dataclass(frozen=True)
class CallFormat:
    """One way to write calls: as it is read, and as it is enforced and shown to the model.

    A call is `before`, the function's name, `middle`, the arguments, `after`.

    Attributes:
        name: the family's.
        starts: texts that a call begins with.
        first: likewise, but only where nothing was said before.
        tags: parts of the format that are control tokens in some vocabularies. A detokenizer leaves
            control tokens out, so these have to be let through.
        opening, separator, closing: before all calls, between them and after them.
        parallel: whether an answer may hold several calls.
    """

    name: str
    read: Callable[[Source, Functions], Reading[Found]]
    starts: tuple[str, ...]
    tags: tuple[str, ...]
    before: str
    middle: str
    after: str
    first: str = ""
    opening: str = ""
    separator: str = ""
    closing: str = ""
    parallel: bool = True
    arguments: Callable[[Grammar, Mapping[str, Any]], str] = _json_arguments

    def spell(self, calls: list[tuple[str, str]]) -> str:
        """The text of calls, given as names and arguments."""
        texts = [self.before + name + self.middle + given + self.after for name, given in calls]
        return self.opening + self.separator.join(texts) + self.closing

    def expression(self, grammar: Grammar, functions: Functions, parallel: bool) -> str:
        """The expression for one call of these functions, or for several if `parallel`."""
        calls = [
            f"{self._spelled(grammar, self.before + name + self.middle)} "
            f"{self.arguments(grammar, schema)} {self._spelled(grammar, self.after)}"
            for name, schema in functions.items()
        ]
        call = grammar.rule(" | ".join(calls))
        more = ""
        if parallel and self.parallel:
            more = f"({self._spelled(grammar, self.separator)} {call}){{0,{_MOST_CALLS - 1}}}"
        opening, closing = (self._spelled(grammar, text) for text in (self.opening, self.closing))
        return f"{opening} {call} {more} {closing}"

    def _spelled(self, grammar: Grammar, text: str) -> str:
        pieces = re.split("(" + "|".join(map(re.escape, self.tags)) + ")", text)
        return " ".join(
            grammar.tag(piece) if piece in self.tags else grammar.text(piece)
            for piece in pieces
            if piece
        )


def _read_tagged(source: Source, functions: Functions) -> Reading[Found]:
    """`<tool_call>` around JSON or around `<function=…>`, which may also stand alone."""
    yield from source.skip("<tool_call>")
    yield from source.space()
    if (yield from source.skip("<function=")):
        found = [(yield from _read_elements(source, functions))]
    else:
        found = _calls_in((yield from source.value()))
    yield from source.space()
    yield from source.skip("</tool_call>")
    return found


def _read_elements(source: Source, functions: Functions) -> Reading[tuple[str, dict[str, Any]]]:
    name, _ = yield from source.until(">")
    name = name.strip()
    schemas = functions.get(name, {}).get("properties") or {}
    arguments = {}
    while True:
        yield from source.space()
        if (yield from source.skip("<parameter=")):
            key, _ = yield from source.until(">")
            text, _ = yield from source.until("</parameter>")
            text = text.removeprefix("\n").removesuffix("\n")
            arguments[key.strip()] = _typed(text, schemas.get(key.strip(), {}))
        elif (yield from source.skip("</function>")):
            return name, arguments
        else:
            raise MalformedError("</function> is missing")


def _typed(text: str, schema: Any) -> Any:
    if _is_text(schema):
        return text
    try:
        return parse_json(text)
    except MalformedError:
        return text


def _is_text(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "string"


def _element_arguments(grammar: Grammar, schema: Mapping[str, Any]) -> str:
    required = schema.get("required") or ()
    definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    parts = []
    for name, inner in (schema.get("properties") or {}).items():
        if not re.fullmatch(r"[^<>\n]+", name):
            raise UsageError(f"the parameter {name[:40]!r} has a name that the model cannot write")
        part = grammar.text(f"<parameter={name}>\n")
        if not _is_text(inner):
            inner = inner if isinstance(inner, Mapping) else {}
            part += f" {grammar.json({**definitions, **inner})} {grammar.text(_JSON_END)}"
        elif "enum" in inner:
            part += f" ({' | '.join(grammar.text(str(v) + _JSON_END) for v in inner['enum'])})"
        else:
            part += f" {grammar.until(_JSON_END)}"
        parts.append(part if name in required else f"({part})?")
    return " ".join(parts)


def _read_plain(source: Source, functions: Functions) -> Reading[Found]:
    """JSON that is the whole answer; calls are separated by semicolons or line breaks."""
    yield from source.skip("<|python_tag|>")
    yield from source.space()
    found = _calls_in((yield from source.value()))
    yield from source.space()
    yield from source.skip(";")
    return found


def _read_mistral(source: Source, functions: Functions) -> Reading[Found]:
    """`[TOOL_CALLS]` before an array of calls, or before each name."""
    yield from source.skip("[TOOL_CALLS]")
    yield from source.space()
    if (yield from source.skip("[")):
        source.at -= 1
        return _calls_in((yield from source.value()))
    name, end = yield from source.until("[ARGS]", "[CALL_ID]", "{")
    if end == "[CALL_ID]":
        yield from source.until("[ARGS]")
    if end == "{":
        source.at -= 1
    yield from source.space()
    return [(name.strip(), (yield from source.value()))]


_CALLS, _END_CALLS = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _END_CALL, _SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"


def _read_deepseek(source: Source, functions: Functions) -> Reading[Found]:
    """Tags of its own; the name stands before the separator, or behind it before a code block."""
    yield from source.skip(_CALLS)
    yield from source.space()
    yield from source.skip(_CALL)
    name, _ = yield from source.until(_SEPARATOR)
    yield from source.space()
    if (yield from source.skip("{")):
        source.at -= 1
    else:
        name, _ = yield from source.until("\n")
        yield from source.skip("```json")
        yield from source.space()
    arguments = yield from source.value()
    for closing in ("```", _END_CALL, _END_CALLS):
        yield from source.space()
        yield from source.skip(closing)
    return [(name.strip(), arguments)]


def _calls_in(value: Any) -> Found:
    """The calls in a JSON object, or in an array of them."""
    found = []
    for call in value if isinstance(value, list) else [value]:
        if isinstance(call, dict) and isinstance(call.get("function"), dict):
            call = call["function"]
        if not isinstance(call, dict):
            raise MalformedError("there is no object in it")
        found.append((call.get("name"), call.get("arguments", call.get("parameters", {}))))
    if not found:
        raise MalformedError("there is no call in it")
    return found


HERMES = CallFormat(
    "hermes", _read_tagged, ("<tool_call>",), ("<tool_call>", "</tool_call>"),
    '<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", separator="\n",
)  # fmt: skip
QWEN_CODER = CallFormat(
    "qwen-coder", _read_tagged, ("<tool_call>", "<function="), ("<tool_call>", "</tool_call>"),
    "<tool_call>\n<function=", ">\n", "</function>\n</tool_call>", separator="\n",
    arguments=_element_arguments,
)  # fmt: skip
LLAMA = CallFormat(
    "llama", _read_plain, ("<|python_tag|>",), ("<|python_tag|>",),
    '{"name": "', '", "parameters": ', "}", first="{", parallel=False,
)  # fmt: skip
MISTRAL = CallFormat(
    "mistral", _read_mistral, ("[TOOL_CALLS]",), ("[TOOL_CALLS]",),
    '{"name": "', '", "arguments": ', "}", opening="[TOOL_CALLS][", separator=", ", closing="]",
)  # fmt: skip
MISTRAL_ARGS = CallFormat(
    "mistral-args", _read_mistral, ("[TOOL_CALLS]",), ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
    "[TOOL_CALLS]", "[ARGS]", "",
)  # fmt: skip
_DEEPSEEK_TAGS = (_CALLS, _END_CALLS, _CALL, _END_CALL, _SEPARATOR)
DEEPSEEK = CallFormat(
    "deepseek", _read_deepseek, (_CALLS, _CALL), _DEEPSEEK_TAGS,
    f"{_CALL}function{_SEPARATOR}", "\n```json\n", f"\n```{_END_CALL}",
    opening=_CALLS, separator="\n", closing=_END_CALLS,
)  # fmt: skip
DEEPSEEK_PLAIN = CallFormat(
    "deepseek-plain", _read_deepseek, (_CALLS, _CALL), _DEEPSEEK_TAGS,
    _CALL, _SEPARATOR, _END_CALL, opening=_CALLS, closing=_END_CALLS,
)  # fmt: skip


def format_of(template: str) -> CallFormat:
    """The format that a chat template shows its model; that of Hermes where it shows none."""
    for format, marks in (
        (QWEN_CODER, ("<function=", "<parameter=")),
        (HERMES, ("<tool_call>",)),
        (MISTRAL_ARGS, ("[TOOL_CALLS]", "[ARGS]")),
        (MISTRAL, ("[TOOL_CALLS]",)),
        (DEEPSEEK, (_CALLS, "```json")),
        (DEEPSEEK_PLAIN, (_CALLS,)),
        (LLAMA, ('"parameters": ', "ipython")),
    ):
        if all(mark in template for mark in marks):
            return format
    return HERMES
