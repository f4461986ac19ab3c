"""The pieces of an answer, gathered into blocks: what it thinks, what it says, what it calls."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from localllm.chat.call_parser import ToolCall
from localllm.decoding.logprobs import Logprob
from localllm.server.turns import Piece

Kind = Literal["reasoning", "text", "call"]


@dataclass
class Block:
    """A stretch of an answer that is all of one kind.

    Attributes:
        index: in the answer.
        kind: of block.
        call: where it is one.
        text: so far; of a call its arguments.
        likely: how likely the tokens of a text were, where that is asked for.
        whole: whether it came to its end; one that a limit cut off did not.
        id: of the block, without a prefix.
    """

    index: int
    kind: Kind
    call: ToolCall | None = None
    text: str = ""
    likely: list[Logprob] = field(default_factory=list)
    whole: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Change:
    """What happens to a block.

    Attributes:
        step: a block starts, grows, or ends.
        block: as it is after that.
        text: by which it grows.
        likely: how likely the tokens of that text were.
    """

    step: Literal["start", "grow", "end"]
    block: Block
    text: str = ""
    likely: tuple[Logprob, ...] = ()


class Blocks:
    """Gathers the pieces of one answer.

    Attributes:
        all: blocks so far.
        finish_reason: of the last piece.
        reasoning_tokens: tokens up to the end of the reasoning, its tags included.
    """

    def __init__(self) -> None:
        self.all: list[Block] = []
        self.finish_reason: str | None = None
        self.reasoning_tokens = 0
        self._tokens = 0
        self._open: Block | None = None
        self._untold: list[Logprob] = []  # of tokens whose text is held back so far

    async def gather(self, pieces: AsyncGenerator[Piece, None]) -> None:
        """Take all pieces of an answer that is not streamed."""
        async with aclosing(pieces):
            async for piece in pieces:
                for _ in self.add(piece):
                    pass

    def add(self, piece: Piece) -> Iterator[Change]:
        """What a piece changes."""
        self._tokens += 1
        if piece.logprob is not None:
            self._untold.append(piece.logprob)
        if piece.reasoning:
            yield from self._grow("reasoning", piece.reasoning)
        if piece.content:
            yield from self._grow("text", piece.content)
        for call in piece.calls:
            yield from self._end(whole=True)
            yield from self._grow("call", call.arguments, call)
        if self._open is not None and self._open.kind == "reasoning":
            self.reasoning_tokens = self._tokens
            self._untold.clear()
        if piece.finish_reason is not None:
            self.finish_reason = piece.finish_reason
            yield from self._end(whole=piece.finish_reason != "length")

    def _grow(self, kind: Kind, text: str, call: ToolCall | None = None) -> Iterator[Change]:
        if self._open is not None and self._open.kind != kind:
            yield from self._end(whole=True)
        if self._open is None:
            self._open = Block(len(self.all), kind, call)
            self.all.append(self._open)
            yield Change("start", self._open)
        likely = tuple(self._untold) if kind == "text" else ()
        self._untold.clear()
        self._open.text += text
        self._open.likely += likely
        yield Change("grow", self._open, text, likely)

    def _end(self, whole: bool) -> Iterator[Change]:
        if self._open is not None:
            block, self._open = self._open, None
            block.whole = whole
            yield Change("end", block)
