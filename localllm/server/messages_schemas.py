"""The bodies of `POST /v1/messages` and its `count_tokens`: https://docs.anthropic.com/en/api."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, field_validator
from pydantic_core import PydanticCustomError

from localllm.decoding.params import GenerationParams
from localllm.server.body import Body, JsonObject, ListOf, Variables
from localllm.server.conversation import Conversation
from localllm.server.sampling import MOST_STOPS, Sampling
from localllm.server.turns import Turn


class CacheControl(Body):
    """A wish to keep the prompt up to here; every prefix is cached anyway."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class Cached(Body):
    """What can be marked so."""

    cache_control: CacheControl | None = None


class TextBlock(Cached):
    """Something said."""

    type: Literal["text"]
    text: str
    citations: None = None


class ThinkingBlock(Body):
    """What the model thought; its signature is not asked for."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Body):
    """What another model thought, which only that one can read: it is left out."""

    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(Cached):
    """A tool that the model used."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: JsonObject


def _as_blocks(content: Any) -> Any:
    """A text is short for one block: errors then name the place, and not both forms."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Texts = Annotated[
    ListOf[TextBlock], BeforeValidator(_as_blocks, json_schema_input_type=str | list[TextBlock])
]


class ToolResultBlock(Cached):
    """What the tool gave."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Texts | None = None
    is_error: bool | None = None

    @property
    def text(self) -> str:
        """What the model reads."""
        text = _joined(self.content or [])
        return f"Error: {text}" if self.is_error else text


UserBlock = Annotated[TextBlock | ToolResultBlock, Discriminator("type")]
AssistantBlock = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock, Discriminator("type")
]


class UserMessage(Body):
    """What the user says, and what tools gave."""

    role: Literal["user"]
    content: Annotated[
        ListOf[UserBlock],
        Field(min_length=1),
        BeforeValidator(_as_blocks, json_schema_input_type=str | list[UserBlock]),
    ]

    def add_to(self, conversation: Conversation) -> None:
        """Put it at the end."""
        for block in self.content:
            if isinstance(block, TextBlock):
                conversation.add("user", block.text)
            else:
                conversation.result(block.tool_use_id, block.text)


class AssistantMessage(Body):
    """What the model said before."""

    role: Literal["assistant"]
    content: Annotated[
        ListOf[AssistantBlock],
        BeforeValidator(_as_blocks, json_schema_input_type=str | list[AssistantBlock]),
    ]

    def add_to(self, conversation: Conversation) -> None:
        """Put it at the end."""
        for block in self.content:
            if isinstance(block, TextBlock):
                conversation.add("assistant", block.text)
            elif isinstance(block, ThinkingBlock):
                conversation.think(block.thinking)
            elif isinstance(block, ToolUseBlock):
                arguments = json.dumps(block.input, ensure_ascii=False)
                conversation.call(block.id, block.name, arguments)


class SystemMessage(Body):
    """Instructions along the way."""

    role: Literal["system"]
    content: Texts

    def add_to(self, conversation: Conversation) -> None:
        """Put it at the end."""
        conversation.add("system", _joined(self.content))


Message = Annotated[UserMessage | AssistantMessage | SystemMessage, Discriminator("role")]


class Tool(Cached):
    """A tool that the model may use."""

    type: Literal["custom"] | None = None
    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    input_schema: JsonObject
    strict: bool | None = None

    @property
    def plain(self) -> dict[str, Any]:
        """As OpenAI's chat API describes it."""
        function: dict[str, Any] = {"name": self.name, "parameters": self.input_schema}
        given = {"description": self.description, "strict": self.strict}
        function |= {name: value for name, value in given.items() if value is not None}
        return {"type": "function", "function": function}


class ToolChoice(Body):
    """Whether tools are used."""

    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool | None = None

    @property
    def plain(self) -> str:
        """As `Turn` has it."""
        return "required" if self.type == "any" else self.type


class NamedTool(Body):
    """The tool that is to be used."""

    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = None

    @property
    def plain(self) -> str:
        """As `Turn` has it."""
        return self.name


class ThinkingOn(Body):
    """The model thinks; nothing but `max_tokens` limits how long."""

    type: Literal["enabled"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None


class ThinkingLeft(Body):
    """It does not think, or as it likes."""

    type: Literal["disabled", "adaptive"]


class OutputFormat(Body):
    """The form of the answer's text."""

    type: Literal["json_schema"]
    json_schema: Annotated[JsonObject, Field(alias="schema")]


class OutputConfig(Body):
    """What is wished of the answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class Asked(Cached):
    """A conversation, and how it goes on."""

    messages: Annotated[ListOf[Message], Field(min_length=1)]
    system: Texts | None = None
    tools: ListOf[Tool] | None = None
    tool_choice: Annotated[ToolChoice | NamedTool, Discriminator("type")] | None = None
    thinking: Annotated[ThinkingOn | ThinkingLeft, Discriminator("type")] | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: Variables | None = None

    @field_validator("messages")
    @classmethod
    def _ends_with_the_user(cls, messages: list[Message]) -> list[Message]:
        if messages[-1].role == "assistant":
            raise PydanticCustomError(
                "prefill", "the last one must be the user's: no answer is begun for the model"
            )
        return messages

    @property
    def variables(self) -> dict[str, Any]:
        """Further variables of the template; as in Anthropic's API none thinks unasked."""
        wanted = self.thinking.type if self.thinking else "disabled"
        variables: dict[str, Any] = {}
        if wanted != "adaptive":
            variables["enable_thinking"] = wanted == "enabled"
        if self.output_config and self.output_config.effort:
            variables["reasoning_effort"] = self.output_config.effort
        return variables | (self.chat_template_kwargs or {})

    def as_turn(self, params: GenerationParams, context: int | None = None) -> Turn:
        """What is asked, in no API's words."""
        conversation = Conversation()
        if self.system:
            conversation.add("system", _joined(self.system))
        for message in self.messages:
            message.add_to(conversation)
        form = self.output_config.format if self.output_config else None
        choice = self.tool_choice
        return Turn(
            messages=conversation.messages,
            params=params,
            variables=self.variables,
            schema=form.json_schema if form else None,
            context=context,
            tools=[tool.plain for tool in self.tools or []],
            tool_choice=choice.plain if choice else "auto",
            parallel=not (choice and choice.disable_parallel_tool_use),
        )


class CountRequest(Asked):
    """`POST /v1/messages/count_tokens`."""

    model: str | None = None


class UserData(Body):
    """Whom the answer is for."""

    user_id: str | None = None


class MessagesRequest(Asked, Sampling):
    """`POST /v1/messages`."""

    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: (
        Annotated[
            ListOf[Annotated[str, Field(min_length=1)]],
            Field(max_length=MOST_STOPS),
        ]
        | None
    ) = None
    stream: bool | None = None
    metadata: UserData | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    @property
    def limit(self) -> int | None:
        """See `Sampling`."""
        return self.max_tokens

    @property
    def stops(self) -> list[str] | None:
        """See `Sampling`."""
        return self.stop_sequences

    def turn(self, recommended: dict[str, Any]) -> Turn:
        """What is asked, over what the model's file recommends."""
        return self.as_turn(self.params(recommended), self.num_ctx)


def _joined(blocks: list[TextBlock]) -> str:
    return "\n\n".join(block.text for block in blocks)
