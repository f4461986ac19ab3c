"""A conversation put together from the items of an API, in OpenAI's chat form."""

from __future__ import annotations

from typing import Any


class Conversation:
    """Messages, as `Turn` takes them.

    What one side says in several items is one message, as templates expect it: many refuse two
    messages of the same role in a row.
    """

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []  # the content of each is a list of texts

    @property
    def messages(self) -> list[dict[str, Any]]:
        """So far."""
        return [one | {"content": "\n\n".join(one["content"])} for one in self._messages]

    def add(self, role: str, text: str) -> None:
        """Something said by "system", "user" or "assistant"."""
        texts = self._message(role)["content"]
        if texts in ([], [""]):
            texts[:] = [text]
        else:
            texts.append(text)

    def think(self, text: str) -> None:
        """Reasoning of the assistant: the beginning of a message."""
        message = {"role": "assistant", "content": [], "reasoning_content": text}
        self._messages.append(message)

    def call(self, call_id: str, name: str, arguments: str) -> None:
        """A function that the assistant called, with JSON text."""
        function = {"name": name, "arguments": arguments}
        calls = self._message("assistant").setdefault("tool_calls", [])
        calls.append({"id": call_id, "type": "function", "function": function})

    def result(self, call_id: str, text: str) -> None:
        """What a call returned."""
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": [text]})

    def _message(self, role: str) -> dict[str, Any]:
        """The last message, where it has this role; else a new one."""
        if not self._messages or self._messages[-1]["role"] != role:
            self._messages.append({"role": role, "content": []})
        return self._messages[-1]
