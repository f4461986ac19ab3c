"""A conversation: what was said, in the form that templates read and files keep."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from localllm.errors import LocalLLMError
from localllm.files import replacing

_FORMAT = "localllm-conversation"
_ROLES = frozenset({"user", "assistant", "tool"})
_TEXTS = ("role", "content", "reasoning_content")  # of a message


class Conversation:
    """Messages in turn, under an optional system prompt."""

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self.turns: list[dict[str, Any]] = []

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All messages, the system prompt first."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, *self.turns]

    def ask(self, text: str) -> None:
        """Add what the user says."""
        self.turns.append({"role": "user", "content": text})

    def answer(self, content: str, reasoning: str = "") -> None:
        """Add what the model answered."""
        turn = {"role": "assistant", "content": content}
        if reasoning:
            turn["reasoning_content"] = reasoning
        self.turns.append(turn)

    def undo(self) -> str | None:
        """Take back the last question and what followed it; None where there is none."""
        for index in range(len(self.turns) - 1, -1, -1):
            if self.turns[index]["role"] == "user":
                text = str(self.turns[index]["content"])
                del self.turns[index:]
                return text
        return None

    def clear(self) -> None:
        """Forget every message; the system prompt stays."""
        self.turns.clear()

    def save(self, path: Path, model: str = "") -> None:
        """Write the conversation as JSON; an existing file is replaced whole or not at all."""
        document = {
            "format": _FORMAT,
            "version": 1,
            "model": model,
            "system": self.system,
            "messages": self.turns,
        }
        # half a surrogate pair becomes the \uXXXX that JSON has for it
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
        try:
            target = path.resolve()  # what a link points at is replaced, not the link
            if target.exists() and not target.is_file():
                raise LocalLLMError(f"cannot save {path}: it is not a regular file")
            with replacing(target) as beside:
                beside.write_bytes(text.encode("utf-8", "backslashreplace"))
                if target.exists():
                    shutil.copymode(target, beside)
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
            reason = getattr(error, "strerror", None) or error
            raise LocalLLMError(f"cannot save {path}: {reason}") from error

    @classmethod
    def load(cls, path: Path) -> Conversation:
        """Read a saved conversation.

        Raises:
            LocalLLMError: the file cannot be read or is not a conversation; says what is wrong.
        """
        try:
            if path.exists() and not path.is_file():  # a pipe would wait for ever
                raise LocalLLMError(f"cannot load {path}: it is not a regular file")
            document = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise LocalLLMError(f"cannot load {path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise LocalLLMError(f"{path} is not a saved conversation: {error}") from error
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise LocalLLMError(f"{path} is not a saved conversation: no format {_FORMAT!r}")
        system = document.get("system")
        conversation = cls(system if isinstance(system, str) else None)
        turns = document.get("messages")
        for number, turn in enumerate(turns if isinstance(turns, list) else [None], 1):
            known = isinstance(turn, dict) and str(turn.get("role")) in _ROLES
            if not known or not isinstance(turn.get("content"), str):
                raise LocalLLMError(f"{path}: message {number} has no known role or no text")
            # Texts alone: nothing else was ever saved, and templates take anything for what it is.
            texts = {key: turn[key] for key in _TEXTS if isinstance(turn.get(key), str)}
            conversation.turns.append(texts)
        return conversation
