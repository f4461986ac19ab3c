"""An engine that answers from a script, a reader of given lines, a writer into texts."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from localllm.decoding.params import GenerationParams
from localllm.engine.sequence import Stats
from localllm.errors import ContextFullError
from localllm.terminal import Writer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{% endif %}"
)


@dataclass
class FakeToken:
    id: int
    text: str
    finish_reason: str | None = None


class FakeTokenizer:
    """One token a character; id 1 begins a text, 2 ends it."""

    bos_id: int | None = 1
    eos_id: int | None = 2
    add_bos = False

    def encode(
        self,
        text: str,
        *,
        add_special: bool = True,
        parse_special: bool = False,
        stand_ins: Mapping[str, str] | None = None,
    ) -> list[int]:
        if parse_special:
            text = text.replace("<s>", "\1")
        for stand_in, meant in (stand_ins or {}).items():
            text = text.replace(stand_in, meant)
        begin = [1] if add_special and self.add_bos else []
        return begin + [ord(character) for character in text]

    def control_texts(self, text: str) -> list[str]:
        return ["<s>"] if "<s>" in text else []

    def token_bytes(self, token: int) -> bytes:
        return {1: b"<s>", 2: b"</s>"}.get(token) or chr(token).encode()


class FakeEngine:
    """Answers each prompt with the next of `answers`, a piece (or an exception) at a time."""

    def __init__(self, *answers: Sequence[Any], context: int = 1000) -> None:
        self.answers = list(answers)
        self.prompts: list[str] = []
        self.params: list[GenerationParams] = []
        self.tokenizer: Any = FakeTokenizer()
        self.context = context
        self.chat_template: str | None = CHATML
        self.closed = 0
        self.last_stats = Stats()

    def generate(self, prompt: Sequence[int], params: GenerationParams) -> Iterator[FakeToken]:
        if len(prompt) >= self.context:
            raise ContextFullError(f"the prompt has {len(prompt)} tokens, room for {self.context}")
        self.prompts.append("".join(map(chr, prompt)))
        self.params.append(params)
        return self._answer(self.answers.pop(0), len(prompt))

    def _answer(self, pieces: Sequence[Any], prompt: int) -> Iterator[FakeToken]:
        self.last_stats = Stats(
            prompt_tokens=prompt,
            cached_tokens=0,
            generated_tokens=len(pieces),
            prefill_seconds=0.5,
            decode_seconds=2.0,
            context_full=pieces[-1:] == ["FULL"],
        )
        try:
            for number, piece in enumerate(pieces):
                if isinstance(piece, BaseException):
                    raise piece
                if callable(piece):
                    piece = piece()
                last = number == len(pieces) - 1
                reason = {"FULL": "length", "CUT": "length"}.get(piece, "stop") if last else None
                text = "" if piece in ("FULL", "CUT") else piece
                yield FakeToken(number, text, reason)
        finally:
            self.closed += 1


class Lines:
    """Reads the given lines; an exception among them is raised."""

    def __init__(
        self, *lines: str | BaseException | type[BaseException], interactive: bool = True
    ) -> None:
        self._lines = list(lines)
        self.interactive = interactive

    def read(self, prompt: str) -> str:
        if not self._lines:
            raise EOFError
        line = self._lines.pop(0)
        if isinstance(line, str):
            return line
        raise line


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def writer(terminal: bool = False) -> tuple[Writer, io.StringIO, io.StringIO]:
    out = Terminal() if terminal else io.StringIO()
    notes = io.StringIO()
    return Writer(out, notes), out, notes


Action = Callable[[], str]
