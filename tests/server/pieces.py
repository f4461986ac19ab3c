"""Answers made by hand, where the model's own do not show what is to be tested."""

from __future__ import annotations

import pytest

from localllm.chat.call_parser import ToolCall
from localllm.server.turns import Piece, TurnAnswers


def answer_with(monkeypatch: pytest.MonkeyPatch, pieces: list[Piece]) -> None:
    """Let every answer be of these pieces."""

    async def made(self):
        for piece in pieces:
            yield piece

    monkeypatch.setattr(TurnAnswers, "pieces", made)


def piece(content="", reasoning="", calls=(), end=None) -> Piece:
    return Piece(0, reasoning, content, 65, None, end, tuple(calls))


# Thinks, speaks, and calls two functions.
THINKS_SPEAKS_CALLS = [
    piece(reasoning="Two "),
    piece(reasoning="cities."),
    piece(),  # the tag that ends it
    piece("I look "),
    piece("it up."),
    piece(calls=[ToolCall("weather", '{"city": "Bern"}', "call_1")]),
    piece(calls=[ToolCall("weather", '{"city": "Rom"}', "call_2")], end="tool_calls"),
]
