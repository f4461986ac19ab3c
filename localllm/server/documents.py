"""What routes answer with, as `/openapi.json` describes it.

The answers themselves are plain dictionaries; tests compare them with these models.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class Fault(BaseModel):
    """What is wrong, and what to do."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failure(BaseModel):
    """A request that was not answered."""

    error: Fault


class MessagesFault(BaseModel):
    """What is wrong, and what to do."""

    type: str
    message: str


class MessagesFailure(BaseModel):
    """A request that was not answered, as Anthropic has it."""

    type: Literal["error"]
    error: MessagesFault


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"]


class Model(BaseModel):
    """A model that can be asked for; how long its texts may be is known once it is loaded."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    loaded: bool
    context_length: int | None = None


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class Tokens(BaseModel):
    """Token ids."""

    tokens: list[int]


class Text(BaseModel):
    """A text."""

    content: str


class Prompt(BaseModel):
    """What a model continues."""

    prompt: str


class CachedTokens(BaseModel):
    """Tokens of the prompt that had been computed before."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class CalledFunction(BaseModel):
    """What a call calls; the arguments are JSON."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(BaseModel):
    """What the model says."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None


class LikelyToken(BaseModel):
    """A token, its log-probability, and its bytes."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenToken(LikelyToken):
    """A token of the answer, and the likeliest ones at its place."""

    top_logprobs: list[LikelyToken]


class ChatLogprobs(BaseModel):
    """Of each token of an answer."""

    content: list[ChosenToken]


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(BaseModel):
    """The answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    timings: dict[str, float]


class CompletionLogprobs(BaseModel):
    """Of each token of a text; of the first one nothing is known."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One text."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    """How texts go on."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    timings: dict[str, float]


class Vector(BaseModel):
    """One text's vector: numbers, or float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class VectorUsage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """A vector for each text."""

    object: Literal["list"]
    model: str
    data: list[Vector]
    usage: VectorUsage


class ResponseUsage(BaseModel):
    """Tokens of a request."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class ResponseDocument(BaseModel):
    """An answer, in items: reasoning, messages, calls of functions."""

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Literal["completed", "incomplete"]
    output: list[dict[str, Any]]
    usage: ResponseUsage


class MessageUsage(BaseModel):
    """Tokens of a request."""

    input_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int
    output_tokens: int


class MessageDocument(BaseModel):
    """An answer, in blocks: thinking, text, uses of tools."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal[
        "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
    ]
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(BaseModel):
    """Tokens of a prompt."""

    input_tokens: int
