"""Tools in a conversation: how a model's template is told of them, and of calls made before."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

from localllm.chat.call_formats import CallFormat, format_of
from localllm.chat.call_parser import CallParser, Functions, MalformedError, parse_json
from localllm.chat.structured import after_reasoning
from localllm.chat.template import ChatTemplate, Message, TemplateError
from localllm.decoding.constraint import ConstraintCompiler, GrammarConstraint
from localllm.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NO_PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {},
    "additionalProperties": False,
}
_MOST_TOOLS = 128
_NEEDLE = "needle"


class _Style(NamedTuple):
    """How a template takes the calls that an assistant's message holds."""

    content: str | None  # in place of no content
    objects: bool  # arguments are objects, or else JSON text
    short_ids: bool  # ids are nine letters and digits


class ToolUse:
    """The tools of one model: into its prompts, out of its answers.

    Args:
        template: the model's chat template; None: it has none.

    Attributes:
        format: how the model writes calls.
    """

    def __init__(self, template: ChatTemplate | None) -> None:
        self._template = template
        self.format: CallFormat = format_of(template.source if template else "")

    def parser(self, tools: Sequence[Mapping[str, Any]]) -> CallParser:
        """What finds the calls of these tools in the content of one answer."""
        return CallParser(self.format, functions_of(tools))

    def constraint(
        self,
        compiler: ConstraintCompiler,
        tools: Sequence[Mapping[str, Any]],
        *,
        name: str | None = None,
        parallel: bool = True,
        prompt: str = "",
        thinking: bool = False,
    ) -> GrammarConstraint:
        """An answer that is one call or several, with arguments as the functions' schemas demand.

        Where a format writes arguments without quotes (Qwen-Coder), a text's pattern and length are
        left to the model.

        Args:
            compiler: the model's.
            tools: as of ``functions_of``.
            name: exactly one call, of this function; None: of any.
            parallel: whether there may be several calls.
            prompt: text of the prompt; where it ends in an opened tag, reasoning comes first.
            thinking: whether the model may think first where the prompt opened no tag.

        Raises:
            UsageError: there is no such function, or a schema cannot be enforced.
        """
        functions = functions_of(tools)
        if name is not None:
            if name not in functions:
                raise UsageError(f"tool_choice: there is no function {name[:64]!r} among the tools")
            functions = {name: functions[name]}
        if not functions:
            raise UsageError("tool_choice asks for a call, but there are no tools")
        grammar = compiler.grammar()
        calls = self.format.expression(grammar, functions, parallel and name is None)
        return compiler.compile(grammar, after_reasoning(grammar, calls, prompt, thinking))

    def prepare(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[list[Message], list[Mapping[str, Any]] | None]:
        """OpenAI's messages and tools as the template takes them.

        A template that knows no tools gets them in the system message, and calls and results as
        text.

        Args:
            messages: with texts as content; assistants' may hold `tool_calls`, and those of the
                role `tool` have a `tool_call_id`.
            tools: as of ``functions_of``.

        Returns:
            The messages and, for the template's `tools`, the tools.

        Raises:
            UsageError: a call or a tool is not as it has to be.
        """
        functions_of(tools)
        names: dict[str, str] = {}
        prepared: list[Message] = []
        # Results as text are the user's turn: what comes next joins them, for templates in which
        # user and assistant take turns.
        open_turn = False
        for message in messages:
            role = message["role"]
            joins = open_turn and role in ("user", "tool")
            open_turn = role == "tool" and self._style is None
            if role == "assistant" and message.get("tool_calls"):
                calls = [_checked_call(call) for call in message["tool_calls"]]
                names.update((call["id"], call["function"]["name"]) for call in calls)
                message = self._with_calls(message, calls)
            elif role == "tool":
                message = self._result(message, names)
            if joins:
                between = "\n" if role == "tool" else "\n\n"
                text = f"{prepared.pop()['content']}{between}{message['content']}"
                message = {**message, "content": text}
            prepared.append(message)
        shown: list[Mapping[str, Any]] = [_shown(tool) for tool in tools]
        if shown and not self._shows_tools:
            return self._with_listing(prepared, shown), None
        return prepared, shown or None

    def _with_calls(self, message: Message, calls: list[dict[str, Any]]) -> Message:
        style = self._style
        kept = {key: value for key, value in message.items() if key != "tool_calls"}
        content = message.get("content")
        if style is None:
            text = self.format.spell(
                [(c["function"]["name"], _json(c["function"]["arguments"])) for c in calls]
            )
            return {**kept, "content": f"{content}\n{text}" if content else text}
        return {
            **kept,
            "content": content or style.content,
            "tool_calls": [_styled(call, style) for call in calls],
        }

    def _result(self, message: Message, names: Mapping[str, str]) -> Message:
        if self._style is None:
            text = f"<tool_response>\n{message['content']}\n</tool_response>"
            return {"role": "user", "content": text}
        id = str(message.get("tool_call_id") or "")
        name = message.get("name") or names.get(id, "")
        return {
            **message,
            "tool_call_id": _short(id) if self._style.short_ids else id,
            "name": name,
        }

    def _with_listing(
        self, messages: list[Message], tools: Sequence[Mapping[str, Any]]
    ) -> list[Message]:
        example = self.format.spell([("<function-name>", "<args-json-object>")])
        text = (
            "# Tools\n\nYou may call one or more functions to assist with the user query. "
            "These are their signatures:\n<tools>\n"
            + "\n".join(map(_json, tools))
            + f"\n</tools>\n\nTo call a function, answer with:\n{example}"
        )
        if messages and messages[0]["role"] == "system":
            first = messages[0]
            return [{**first, "content": f"{first['content']}\n\n{text}"}, *messages[1:]]
        return [{"role": "system", "content": text}, *messages]

    @cached_property
    def _shows_tools(self) -> bool:
        """Whether the template writes the tools it is given into the prompt."""
        tool = {"type": "function", "function": {"name": _NEEDLE}}
        return _NEEDLE in self._rendered([{"role": "user", "content": "?"}], tool)

    @cached_property
    def _style(self) -> _Style | None:
        """How the template takes calls, found out by trying; None: it does not know them."""
        tool = {"type": "function", "function": {"name": "name"}}
        function = {"name": "name", "arguments": {_NEEDLE: 1}}
        call = {"id": "call_" + "0" * 24, "type": "function", "function": function}
        for short, content, objects in product((False, True), (None, ""), (True, False)):
            style = _Style(content, objects, short)
            styled = _styled(call, style)
            text = self._rendered(
                [
                    {"role": "user", "content": "?"},
                    {"role": "assistant", "content": content, "tool_calls": [styled]},
                    {"role": "tool", "content": "!", "tool_call_id": styled["id"], "name": "name"},
                ],
                tool,
            )
            if f'{{"{_NEEDLE}": 1}}' in text and "None" not in text:
                return style
        return None

    def _rendered(self, messages: list[Message], tool: Mapping[str, Any]) -> str:
        if self._template is None:
            return ""
        try:
            return self._template.render(messages, tools=[_shown(tool)])
        except TemplateError:
            return ""


def functions_of(tools: Sequence[Mapping[str, Any]]) -> Functions:
    """The schemas of the functions' parameters, by name.

    Args:
        tools: `{"type": "function", "function": {"name": …, "parameters": …}}` each.

    Raises:
        UsageError: a tool is not of this form; or there are too many, or two of one name.
    """
    if len(tools) > _MOST_TOOLS:
        raise UsageError(f"tools: {len(tools)} of them, {_MOST_TOOLS} are the most")
    functions: dict[str, Mapping[str, Any]] = {}
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        function = tool.get("function")
        if tool.get("type", "function") != "function" or not isinstance(function, Mapping):
            raise UsageError(f"{where}: only tools of the type 'function' are supported")
        name = function.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(
                f"{where}.function.name: must be 1 to 64 letters, digits, '_', '-' or '.'"
            )
        if name in functions:
            raise UsageError(f"{where}.function.name: {name!r} was given before")
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise UsageError(f"{where}.function.parameters: must be a JSON schema")
        functions[name] = parameters or _NO_PARAMETERS
    return functions


def _shown(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a template reads of a tool; some fail where a field is missing."""
    function = tool["function"]
    parameters = {"type": "object", "properties": {}, **(function.get("parameters") or {})}
    shown = {
        "name": function["name"],
        "description": function.get("description") or "",
        "parameters": parameters,
    }
    return {"type": "function", "function": shown}


def _checked_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str):
        raise UsageError("messages: a tool call without a function's name")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = parse_json(arguments)
        except MalformedError as error:
            raise UsageError(f"messages: arguments of a call of {name[:64]!r}: {error}") from error
    if not isinstance(arguments, Mapping):
        raise UsageError(f"messages: arguments of a call of {name[:64]!r} must be a JSON object")
    return {
        "id": str(call.get("id") or ""),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _styled(call: Mapping[str, Any], style: _Style) -> dict[str, Any]:
    function = call["function"]
    arguments = function["arguments"]
    return {
        **call,
        "id": _short(call["id"]) if style.short_ids else call["id"],
        "function": {**function, "arguments": arguments if style.objects else _json(arguments)},
    }


def _short(id: str) -> str:
    """Nine letters and digits that stand for an id."""
    return hashlib.sha256(id.encode()).hexdigest()[:9]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
