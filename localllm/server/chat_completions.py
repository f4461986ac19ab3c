"""`/v1/chat/completions`: conversations, and what the model answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from localllm.chat.call_parser import ToolCall
from localllm.server.completions_schemas import ChatRequest
from localllm.server.counts import likelihood, timings, usage
from localllm.server.documents import ChatCompletion
from localllm.server.openapi import PLAIN_STREAM, answering
from localllm.server.replying import head, respond
from localllm.server.service import Service
from localllm.server.turns import Piece, Turn, TurnAnswers

router = APIRouter(prefix="/v1")
Choice = dict[str, Any]


@router.post("/chat/completions", **answering(ChatCompletion, PLAIN_STREAM))
async def chat_completions(asked: ChatRequest, request: Request) -> Response:
    """Answer a conversation."""
    return await respond(request, asked, asked.stream, lambda service: ChatReply(service, asked))


class ChatReply:
    """The answers to one request, while they are made."""

    def __init__(self, service: Service, asked: ChatRequest) -> None:
        self._asked = asked
        self._tokenizer = service.engine.tokenizer
        self._head = head("chatcmpl-", service, asked)
        self._calls = [0] * asked.n  # made so far, by answer
        self._turn = TurnAnswers(
            service,
            Turn(
                messages=[message.plain() for message in asked.messages],
                params=asked.params(service.recommended),
                count=asked.n,
                variables=asked.variables,
                continue_final=asked.continues,
                schema=asked.response_format.wanted,
                context=asked.num_ctx,
                logprobs=asked.top_logprobs if asked.logprobs else None,
                tools=[tool.model_dump(exclude_none=True) for tool in asked.tools or []],
                tool_choice=asked.choice,
                parallel=asked.parallel_tool_calls,
            ),
        )
        self.answers = self._turn.answers

    async def document(self) -> dict[str, Any]:
        """All answers, when they are complete."""
        choices = [_choice(index) for index in range(self._asked.n)]
        async with aclosing(self._turn.pieces()) as pieces:
            async for piece in pieces:
                self._extend(choices[piece.index], piece)
        for choice in choices:
            message = choice["message"]
            if "tool_calls" in message and not message["content"]:
                message["content"] = None
        return self._head | {"object": "chat.completion", "choices": choices} | self._counts()

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a stream."""
        opening = {"role": "assistant", "content": ""}
        for index in range(self._asked.n):
            yield self._chunk([_delta(index, opening)])
        async with aclosing(self._turn.pieces()) as pieces:
            async for piece in pieces:
                for choice in self._deltas(piece):
                    yield self._chunk([choice])
        if self._asked.wants_usage:
            yield self._chunk([]) | self._counts()

    def _chunk(self, choices: list[Choice]) -> dict[str, Any]:
        return self._head | {"object": "chat.completion.chunk", "choices": choices}

    def _extend(self, choice: Choice, piece: Piece) -> None:
        """Add a piece to an answer."""
        message = choice["message"]
        message["content"] += piece.content
        if piece.reasoning:
            for name in ("reasoning_content", "reasoning"):
                message[name] = message.get(name, "") + piece.reasoning
        for call in piece.calls:
            message.setdefault("tool_calls", []).append(_call(call))
        if (told := self._told(piece)) is not None:
            choice["logprobs"] = choice["logprobs"] or {"content": []}
            choice["logprobs"]["content"] += told["content"]
        choice["finish_reason"] = piece.finish_reason

    def _deltas(self, piece: Piece) -> list[Choice]:
        """Choices of the chunks that a piece makes."""
        found = []
        if piece.reasoning:
            delta = {"reasoning_content": piece.reasoning, "reasoning": piece.reasoning}
            found.append(_delta(piece.index, delta))
        if piece.content:
            found.append(_delta(piece.index, {"content": piece.content}))
        for call in piece.calls:
            at = self._calls[piece.index]
            self._calls[piece.index] += 1
            found.append(_delta(piece.index, {"tool_calls": [{"index": at} | _call(call)]}))
        told = self._told(piece)
        if piece.finish_reason is not None or (told is not None and not found):
            found.append(_delta(piece.index, {}) | {"finish_reason": piece.finish_reason})
        if found:
            found[0]["logprobs"] = told
        return found

    def _told(self, piece: Piece) -> dict[str, Any] | None:
        """How likely the piece's token was, as this API has it."""
        if piece.logprob is None:
            return None
        return {"content": [likelihood(self._tokenizer, piece.logprob)]}

    def _counts(self) -> dict[str, Any]:
        return {"usage": usage(self.answers), "timings": timings(self.answers)}


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _choice(index: int) -> Choice:
    message = {"role": "assistant", "content": "", "refusal": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": None}


def _delta(index: int, delta: dict[str, Any]) -> Choice:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
