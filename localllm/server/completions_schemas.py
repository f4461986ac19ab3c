"""The bodies of chat completions and completions: https://platform.openai.com/docs/api-reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from localllm.chat.structured import ANY_OBJECT
from localllm.server.body import Body, Ids, JsonObject, ListOf, Off, Variables
from localllm.server.errors import ApiError
from localllm.server.sampling import MOST_LIKELY, Effort, Sampling, effort_variables

MOST_CHOICES = 16  # to one prompt
MOST_PROMPTS = 64  # of one request


class TextPart(Body):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


def _as_parts(content: Any) -> Any:
    """A text is short for one part: errors then name the place, and not both forms."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class CalledFunction(Body):
    """What a call calls."""

    name: str
    arguments: str  # JSON


class MessageCall(Body):
    """A call of a tool that the assistant made."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None  # as streams have it


class ChatMessage(Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        Annotated[
            ListOf[TextPart],
            BeforeValidator(_as_parts, json_schema_input_type=str | list[TextPart]),
        ]
        | None
    ) = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: ListOf[MessageCall] | None = None
    tool_call_id: str | None = None
    # What the official clients' own messages hold where there is nothing.
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    def plain(self) -> dict[str, Any]:
        """The message as templates take it."""
        content = "".join(part.text for part in self.content or [])
        role = "system" if self.role == "developer" else self.role
        message: dict[str, Any] = {"role": role, "content": content}
        if self.name is not None:
            message["name"] = self.name
        if (thought := self.reasoning_content or self.reasoning) is not None:
            message["reasoning_content"] = thought
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump(exclude={"index"}) for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


class Function(Body):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool that the model may use."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """A function by its name."""

    name: str


class NamedTool(Body):
    """The tool that the model has to use."""

    type: Literal["function"]
    function: NamedFunction


class StreamOptions(Body):
    """What a stream tells besides the answer."""

    include_usage: bool = False
    include_obfuscation: Off | None = None


class Generation(Sampling):
    """What the completions of both kinds may ask."""

    max_tokens: int | None = None
    stop: str | ListOf[str] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None  # every prefix is cached anyway
    metadata: dict[str, str] | None = None
    store: Off | None = None
    service_tier: Literal["auto", "default"] | None = None

    @property
    def limit(self) -> int | None:
        """See `Sampling`."""
        return self.max_tokens

    @property
    def stops(self) -> str | list[str] | None:
        """See `Sampling`."""
        return self.stop

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk that counts the tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class NamedSchema(Body):
    """A JSON schema, as `response_format` has it; it is enforced in any case."""

    name: str | None = None
    description: str | None = None
    json_schema: JsonObject = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: NamedSchema | None = None

    @property
    def wanted(self) -> Mapping[str, Any] | None:
        """The JSON schema of the answer; None: any text."""
        if self.type == "json_schema":
            if self.json_schema is None:
                raise ApiError(400, "response_format.json_schema: is missing", "response_format")
            return self.json_schema.json_schema
        return ANY_OBJECT if self.type == "json_object" else None


class ChatRequest(Generation):
    """`POST /v1/chat/completions`."""

    messages: Annotated[ListOf[ChatMessage], Field(min_length=1)]
    max_completion_tokens: int | None = None
    response_format: ResponseFormat = ResponseFormat()
    tools: ListOf[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool = True
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LIKELY)] = 0
    reasoning_effort: Effort | None = None
    verbosity: Literal["medium"] | None = None
    modalities: ListOf[Literal["text"]] | None = None
    chat_template_kwargs: Variables | None = None
    continue_final_message: bool = False

    @property
    def limit(self) -> int | None:
        """See `Sampling`."""
        given = self.max_completion_tokens
        return self.max_tokens if given is None else given

    @property
    def continues(self) -> bool:
        """Whether the last message is to go on; ApiError where it is not the assistant's."""
        if self.continue_final_message and self.messages[-1].role != "assistant":
            text = "continue_final_message: the last message is not the assistant's"
            raise ApiError(400, text, "continue_final_message", "invalid_value")
        return self.continue_final_message

    @property
    def variables(self) -> dict[str, Any]:
        """Further variables of the template."""
        return effort_variables(self.reasoning_effort) | (self.chat_template_kwargs or {})

    @property
    def choice(self) -> str:
        """As `Turn.tool_choice`."""
        chosen = self.tool_choice
        return chosen if isinstance(chosen, str) else chosen.function.name


class CompletionRequest(Generation):
    """`POST /v1/completions`."""

    prompt: (
        str
        | Annotated[Ids, Field(min_length=1)]
        | Annotated[ListOf[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Annotated[ListOf[Ids], Field(min_length=1, max_length=MOST_PROMPTS)]
    )
    max_tokens: int | None = 16  # OpenAI's own
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=MOST_LIKELY)] | None = None
    suffix: None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each text or list of ids to continue."""
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)  # type: ignore[arg-type]

    @property
    def only_echo(self) -> bool:
        """Whether the prompts are wanted back and nothing after them: what evaluations ask."""
        return self.echo and self.max_tokens == 0

    @property
    def limit(self) -> int | None:
        """See `Sampling`; where only the prompts are wanted, one is drawn and dropped."""
        return 1 if self.only_echo else self.max_tokens
