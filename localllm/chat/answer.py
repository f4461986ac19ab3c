"""An answer while it is made: the engine's stream split into its parts.

Apart from `session`, because the continuation of a text needs none of what a template takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from localllm.chat.reasoning import ReasoningParser
from localllm.decoding.params import GenerationParams
from localllm.tokenize.base import Tokenizer


class Token(Protocol):
    """What an engine yields."""

    id: int
    text: str
    finish_reason: str | None


class Engine(Protocol):
    """What a chat needs of `localllm.engine.Engine`."""

    tokenizer: Tokenizer
    context: int

    @property
    def chat_template(self) -> str | None:
        """The model's own template."""

    @property
    def last_stats(self) -> Any:
        """Counts and times of the last answer."""

    def generate(self, prompt: Sequence[int], params: GenerationParams) -> Iterator[Any]:
        """Tokens of an answer."""


class Answer:
    """An answer while it is made: iterate for (reasoning, content) pieces, then read the fields.

    Closing it, or leaving the loop and dropping it, stops the engine and frees its memory.
    """

    def __init__(self, tokens: Iterator[Token], prompt: str, split: bool) -> None:
        self.reasoning = ""
        self.content = ""
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self._tokens = tokens
        self._parser = ReasoningParser(prompt) if split else None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for token in self._tokens:
            self.token_ids.append(token.id)
            self.finish_reason = token.finish_reason
            piece = self._split(token.text, token.finish_reason is not None)
            self.reasoning += piece[0]
            self.content += piece[1]
            yield piece

    def close(self) -> None:
        """Stop; what is held back of a split tag is given to the part it belongs to."""
        if (close := getattr(self._tokens, "close", None)) is not None:
            close()
        reasoning, content = self._split("", True)
        self.reasoning += reasoning
        self.content += content

    def _split(self, text: str, done: bool) -> tuple[str, str]:
        return ("", text) if self._parser is None else self._parser.add(text, done)


def complete(engine: Engine, text: str, params: GenerationParams) -> Answer:
    """Start the continuation of a text, without a chat format around it."""
    ids = engine.tokenizer.encode(text, add_special=True, parse_special=False)
    return Answer(engine.generate(ids, params), text, split=False)
