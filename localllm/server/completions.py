"""`/v1/chat/completions` and `/v1/completions`: what is asked, and what is answered."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from localllm.chat.reasoning import ReasoningParser
from localllm.engine.sequence import Sequence, Token
from localllm.server.errors import ApiError
from localllm.server.models import find_service
from localllm.server.schemas import ChatRequest, CompletionRequest, Generation
from localllm.server.service import Service, timings, usage
from localllm.server.streaming import EventStream, unless_gone

router = APIRouter(prefix="/v1")
Choice = dict[str, Any]


class Reply:
    """The answers to one request, while they are made.

    Attributes:
        kind: of object; chunks of a stream have `stream_kind`.
    """

    kind = "text_completion"
    stream_kind = "text_completion"
    id_prefix = "cmpl-"

    def __init__(self, service: Service, asked: Generation, sequences: list[Sequence]) -> None:
        self.service = service
        self.asked = asked
        self.sequences = sequences
        self._head = {"id": self.id_prefix + uuid.uuid4().hex, "created": int(time.time())}

    async def document(self) -> dict[str, Any]:
        """All answers, when they are complete."""
        choices = [self.empty(index) for index in range(len(self.sequences))]
        async with aclosing(self.service.merged(self.sequences)) as tokens:
            async for index, token in tokens:
                self.extend(choices[index], index, token)
        return self._object(self.kind, choices) | self._counts()

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a stream."""
        for chunk in self.opening():
            yield self._object(self.stream_kind, [chunk])
        async with aclosing(self.service.merged(self.sequences)) as tokens:
            async for index, token in tokens:
                for choice in self.chunks(index, token):
                    yield self._object(self.stream_kind, [choice])
        if self.asked.wants_usage:
            yield self._object(self.stream_kind, []) | self._counts()

    def close(self) -> None:
        """End the answers that are still made."""
        for sequence in self.sequences:
            self.service.cancel(sequence)

    def opening(self) -> list[Choice]:
        """Choices of the chunks before the first token."""
        return []

    def empty(self, index: int) -> Choice:
        """An answer without tokens."""
        return {"index": index, "text": "", "logprobs": None, "finish_reason": None}

    def extend(self, choice: Choice, index: int, token: Token) -> None:
        """Add a token to an answer."""
        choice["text"] += token.text
        choice["finish_reason"] = token.finish_reason

    def chunks(self, index: int, token: Token) -> list[Choice]:
        """Choices of the chunks that a token makes."""
        if not token.text and token.finish_reason is None:
            return []
        return [self.empty(index) | {"text": token.text, "finish_reason": token.finish_reason}]

    def _object(self, kind: str, choices: list[Choice]) -> dict[str, Any]:
        return {**self._head, "object": kind, "model": self.service.name, "choices": choices}

    def _counts(self) -> dict[str, Any]:
        stats = [sequence.stats for sequence in self.sequences]
        prompt = stats[0].prompt_tokens
        return {"usage": usage(prompt, stats), "timings": timings(stats)}


class ChatReply(Reply):
    """Answers whose reasoning is told apart."""

    kind = "chat.completion"
    stream_kind = "chat.completion.chunk"
    id_prefix = "chatcmpl-"

    def __init__(
        self, service: Service, asked: Generation, sequences: list[Sequence], prompt: str
    ) -> None:
        super().__init__(service, asked, sequences)
        self._parsers = [ReasoningParser(prompt) for _ in sequences]

    def opening(self) -> list[Choice]:
        """See `Reply.opening`."""
        delta = {"role": "assistant", "content": ""}
        return [self._delta(index, delta) for index in range(len(self.sequences))]

    def empty(self, index: int) -> Choice:
        """See `Reply.empty`."""
        message = {"role": "assistant", "content": ""}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": None}

    def extend(self, choice: Choice, index: int, token: Token) -> None:
        """See `Reply.extend`."""
        reasoning, content = self._split(index, token)
        message = choice["message"]
        message["content"] += content
        if reasoning:
            for name in ("reasoning_content", "reasoning"):
                message[name] = message.get(name, "") + reasoning
        choice["finish_reason"] = token.finish_reason

    def chunks(self, index: int, token: Token) -> list[Choice]:
        """See `Reply.chunks`."""
        reasoning, content = self._split(index, token)
        found = []
        if reasoning:
            delta = {"reasoning_content": reasoning, "reasoning": reasoning}
            found.append(self._delta(index, delta))
        if content:
            found.append(self._delta(index, {"content": content}))
        if token.finish_reason is not None:
            found.append(self._delta(index, {}) | {"finish_reason": token.finish_reason})
        return found

    def _split(self, index: int, token: Token) -> tuple[str, str]:
        return self._parsers[index].add(token.text, token.finish_reason is not None)

    def _delta(self, index: int, delta: dict[str, Any]) -> Choice:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


@router.post("/chat/completions")
async def chat_completions(asked: ChatRequest, request: Request) -> Response:
    """Answer a conversation."""
    service = await find_service(request, asked.model, asked.keep_alive)
    params = asked.params(service.recommended)
    messages = [message.plain() for message in asked.messages]
    prompt, ids = service.session.encode(messages, **asked.variables)
    sequences = service.answers(ids, params, asked.n)
    return await respond(request, asked, ChatReply(service, asked, sequences, prompt))


@router.post("/completions")
async def completions(asked: CompletionRequest, request: Request) -> Response:
    """Continue a text."""
    service = await find_service(request, asked.model, asked.keep_alive)
    params = asked.params(service.recommended)
    if len(asked.prompts) != 1:
        raise ApiError(400, "prompt: one text or one list of token ids a request", "prompt")
    if asked.echo:
        raise ApiError(400, "echo: this field is not supported", "echo", "unsupported_field")
    prompt = asked.prompts[0]
    if isinstance(prompt, str):
        prompt = service.engine.tokenizer.encode(prompt, add_special=True, parse_special=False)
    sequences = service.answers(prompt, params, asked.n)
    return await respond(request, asked, Reply(service, asked, sequences))


async def respond(request: Request, asked: Generation, reply: Reply) -> Response:
    """The stream or the document that was asked for."""
    if asked.stream:
        return EventStream(reply.events(), reply.close)
    try:
        return JSONResponse(await unless_gone(request, reply.document()))
    finally:
        reply.close()
