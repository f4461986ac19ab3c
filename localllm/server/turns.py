"""One turn of a conversation, whichever API asked for it, and the pieces of its answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from localllm.chat.call_parser import ToolCall
from localllm.chat.reasoning import ReasoningParser
from localllm.chat.structured import json_constraint
from localllm.decoding.logprobs import Logprob
from localllm.decoding.params import GenerationParams
from localllm.server.service import Answers, Service


@dataclass(frozen=True)
class Turn:
    """What is asked.

    Attributes:
        messages: of the conversation, as templates take them.
        params: how to answer.
        count: of answers.
        variables: further ones of the template.
        schema: JSON schema of the answer, after its reasoning; None: any text.
        context: most tokens of prompt and answer; None: as the model is served.
        logprobs: how many of the likeliest tokens are told with each; None: not even its own.
        tools: the functions that may be called, as OpenAI's chat API describes them.
        tool_choice: "auto", "none", "required", or the name of the function to call.
        parallel: whether one answer may call several.
    """

    messages: list[dict[str, Any]]
    params: GenerationParams
    count: int = 1
    variables: dict[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    context: int | None = None
    logprobs: int | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    tool_choice: str = "auto"
    parallel: bool = True


@dataclass(frozen=True)
class Piece:
    """What a token brought to an answer.

    Attributes:
        index: of the answer.
        reasoning: text that the model thinks.
        content: text that it answers.
        token: its id.
        logprob: how likely it was, where that is asked for and the token stands for text.
        finish_reason: "stop", "length" or "tool_calls" with the last token.
        calls: functions that it calls.
    """

    index: int
    reasoning: str
    content: str
    token: int
    logprob: Logprob | None
    finish_reason: str | None
    calls: tuple[ToolCall, ...] = ()


def encode(service: Service, turn: Turn) -> tuple[str, list[int]]:
    """The prompt of a turn, as text and as token ids; raises TemplateError."""
    return service.session.encode(turn.messages, **turn.variables)


class TurnAnswers:
    """The answers to a turn.

    Raises:
        TemplateError: the conversation cannot be rendered.
        UsageError: the schema cannot be enforced, or see `Service.prepare`.
        ContextFullError: see there.
    """

    def __init__(self, service: Service, turn: Turn) -> None:
        prompt, ids = encode(service, turn)
        self.service = service
        constrain = None
        if turn.schema is not None:
            thinking = service.session.may_think(prompt)
            constrain = json_constraint(service.compiler, turn.schema, prompt, thinking).copy
        self.answers: Answers = service.prepare(
            [ids],
            turn.params,
            turn.count,
            constrain,
            context=turn.context,
            logprobs=turn.logprobs,
        )
        self._parsers = [ReasoningParser(prompt) for _ in range(turn.count)]

    def begin(self) -> None:
        """Let them be made; raises QueueFullError."""
        self.answers.begin()

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """What the tokens bring, as they come."""
        async with aclosing(self.answers.tokens()) as tokens:
            async for index, token in tokens:
                done = token.finish_reason is not None
                reasoning, content = self._parsers[index].add(token.text, done)
                ends = token.id in self.service.engine.tokenizer.eog_ids
                logprob = None if ends else token.logprob
                yield Piece(index, reasoning, content, token.id, logprob, token.finish_reason)

    def close(self) -> None:
        """End the answers that are still made."""
        self.answers.close()
