"""The body of `POST /v1/responses`: https://platform.openai.com/docs/api-reference/responses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from localllm.chat.structured import ANY_OBJECT
from localllm.server.body import Body, JsonObject, ListOf, Off, Variables
from localllm.server.conversation import Conversation
from localllm.server.sampling import (
    MOST_LIKELY,
    Effort,
    Sampling,
    effort_variables,
)
from localllm.server.turns import Turn

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(Body):
    """A piece of what was said to the model."""

    type: Literal["input_text"]
    text: str


class OutputText(Body):
    """A piece of what it answered; the model reads again only the text."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class ReasoningText(Body):
    """A piece of what it thought."""

    type: Literal["reasoning_text"]
    text: str


def _as_parts(content: Any) -> Any:
    """A text is short for one part: errors then name the place, and not both forms."""
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


Parts = Annotated[
    ListOf[Annotated[InputText | OutputText, Discriminator("type")]],
    BeforeValidator(_as_parts, json_schema_input_type=str | list[InputText | OutputText]),
]


class MessageItem(Body):
    """Something that was said."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts
    id: str | None = None
    status: Status | None = None
    phase: None = None

    def add_to(self, conversation: Conversation) -> None:
        """Put it at the end."""
        role = "system" if self.role == "developer" else self.role
        conversation.add(role, _text(self.content))


class ReasoningItem(Body):
    """What the model thought before the items that follow."""

    type: Literal["reasoning"]
    id: str | None = None
    content: ListOf[ReasoningText] | None = None
    summary: Annotated[list[Any], Field(max_length=0)] | None = None
    encrypted_content: None = None
    status: Status | None = None

    def add_to(self, conversation: Conversation) -> None:
        """Put it at the end."""
        conversation.think(_text(self.content or []))


class FunctionCallItem(Body):
    """A function that the model called."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None

    def add_to(self, conversation: Conversation) -> None:
        """Put it at the end."""
        conversation.call(self.call_id, self.name, self.arguments)


class FunctionOutputItem(Body):
    """What the function returned."""

    type: Literal["function_call_output"]
    call_id: str
    output: Parts
    id: str | None = None
    status: Status | None = None

    def add_to(self, conversation: Conversation) -> None:
        """Put it at the end."""
        conversation.result(self.call_id, _text(self.output))


def _kind(item: Any) -> Any:
    kind = item.get("type", "message") if isinstance(item, Mapping) else getattr(item, "type", None)
    return kind if isinstance(kind, str) else "message"


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionOutputItem, Tag("function_call_output")],
    Discriminator(_kind),
]


def _as_items(given: Any) -> Any:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


class FunctionTool(Body):
    """A function that the model may call."""

    type: Literal["function"]
    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None

    @property
    def plain(self) -> dict[str, Any]:
        """As the chat API describes it."""
        function = self.model_dump(exclude={"type"}, exclude_unset=True)
        return {"type": "function", "function": function}


class NamedFunction(Body):
    """The function that is to be called."""

    type: Literal["function"]
    name: str


class TextFormat(Body):
    """The form of the answer's text; a schema is enforced in any case."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    json_schema: Annotated[JsonObject | None, Field(alias="schema")] = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> TextFormat:
        if (self.type == "json_schema") == (self.json_schema is None):
            raise PydanticCustomError("schema", "type json_schema has a schema, no other one has")
        return self

    @property
    def wanted(self) -> Mapping[str, Any] | None:
        """The JSON schema of the answer; None: any text."""
        return ANY_OBJECT if self.type == "json_object" else self.json_schema


class TextConfig(Body):
    """What is wished of the answer's text."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(Body):
    """How much the model thinks; it is told whole, and not in a summary, which "auto" may mean."""

    effort: Effort | None = None
    summary: Literal["auto"] | None = None
    generate_summary: Literal["auto"] | None = None


class StreamOptions(Body):
    """Nothing is mixed into the events."""

    include_obfuscation: Off | None = None


class ResponsesRequest(Sampling):
    """The whole of it."""

    input: Annotated[
        ListOf[Item],
        Field(min_length=1),
        BeforeValidator(_as_items, json_schema_input_type=str | list[Item]),
    ]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: str | ListOf[str] | None = None
    tools: ListOf[FunctionTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: None = None
    text: TextConfig | None = None
    reasoning: Reasoning | None = None
    chat_template_kwargs: Variables | None = None
    # Reasoning goes back to the model as it came: it is not encrypted.
    include: (
        ListOf[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None
    ) = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LIKELY)] | None = None
    truncation: Literal["disabled"] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: Off | None = None
    previous_response_id: None = None
    conversation: None = None
    background: Off | None = None
    service_tier: Literal["auto", "default"] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None  # every prefix is cached anyway

    @field_validator("store", "previous_response_id", "conversation", mode="before")
    @classmethod
    def _stateless(cls, given: Any) -> Any:
        if given:
            raise PydanticCustomError(
                "stateless", "nothing is stored here: send the whole conversation as input"
            )
        return given

    @property
    def limit(self) -> int | None:
        """See `Sampling`."""
        return self.max_output_tokens

    @property
    def stops(self) -> str | list[str] | None:
        """See `Sampling`."""
        return self.stop

    @property
    def chosen(self) -> str:
        """The choice of tools, as `Turn` has it."""
        choice = self.tool_choice or "auto"
        return choice.name if isinstance(choice, NamedFunction) else choice

    def turn(self, recommended: dict[str, Any]) -> Turn:
        """What is asked, over what the model's file recommends."""
        conversation = Conversation()
        if self.instructions:
            conversation.add("system", self.instructions)
        for item in self.input:
            item.add_to(conversation)
        form = self.text.format if self.text else None
        effort = self.reasoning.effort if self.reasoning else None
        told = (
            "message.output_text.logprobs" in (self.include or []) or self.top_logprobs is not None
        )
        return Turn(
            messages=conversation.messages,
            params=self.params(recommended),
            variables=effort_variables(effort) | (self.chat_template_kwargs or {}),
            schema=form.wanted if form else None,
            context=self.num_ctx,
            logprobs=(self.top_logprobs or 0) if told else None,
            tools=[tool.plain for tool in self.tools or []],
            tool_choice=self.chosen,
            parallel=self.parallel_tool_calls is not False,
        )


def _text(parts: list[Any]) -> str:
    return "".join(part.text for part in parts)
