"""Finds the calls of tools in a stream of text."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from localllm.decoding.stopping import overlap

_MARK = re.compile(r'["\\{}\[\]]')
_SPACE = re.compile(r"\s*")

T = TypeVar("T")
Reading = Generator[None, None, T]  # yields where it needs more text
Found = list[tuple[Any, Any]]  # names and arguments, as the model gave them
Functions = Mapping[str, Mapping[str, Any]]  # JSON schemas of the parameters, by name


@dataclass
class ToolCall:
    """A call that the model asks for; `arguments` is the text of a JSON object."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")


class MalformedError(Exception):
    """A text that began like a call is none."""


class Source:
    """A text that grows, and the place up to which it was read.

    Its methods are generators that yield wherever the text does not reach far enough yet.
    """

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.done = False

    def more(self) -> Reading[None]:
        """Waits for more text; there has to be some."""
        if self.done:
            self.at = len(self.text)
            raise MalformedError("it is not complete")
        yield

    def space(self) -> Reading[None]:
        """Skips white space."""
        while True:
            self.at = _end(_SPACE.match(self.text, self.at))
            if self.at < len(self.text) or self.done:
                return
            yield

    def skip(self, literal: str) -> Reading[bool]:
        """Skips `literal` if it comes next; says whether it did."""
        while True:
            part = self.text[self.at : self.at + len(literal)]
            if part == literal:
                self.at += len(literal)
                return True
            if self.done or not literal.startswith(part):
                return False
            yield

    def until(self, *ends: str) -> Reading[tuple[str, str]]:
        """Skips to behind the first of `ends`; returns what came before it, and which it is."""
        start = place = self.at
        while True:
            found = [(at, end) for end in ends if (at := self.text.find(end, place)) >= 0]
            if found:
                at, end = min(found)
                self.at = at + len(end)
                return self.text[start:at], end
            place = max(start, len(self.text) - max(map(len, ends)) + 1)
            yield from self.more()

    def value(self) -> Reading[Any]:
        """Skips a JSON object or array; returns it."""
        while self.at == len(self.text):
            yield from self.more()
        if self.text[self.at] not in "{[":
            raise MalformedError("there is no JSON in it")
        start = place = self.at
        depth, quoted = 0, False
        while True:
            mark = _MARK.search(self.text, place)
            if mark is None:
                place = max(place, len(self.text))  # it may stand behind a backslash at the end
                yield from self.more()
                continue
            place = mark.end()
            if mark[0] == '"':
                quoted = not quoted
            elif quoted:
                place += mark[0] == "\\"
            elif mark[0] != "\\":
                depth += 1 if mark[0] in "{[" else -1
                if depth == 0:
                    break
        self.at = place
        return parse_json(self.text[start:place])


class Format(Protocol):
    """What the parser needs to know of a format (`call_formats.CallFormat`)."""

    @property
    def starts(self) -> tuple[str, ...]:
        """Texts that a call begins with."""

    @property
    def first(self) -> str:
        """Likewise, but only where nothing was said before; may be empty."""

    @property
    def read(self) -> Callable[[Source, Functions], Reading[Found]]:
        """Reads calls that stand at the source's place."""


class CallParser:
    """State machine over the content of one answer, fed in pieces that may be cut anywhere.

    What looks like a call and is none, or calls a function that was not offered, stays text and
    adds a line to `warnings`. White space around calls belongs to nothing, but where content goes
    on after them there stays what was before them.

    Args:
        format: how the model writes calls.
        functions: the functions that were offered: JSON schemas of the parameters, by name.
    """

    def __init__(self, format: Format, functions: Functions) -> None:
        self.warnings: list[str] = []
        self._format = format
        self._functions = functions
        self._source = Source()
        self._reading: Reading[Found] | None = None
        self._space = ""  # white space at the end of the content so far, which a call may follow
        self._silent = True  # nothing was said yet, or since the last call
        self._called = False  # the last that came was a call

    def add(self, text: str, done: bool = False) -> tuple[str, list[ToolCall]]:
        """Take the next piece; return the content and the calls that are certain now.

        Args:
            text: the piece, possibly empty.
            done: no more will come: give out what is held back.
        """
        self._source.text += text
        self._source.done = done
        content, calls = "", list[ToolCall]()
        while True:
            if self._reading is None:
                content += self._look()
                if self._reading is None:
                    break
            try:
                next(self._reading)
                break
            except StopIteration as end:
                found = self._checked(end.value)
                calls += found
                content += self._leave(not found)
            except MalformedError as error:
                self.warnings.append(f"a call of a tool is malformed and was left as text: {error}")
                content += self._leave(True)
        if done and not self._called:
            content, self._space = content + self._space, ""
        return content, calls

    def _look(self) -> str:
        """Content before the next call, at which reading begins if there is one."""
        source, format = self._source, self._format
        text = source.text
        places = [place for start in format.starts if (place := text.find(start)) >= 0]
        first = _end(_SPACE.match(text))
        if self._silent and format.first and text.startswith(format.first, first):
            places.append(first)
        end = len(text)
        if places:
            end = min(places)
            self._reading = format.read(source, self._functions)
        elif not source.done:
            end -= max(overlap(text, start) for start in format.starts)
        source.text, source.at = text[end:], 0
        return self._say(text[:end])

    def _leave(self, as_text: bool) -> str:
        """Ends the reading; returns what was read if it is text after all."""
        source = self._source
        end = max(source.at, 1)
        read, source.text, source.at = source.text[:end], source.text[end:], 0
        self._reading = None
        if as_text:
            return self._say(read)
        if self._silent and not self._called:
            self._space = ""
        self._silent = self._called = True
        return ""

    def _say(self, text: str) -> str:
        """Content, but for white space at its end and after a call."""
        text = self._space + (text.lstrip() if self._called else text)
        said = text.rstrip()
        self._space = text[len(said) :]
        if said:
            self._silent = self._called = False
        return said

    def _checked(self, found: Found) -> list[ToolCall]:
        calls = []
        for name, arguments in found:
            if isinstance(arguments, str):  # JSON within JSON
                with suppress(MalformedError):
                    arguments = parse_json(arguments or "{}")
            if not isinstance(name, str) or name not in self._functions:
                what = f"calls {str(name)[:80]!r}, which was not offered"
            elif not isinstance(arguments, dict):
                what = f"calls {name} without an object of arguments"
            else:
                calls.append(ToolCall(name, _written(arguments)))
                continue
            self.warnings.append(f"the model {what}")
        return calls


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        MalformedError: it is no JSON, or too deep or long a number for Python.
    """
    try:
        return json.loads(text, parse_constant=_refuse, strict=False)
    except (ValueError, RecursionError) as error:
        raise MalformedError(str(error)) from error


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _written(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps(value)
    return text


def _end(match: re.Match[str] | None) -> int:
    assert match is not None  # white space, if only none, is always there
    return match.end()
