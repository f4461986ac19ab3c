"""From a conversation to an answer: the prompt that the model's template makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from localllm.chat.answer import Answer, Engine
from localllm.chat.reasoning import TAGS
from localllm.chat.template import Message, RefusedError, TemplateError, load_template
from localllm.decoding.params import GenerationParams

_PRIVATE_USE = range(0xF0000, 0x10FFFE)  # code points that no text needs


class ChatSession:
    """An engine and its model's chat format.

    Attributes:
        template: the chat template; None: the model continues plain text.
        note: where the template does not come from the model, one line that says so.
        think: whether a reasoning model is asked to think; None: as its template has it.
    """

    def __init__(self, engine: Engine, think: bool | None = None) -> None:
        self.engine = engine
        self.think = think
        tokenizer = engine.tokenizer
        self.template, self.note = load_template(
            engine.chat_template,
            self._has_token,
            bos_token=self._text_of(tokenizer.bos_id),
            eos_token=self._text_of(tokenizer.eos_id),
        )

    def prompt(
        self, messages: Sequence[Message], *, continue_final: bool = False, **variables: Any
    ) -> str:
        """The text that the model is to continue; `variables` are further ones of the template.

        A template that refuses a system message gets it as the head of the first user message.
        With `continue_final` the text ends where the last message does, which then goes on.

        Raises:
            TemplateError: the conversation cannot be rendered.
        """
        if continue_final:
            whole = self.prompt(messages, **variables, add_generation_prompt=False)
            said = str(messages[-1]["content"]).strip()
            if said not in whole:
                raise TemplateError("the chat template does not show the last message as it is")
            return whole[: whole.rindex(said) + len(said)]
        if self.template is None:
            return "\n\n".join(str(message["content"]) for message in messages)
        if self.think is not None:
            variables = {"enable_thinking": self.think, **variables}
        try:
            return self.template.render(messages, **variables)
        except RefusedError:
            folded = _fold_system(messages)
            if folded is None:
                raise
            return self.template.render(folded, **variables)

    def encode(self, messages: Sequence[Message], **variables: Any) -> tuple[str, list[int]]:
        """The prompt (see ``prompt``) as text and as ids, one BOS in front where one is due.

        Special tokens that the template writes are parsed. A control token that a message or a tool
        spells out, such as `<|im_end|>`, stays text: while the template is rendered, a character
        that is not used otherwise stands in for it. Where that changes what the template makes of
        the message, the prompt is parsed as a whole.
        """
        tokenizer = self.engine.tokenizer
        prompt = text = self.prompt(messages, **variables)
        unused = (chr(code) for code in _PRIVATE_USE if chr(code) not in prompt)
        hide = dict(zip(self._controls([*messages, variables]), unused, strict=False))
        stand_ins = {stand_in: control for control, stand_in in hide.items()}
        if hide:
            hidden = [_with_texts_replaced(message, hide) for message in messages]
            rendered = self.prompt(hidden, **_replaced_within(variables, hide))
            if _replaced(rendered, stand_ins) == prompt:
                text = rendered
        ids = tokenizer.encode(text, add_special=False, parse_special=True, stand_ins=stand_ins)
        bos = tokenizer.bos_id
        if tokenizer.add_bos and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return prompt, ids

    def answer(self, messages: Sequence[Message], params: GenerationParams) -> Answer:
        """Start the answer to a conversation.

        Raises:
            TemplateError: the conversation cannot be rendered.
            ContextFullError: it does not fit (also raised where the answer is read).
        """
        prompt, ids = self.encode(messages)
        return Answer(self.engine.generate(ids, params), prompt, split=self.template is not None)

    @property
    def can_think(self) -> bool:
        """Whether the template has a switch for thinking."""
        return self.template is not None and self.template.knows("enable_thinking")

    def may_think(self, prompt: str) -> bool:
        """Whether the model may begin its answer to this prompt with reasoning by itself."""
        if self.template is None or any(prompt.rstrip().endswith(close) for _, close in TAGS):
            return False
        return any(self.template.knows(close) for _, close in TAGS)

    def _controls(self, given: Sequence[Mapping[str, Any]]) -> list[str]:
        """Texts of the control tokens that messages or tools spell out, the longest first."""
        find = self.engine.tokenizer.control_texts
        found = {control for text in _texts_within(given) for control in find(text)}
        return sorted(found, key=lambda control: (-len(control), control))

    def _has_token(self, text: str) -> bool:
        return len(self.engine.tokenizer.encode(text, add_special=False, parse_special=True)) == 1

    def _text_of(self, token: int | None) -> str:
        if token is None:
            return ""
        return self.engine.tokenizer.token_bytes(token).decode("utf-8", "replace")


def _with_texts_replaced(message: Message, replacements: Mapping[str, str]) -> Message:
    return {
        key: value if key == "role" else _replaced_within(value, replacements)
        for key, value in message.items()
    }


def _texts_within(value: Any) -> Iterator[str]:
    """All texts in nested JSON, names of fields among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (key, *_texts_within(inner))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts_within(inner)


def _replaced_within(value: Any, replacements: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _replaced(value, replacements)
    if isinstance(value, Mapping):
        return {
            _replaced(key, replacements): _replaced_within(inner, replacements)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_replaced_within(inner, replacements) for inner in value]
    return value


def _replaced(text: str, replacements: Mapping[str, str]) -> str:
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text


def _fold_system(messages: Sequence[Message]) -> list[Message] | None:
    """The messages with the system prompt put into the first question; None if there is none."""
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return None
    text = f"{messages[0]['content']}\n\n{messages[1]['content']}"
    return [{"role": "user", "content": text}, *messages[2:]]
