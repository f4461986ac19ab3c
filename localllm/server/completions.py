"""`/v1/completions`: texts, and how they go on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from localllm.decoding.logprobs import Logprob
from localllm.engine.sequence import Token
from localllm.server.completions_schemas import CompletionRequest
from localllm.server.counts import timings, usage
from localllm.server.documents import Completion
from localllm.server.openapi import PLAIN_STREAM, answering
from localllm.server.replying import head, respond
from localllm.server.service import Service

router = APIRouter(prefix="/v1")
Choice = dict[str, Any]


@router.post("/completions", **answering(Completion, PLAIN_STREAM))
async def completions(asked: CompletionRequest, request: Request) -> Response:
    """Continue texts."""
    return await respond(
        request, asked, asked.stream, lambda service: Continuations(service, asked)
    )


class Continuations:
    """The answers to one request, while they are made."""

    def __init__(self, service: Service, asked: CompletionRequest) -> None:
        self._asked = asked
        self._tokenizer = service.engine.tokenizer
        self._head = head("cmpl-", service, asked) | {"object": "text_completion"}
        self.answers = service.prepare(
            [self._ids(prompt) for prompt in asked.prompts],
            asked.params(service.recommended),
            asked.n,
            context=asked.num_ctx,
            logprobs=asked.logprobs,
            reads_prompt=asked.echo and asked.logprobs is not None,
        )
        count = len(self.answers.sequences)
        self._offsets = [0] * count  # characters of each text so far
        self._begun = [False] * count

    async def document(self) -> dict[str, Any]:
        """All texts, when they are complete."""
        choices = [_choice(index) for index in range(len(self._begun))]
        async with aclosing(self._choices()) as parts:
            async for part in parts:
                choice = choices[part["index"]]
                choice["text"] += part["text"]
                choice["finish_reason"] = part["finish_reason"]
                if part["logprobs"] is not None:
                    told = choice["logprobs"] or {name: [] for name in part["logprobs"]}
                    choice["logprobs"] = {
                        name: values + part["logprobs"][name] for name, values in told.items()
                    }
        return self._head | {"choices": choices} | self._counts()

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a stream."""
        async with aclosing(self._choices()) as parts:
            async for part in parts:
                yield self._head | {"choices": [part]}
        if self._asked.wants_usage:
            yield self._head | {"choices": []} | self._counts()

    async def _choices(self) -> AsyncGenerator[Choice, None]:
        """Parts of choices, as they come."""
        async with aclosing(self.answers.tokens()) as tokens:
            async for index, token in tokens:
                if not self._begun[index]:
                    self._begun[index] = True
                    if self._asked.echo:
                        yield self._echo(index)
                if self._asked.only_echo:
                    yield _choice(index) | {"finish_reason": "length"}
                elif token.text or token.logprob or token.finish_reason:
                    yield self._part(index, token)

    def _echo(self, index: int) -> Choice:
        """The prompt, as the beginning of its text."""
        leader = self.answers.leaders[index // self._asked.n]
        ids = leader.tokens[: leader.stats.prompt_tokens]
        told = None
        if self._asked.logprobs is not None:
            told = self._told(index, leader.prompt_logprobs, first=ids[0])
        return _choice(index) | {"text": self._tokenizer.decode(ids), "logprobs": told}

    def _part(self, index: int, token: Token) -> Choice:
        told = None
        if token.logprob is not None and token.id not in self._tokenizer.eog_ids:
            told = self._told(index, [token.logprob])
        return _choice(index) | {
            "text": token.text,
            "logprobs": told,
            "finish_reason": token.finish_reason,
        }

    def _told(self, index: int, likely: list[Logprob], first: int | None = None) -> dict[str, Any]:
        """Logprobs as this API has them, after a first token, of which nothing is known."""
        entries: list[tuple[int, float | None, dict[str, float] | None]] = []
        if first is not None:
            entries.append((first, None, None))
        for one in likely:
            top = {self._text(token): value for token, value in reversed(one.top)}
            entries.append((one.token, one.logprob, top))
        offsets = []
        for token, _, _ in entries:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(self._text(token))
        return {
            "tokens": [self._text(token) for token, _, _ in entries],
            "token_logprobs": [value for _, value, _ in entries],
            "top_logprobs": [top for _, _, top in entries],
            "text_offset": offsets,
        }

    def _text(self, token: int) -> str:
        return self._tokenizer.token_bytes(token).decode("utf-8", "replace")

    def _ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self._tokenizer.encode(prompt, add_special=True, parse_special=False)
        return prompt

    def _counts(self) -> dict[str, Any]:
        return {"usage": usage(self.answers), "timings": timings(self.answers)}


def _choice(index: int) -> Choice:
    return {"index": index, "text": "", "logprobs": None, "finish_reason": None}
