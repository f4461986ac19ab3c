"""The interactive session."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from localllm.chat.answer import Answer
from localllm.chat.commands import run_command
from localllm.chat.history import Conversation
from localllm.chat.readers import Reader
from localllm.chat.session import ChatSession
from localllm.decoding.params import GenerationParams
from localllm.errors import ContextFullError, LocalLLMError
from localllm.terminal import Writer

PROMPT, CONTINUED = ">>> ", "... "
QUOTES = '"""'


class Repl:
    """Reads lines, answers them, until the end of input.

    Args:
        session: engine and chat format.
        params: how tokens are chosen, until `/set` changes it.
        reader: where lines come from.
        writer: where answers and notes go.
        name: the model's name, kept in saved conversations.
        facts: one line about the model, for `/show`.
        system: system prompt.
    """

    def __init__(
        self,
        session: ChatSession,
        params: GenerationParams,
        reader: Reader,
        writer: Writer,
        *,
        name: str = "",
        facts: str = "",
        system: str | None = None,
    ) -> None:
        self.session = session
        self.params = self.first_params = params
        self.reader, self.writer = reader, writer
        self.name, self.facts = name, facts
        self.conversation = Conversation(system)

    def run(self) -> None:
        """Serve lines until `/bye`, Ctrl+D or Ctrl+C twice.

        Raises:
            KeyboardInterrupt: Ctrl+C where nobody sits at the prompt: the rest is not answered.
        """
        interrupted = False
        while True:
            try:
                text = self._message()
                interrupted = False
                if text.startswith("/") and "\n" not in text:
                    run_command(self, text)
                elif text.strip():
                    self.ask(text)
            except EOFError:  # also /bye
                return
            except KeyboardInterrupt:  # at the prompt, or in a command that takes long
                if not self.reader.interactive:
                    raise
                if interrupted:
                    return
                interrupted = True
                self.writer.note("(Ctrl+C again, Ctrl+D or /bye leaves)")

    def ask(self, text: str) -> None:
        """Answer one message; a failure is one line, and the conversation stays as it was."""
        self.conversation.ask(text)
        answer: Answer | None = None
        stopped = False
        with _Interrupt() as interrupt:
            try:
                answer = self.session.answer(self.conversation.messages, self.params)
                self._show(answer, interrupt)
                stopped = interrupt.seen
            except KeyboardInterrupt:
                stopped = True
            except ContextFullError as error:
                self.writer.error(error)
                self.writer.note("/clear forgets the conversation; --ctx gives the model more room")
            except LocalLLMError as error:
                self.writer.error(error)
            finally:
                self._keep(answer)
        if stopped:
            self.writer.note("(stopped)")
            if not self.reader.interactive:
                raise KeyboardInterrupt
        elif answer is not None and answer.finish_reason == "length":
            self.writer.note(self._why_it_ended())

    def _show(self, answer: Answer, interrupt: _Interrupt) -> None:
        """Stream an answer to its end, or to the token during which Ctrl+C was pressed."""
        try:
            for reasoning, content in answer:
                interrupt.gentle = True
                self.writer.piece(reasoning, content)
                if interrupt.seen:
                    return
        finally:
            answer.close()
            if answer.token_ids:
                self.writer.end()

    def _keep(self, answer: Answer | None) -> None:
        if answer is not None and (answer.content or answer.reasoning):
            self.conversation.answer(answer.content, answer.reasoning)
        elif answer is not None and answer.finish_reason == "stop":
            self.conversation.answer("")
        else:
            self.conversation.undo()

    def _why_it_ended(self) -> str:
        engine = self.session.engine
        if not engine.last_stats.context_full:
            return f"(ended after {self.params.max_tokens} tokens: max_tokens)"
        return (
            f"(the context is full: {engine.context:,} tokens. /clear starts afresh, "
            "a larger --ctx gives more room)"
        )

    def _message(self) -> str:
        """The next line, or the lines between triple quotes."""
        line = self.reader.read(PROMPT).rstrip()
        if not line.lstrip().startswith(QUOTES):
            return line.lstrip()
        lines = [line.lstrip()[len(QUOTES) :]]
        while not lines[-1].rstrip().endswith(QUOTES):
            try:
                lines.append(self.reader.read(CONTINUED))
            except EOFError:
                return "\n".join(lines).strip("\n")
        lines[-1] = lines[-1].rstrip()[: -len(QUOTES)]
        return "\n".join(lines).strip("\n")


class _Interrupt:
    """Ctrl+C while an answer is made.

    Before the first token it breaks in at once, since a long prompt may take minutes; after that
    it is only noted, so that the engine ends between two tokens; the second press breaks in.
    """

    def __init__(self) -> None:
        self.seen = False
        self.gentle = False

    def __enter__(self) -> _Interrupt:
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            self._before = signal.signal(signal.SIGINT, self._pressed)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._active:
            signal.signal(signal.SIGINT, self._before)

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        if self.seen or not self.gentle:
            raise KeyboardInterrupt
        self.seen = True
