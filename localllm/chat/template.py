"""The model's own chat template: from messages to the text of the prompt."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2

from localllm.chat.formats import WELL_KNOWN
from localllm.chat.sandbox import BoundedEnvironment, Budget, TemplateRefusal, budget
from localllm.errors import LocalLLMError

Message = Mapping[str, Any]

_LONGEST_SOURCE = 200_000
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


class TemplateError(LocalLLMError):
    """A chat template that cannot be compiled or rendered; names the line in it."""


class RefusedError(TemplateError):
    """The template itself refuses the conversation (`raise_exception`)."""


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja text, as in the `tokenizer.chat_template` field.
        bos_token: text of the token that begins a prompt, as the template's `bos_token`.
        eos_token: likewise, the end.

    Raises:
        TemplateError: the template is not valid Jinja.
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        if len(source) > _LONGEST_SOURCE:
            raise TemplateError(f"the chat template has {len(source):,} characters: too many")
        self.source = source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        try:
            self._template = BoundedEnvironment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"chat template, line {error.lineno}: {error.message}") from error
        except (RecursionError, MemoryError, SyntaxError, ValueError) as error:
            raise TemplateError(f"the chat template nests too deeply ({error})") from error

    def knows(self, variable: str) -> bool:
        """Whether the template mentions a variable, such as `enable_thinking`."""
        return variable in self.source

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The text of the prompt for a conversation.

        Args:
            messages: `{"role": …, "content": …}`, also `tool_calls`, `reasoning_content`.
            tools: JSON schemas of the functions that the model may call.
            add_generation_prompt: end where the model's answer begins.
            variables: further variables of the template, such as `enable_thinking`.

        Raises:
            RefusedError: the template does not accept this conversation.
            TemplateError: the template fails; names the line.
        """
        given = {
            **self._tokens,
            **_plain(variables),
            "messages": [_with_reasoning(_plain(message)) for message in messages],
            "tools": _plain(tools),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        token = budget.set(Budget(_size(given)))
        try:
            return self._template.render(given)
        except TemplateRefusal as error:
            raise RefusedError(
                f"the model's chat template refuses this conversation: {error}"
            ) from error
        except RecursionError as error:
            raise TemplateError(f"chat template{_line(error)}: it recurses without end") from error
        except Exception as error:  # a template can fail in any way that Python can
            reason = str(error) or type(error).__name__
            raise TemplateError(f"chat template{_line(error)}: {reason}") from error
        finally:
            budget.reset(token)


def load_template(
    source: str | None,
    has_token: Callable[[str], bool],
    *,
    bos_token: str = "",
    eos_token: str = "",
) -> tuple[ChatTemplate | None, str]:
    """The template to use for a model, and a note where it is not the model's own.

    Args:
        source: the file's template, the name of a well-known one, or None.
        has_token: whether a text is one token of the vocabulary; well-known formats are told by it.
        bos_token: text of the token that begins a prompt.
        eos_token: text of the token that ends one.

    Returns:
        The template (None: the model is given plain text) and the note (empty: the model's own).
    """
    tokens = {"bos_token": bos_token, "eos_token": eos_token}
    named = (source or "").strip()
    if named and named not in WELL_KNOWN:
        return ChatTemplate(str(source), **tokens), ""
    for name, (markers, text) in WELL_KNOWN.items():
        if name == named:
            return ChatTemplate(text, **tokens), f"chat format {name}, by its name in the file"
        if not named and markers and all(has_token(marker) for marker in markers):
            note = f"the model has no chat template; its tokens suggest {name}, which is used"
            return ChatTemplate(text, **tokens), note
    return None, "the model has no chat template: it continues the plain text"


def _plain(value: Any) -> Any:
    """A copy made of JSON types only: a template meets no object with methods of its own."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return f"<{type(value).__name__}>"


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Give a message's reasoning all the names that templates read it by."""
    for field in _REASONING_FIELDS:
        if message.get(field) is not None:
            return {"thinking": message[field], **message, "reasoning_content": message[field]}
    return message


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values())) + sum(map(len, value))
    return sum(map(_size, value)) if isinstance(value, list) else 1


def _line(error: BaseException) -> str:
    """`, line N` of the innermost frame that stands in the template."""
    lines = [
        number
        for frame, number in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == "<template>"
    ]
    return f", line {lines[-1]}" if lines else ""
