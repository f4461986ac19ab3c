"""One turn of a conversation, whichever API asked for it, and the pieces of its answers."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from localllm.chat.call_parser import CallParser, ToolCall
from localllm.chat.reasoning import ReasoningParser
from localllm.chat.structured import json_constraint
from localllm.decoding.constraint import Constraint
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
        continue_final: whether the last message, the assistant's, is to go on.
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
    continue_final: bool = False
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
    """The prompt of a turn, as text and as token ids.

    Raises:
        UsageError: a tool, or a call of one, is not as it has to be.
        TemplateError: the conversation cannot be rendered.
    """
    tools = turn.tools if turn.tool_choice != "none" else []
    messages, shown = service.tools.prepare(service.led(turn.messages), tools)
    return service.session.encode(
        messages, tools=shown, continue_final=turn.continue_final, **turn.variables
    )


class TurnAnswers:
    """The answers to a turn.

    Attributes:
        answers: their sequences.

    Raises:
        TemplateError: the conversation cannot be rendered.
        UsageError: the schema cannot be enforced, or see `Service.prepare`.
        ContextFullError: see there.
    """

    def __init__(self, service: Service, turn: Turn) -> None:
        prompt, ids = encode(service, turn)
        self.service = service
        self.answers: Answers = service.prepare(
            [ids],
            turn.params,
            turn.count,
            _constrain(service, turn, prompt),
            context=turn.context,
            logprobs=turn.logprobs,
            shown=service.shown,
        )
        self._parsers = [_Parser(service, turn, prompt) for _ in range(turn.count)]

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """What the tokens bring, as they come."""
        async with aclosing(self.answers.tokens()) as tokens:
            async for index, token in tokens:
                done = token.finish_reason is not None
                reasoning, content, calls = self._parsers[index].add(token.text, done)
                reason = token.finish_reason
                if reason == "stop" and self._parsers[index].called:
                    reason = "tool_calls"
                ends = token.id in self.service.engine.tokenizer.eog_ids
                logprob = None if ends else token.logprob
                yield Piece(index, reasoning, content, token.id, logprob, reason, tuple(calls))


class _Parser:
    """Takes one answer apart: what is thought, what is said, what is called."""

    def __init__(self, service: Service, turn: Turn, prompt: str) -> None:
        self.called = False
        self._reasoning = ReasoningParser(prompt)
        self._calls: CallParser | None = None
        self._parallel = turn.parallel
        if turn.tools and turn.tool_choice != "none":
            self._calls = service.tools.parser(turn.tools)

    def add(self, text: str, done: bool) -> tuple[str, str, list[ToolCall]]:
        """Reasoning, content and calls that are certain now; `done`: no more text will come."""
        reasoning, content = self._reasoning.add(text, done)
        if self._calls is None:
            return reasoning, content, []
        content, calls = self._calls.add(content, done)
        if not self._parallel:
            calls = [] if self.called else calls[:1]
        self.called = self.called or bool(calls)
        if done and self._calls.warnings:
            logging.getLogger(__name__).warning("; ".join(self._calls.warnings))
        return reasoning, content, calls


def _constrain(service: Service, turn: Turn, prompt: str) -> Callable[[], Constraint] | None:
    """Makes what each answer has to follow; None: nothing."""
    thinking = service.session.may_think(prompt)
    if turn.tool_choice not in ("auto", "none"):
        return service.tools.constraint(
            service.compiler,
            turn.tools,
            name=None if turn.tool_choice == "required" else turn.tool_choice,
            parallel=turn.parallel,
            prompt=prompt,
            thinking=thinking,
        ).copy
    if turn.schema is not None:
        return json_constraint(service.compiler, turn.schema, prompt, thinking).copy
    return None
