"""`/v1/responses`: OpenAI's newer API, without its memory: nothing is stored."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from localllm.decoding.logprobs import Logprob
from localllm.server.blocks import Block, Blocks, Change
from localllm.server.counts import cached_tokens, completion_tokens, likelihood, prompt_tokens
from localllm.server.documents import ResponseDocument
from localllm.server.errors import ApiError
from localllm.server.openapi import NAMED_STREAM, answering
from localllm.server.replying import head, respond
from localllm.server.responses_schemas import ResponsesRequest
from localllm.server.service import Service
from localllm.server.streaming import Event, EventForm
from localllm.server.turns import TurnAnswers

router = APIRouter(prefix="/v1")
# Of each kind of block: what its id begins with, and the name of the events by which it grows.
PREFIXES = {"reasoning": "rs_", "text": "msg_", "call": "fc_"}
DELTAS = {"reasoning": "reasoning_text", "text": "output_text", "call": "function_call_arguments"}


@router.post("/responses", **answering(ResponseDocument, NAMED_STREAM))
async def responses(asked: ResponsesRequest, request: Request) -> Response:
    """Answer a conversation."""
    return await respond(
        request,
        asked,
        bool(asked.stream),
        lambda service: ResponsesReply(service, asked),
        EventForm(_failure),
    )


class ResponsesReply:
    """The answer to one request, while it is made."""

    def __init__(self, service: Service, asked: ResponsesRequest) -> None:
        turn = asked.turn(service.recommended)
        self._tokenizer = service.engine.tokenizer
        self._turn = TurnAnswers(service, turn)
        self.answers = self._turn.answers
        self._blocks = Blocks()
        start = head("resp_", service, asked)
        sampled = turn.params.resolved()
        self._frame = _told_back(asked) | {
            "id": start["id"],
            "object": "response",
            "created_at": start["created"],
            "model": start["model"],
            "temperature": sampled.temperature,
            "top_p": sampled.top_p,
        }

    async def document(self) -> dict[str, Any]:
        """The response, when it is complete."""
        await self._blocks.gather(self._turn.pieces())
        return self._response(self._status)

    async def events(self) -> AsyncGenerator[Event, None]:
        """The events of a stream."""
        number = 0
        async with aclosing(self._events()) as events:
            async for event in events:
                yield event | {"sequence_number": number}
                number += 1

    async def _events(self) -> AsyncGenerator[Event, None]:
        for step in ("created", "in_progress"):
            yield {"type": f"response.{step}", "response": self._response("in_progress")}
        async with aclosing(self._turn.pieces()) as pieces:
            async for piece in pieces:
                for change in self._blocks.add(piece):
                    for event in self._changes(change):
                        yield event
        yield {"type": f"response.{self._status}", "response": self._response(self._status)}

    def _changes(self, change: Change) -> Iterator[Event]:
        """The events of a block's change."""
        block = change.block
        has_part = block.kind != "call"
        item = {"output_index": block.index}
        part: Event = item | {"item_id": PREFIXES[block.kind] + block.id}
        if has_part:
            part["content_index"] = 0
        name = f"response.{DELTAS[block.kind]}"
        if change.step == "start":
            yield {"type": "response.output_item.added", "item": self._item(block, True)} | item
            if has_part:
                yield {"type": "response.content_part.added", "part": self._part(block)} | part
        elif change.step == "grow":
            told = self._likelihoods(block, change.likely)
            yield {"type": f"{name}.delta", "delta": change.text} | part | told
        else:
            told = self._likelihoods(block, block.likely)
            yield {"type": f"{name}.done"} | part | _whole(block) | told
            if has_part:
                yield {"type": "response.content_part.done", "part": self._part(block)} | part
            yield {"type": "response.output_item.done", "item": self._item(block)} | item

    @property
    def _status(self) -> str:
        return "incomplete" if self._blocks.finish_reason == "length" else "completed"

    def _response(self, status: str) -> dict[str, Any]:
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return self._frame | {
            "status": status,
            "incomplete_details": incomplete,
            "output": [self._item(block) for block in self._blocks.all],
            "usage": None if status == "in_progress" else self._usage(),
        }

    def _item(self, block: Block, growing: bool = False) -> dict[str, Any]:
        """An item of the output; one that has just begun is empty."""
        status = "in_progress" if growing else "completed" if block.whole else "incomplete"
        item = {"id": PREFIXES[block.kind] + block.id, "status": status}
        content = [] if growing else [self._part(block)]
        if block.kind == "text":
            return item | {"type": "message", "role": "assistant", "content": content}
        if block.kind == "reasoning":
            return item | {"type": "reasoning", "summary": [], "content": content}
        assert block.call is not None
        function = {"call_id": block.call.id, "name": block.call.name, "arguments": block.text}
        return item | {"type": "function_call"} | function

    def _part(self, block: Block) -> dict[str, Any]:
        """The content of a reasoning or a message."""
        if block.kind == "reasoning":
            return {"type": "reasoning_text", "text": block.text}
        told = self._likelihoods(block, block.likely)
        return {"type": "output_text", "text": block.text, "annotations": []} | told

    def _likelihoods(self, block: Block, likely: Iterable[Logprob]) -> dict[str, Any]:
        if block.kind != "text":
            return {}
        return {"logprobs": [likelihood(self._tokenizer, one) for one in likely]}

    def _usage(self) -> dict[str, Any]:
        read, written = prompt_tokens(self.answers), completion_tokens(self.answers)
        cached = {"cached_tokens": cached_tokens(self.answers), "cache_write_tokens": 0}
        return {
            "input_tokens": read,
            "input_tokens_details": cached,
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": self._blocks.reasoning_tokens},
            "total_tokens": read + written,
        }


def _whole(block: Block) -> dict[str, Any]:
    """What the event at the end of a block repeats."""
    if block.call is not None:
        return {"name": block.call.name, "arguments": block.text}
    return {"text": block.text}


def _told_back(asked: ResponsesRequest) -> dict[str, Any]:
    """What a response repeats of its request."""
    given = asked.model_dump(by_alias=True, exclude_unset=True)
    same = ("instructions", "max_output_tokens", "user", "safety_identifier", "prompt_cache_key")
    return {name: given.get(name) for name in same} | {
        "background": False,
        "error": None,
        "max_tool_calls": None,
        "metadata": asked.metadata or {},
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None} | (given.get("reasoning") or {}),
        "service_tier": "default",
        "store": False,
        "text": {"format": {"type": "text"}} | (given.get("text") or {}),
        "tool_choice": given.get("tool_choice") or "auto",
        "tools": given.get("tools") or [],
        "top_logprobs": asked.top_logprobs or 0,
        "truncation": "disabled",
    }


def _failure(error: ApiError, count: int) -> Event:
    fields = {"code": error.code, "message": str(error), "param": error.param}
    return {"type": "error"} | fields | {"sequence_number": count}
