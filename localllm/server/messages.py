"""`/v1/messages`: Anthropic's API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from localllm.decoding.params import GenerationParams
from localllm.server.blocks import Block, Blocks, Change
from localllm.server.counts import cached_tokens, completion_tokens, prompt_tokens
from localllm.server.documents import MessageDocument, MessagesFailure, TokenCount
from localllm.server.messages_schemas import CountRequest, MessagesRequest
from localllm.server.models import find_service
from localllm.server.openapi import NAMED_STREAM, answering
from localllm.server.replying import head, respond
from localllm.server.service import Service
from localllm.server.streaming import Event, EventForm
from localllm.server.turns import TurnAnswers, encode

router = APIRouter(prefix="/v1/messages")
SIGNATURE = "unsigned"  # clients send a thought back only where it has one
# Of each kind of block: the type of the deltas by which it grows, and where their text stands.
DELTAS = {
    "text": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}


@router.post("", **answering(MessageDocument, NAMED_STREAM, MessagesFailure))
async def messages(asked: MessagesRequest, request: Request) -> Response:
    """Answer a conversation."""
    return await respond(
        request,
        asked,
        bool(asked.stream),
        lambda service: MessagesReply(service, asked),
        EventForm(lambda error, _: error.anthropic_body),
    )


@router.post("/count_tokens", **answering(TokenCount, failure=MessagesFailure))
async def count_tokens(asked: CountRequest, request: Request) -> dict[str, int]:
    """The tokens of a conversation's prompt."""
    service = await find_service(request, asked.model)
    _, ids = await asyncio.to_thread(encode, service, asked.as_turn(GenerationParams()))
    return {"input_tokens": len(ids)}


class MessagesReply:
    """The answer to one request, while it is made."""

    def __init__(self, service: Service, asked: MessagesRequest) -> None:
        self._turn = TurnAnswers(service, asked.turn(service.recommended))
        self.answers = self._turn.answers
        self._blocks = Blocks()
        start = head("msg_", service, asked)
        self._frame = {
            "id": start["id"],
            "type": "message",
            "role": "assistant",
            "model": start["model"],
        }

    async def document(self) -> dict[str, Any]:
        """The message, when it is complete."""
        await self._blocks.gather(self._turn.pieces())
        content = [_content(block) for block in self._blocks.all]
        return self._frame | {"content": content, "usage": self._usage()} | self._ending()

    async def events(self) -> AsyncGenerator[Event, None]:
        """The events of a stream."""
        unended = {"stop_reason": None, "stop_sequence": None}
        message = self._frame | {"content": [], "usage": self._usage()} | unended
        yield {"type": "message_start", "message": message}
        yield {"type": "ping"}
        async with aclosing(self._turn.pieces()) as pieces:
            async for piece in pieces:
                for change in self._blocks.add(piece):
                    for event in _changes(change):
                        yield event
        yield {"type": "message_delta", "delta": self._ending(), "usage": self._usage()}
        yield {"type": "message_stop"}

    def _ending(self) -> dict[str, Any]:
        """Why the answer ended."""
        sequence = self.answers.sequences[0]
        reason, stop = "end_turn", sequence.stream.stopped
        if self._blocks.finish_reason == "tool_calls":
            reason = "tool_use"
        elif self._blocks.finish_reason == "length":
            full = sequence.stats.context_full
            reason = "model_context_window_exceeded" if full else "max_tokens"
        elif stop is not None:
            reason = "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": stop}

    def _usage(self) -> dict[str, Any]:
        """Tokens; how many of the prompt were cached is known only after the start."""
        cached = cached_tokens(self.answers)
        return {
            "input_tokens": prompt_tokens(self.answers) - cached,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": 0,
            "output_tokens": completion_tokens(self.answers),
            "output_tokens_details": {"thinking_tokens": self._blocks.reasoning_tokens},
        }


def _changes(change: Change) -> Iterator[Event]:
    """The events of a block's change."""
    block, step = change.block, change.step
    if step == "start":
        yield _event("start", block, content_block=_content(block, ended=False))
    elif step == "grow":
        kind, name = DELTAS[block.kind]
        yield _event("delta", block, delta={"type": kind, name: change.text})
    else:
        if block.kind == "reasoning":
            signature = {"type": "signature_delta", "signature": SIGNATURE}
            yield _event("delta", block, delta=signature)
        yield _event("stop", block)


def _event(name: str, block: Block, **fields: Any) -> Event:
    return {"type": f"content_block_{name}", "index": block.index} | fields


def _content(block: Block, ended: bool = True) -> dict[str, Any]:
    """A block as it stands in the message; one that has just begun is empty."""
    if block.kind == "text":
        return {"type": "text", "text": block.text, "citations": None}
    if block.kind == "reasoning":
        signature = SIGNATURE if ended else ""
        return {"type": "thinking", "thinking": block.text, "signature": signature}
    assert block.call is not None
    given = json.loads(block.text) if ended else {}
    return {"type": "tool_use", "id": block.call.id, "name": block.call.name, "input": given}
