"""Answers made by hand, where the model's own do not show what is to be tested."""

from __future__ import annotations

import pytest

from localllm.server.turns import Call, Piece, TurnAnswers


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
    piece(calls=[Call("call_1", "weather", '{"city": "Bern"}')]),
    piece(calls=[Call("call_2", "weather", '{"city": "Rom"}')], end="tool_calls"),
]
