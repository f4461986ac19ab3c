"""Where the lines of a chat come from: a person at a terminal, or a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, Protocol

from localllm.terminal import decode_utf8


class Reader(Protocol):
    """Gives one line a call; EOFError at the end, KeyboardInterrupt on Ctrl+C.

    Attributes:
        interactive: whether a person writes the lines as they are asked for.
    """

    interactive: bool

    def read(self, prompt: str) -> str:
        """The next line, without its end."""


class PipeReader:
    """Lines from a pipe or a file."""

    interactive = False

    def __init__(self, stream: BinaryIO | IO[bytes]) -> None:
        self._lines = _decoded_lines(stream)

    def read(self, prompt: str) -> str:
        """The next line; nothing is prompted for."""
        try:
            return next(self._lines)
        except StopIteration:
            raise EOFError from None


class TerminalReader:
    """Lines from a person, with history, editing and completion of commands."""

    interactive = True

    def __init__(self, history: Path | None, words: Iterable[str]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory, InMemoryHistory

        completer = WordCompleter(sorted(words), sentence=True)
        self._session: PromptSession[str] = PromptSession(
            history=FileHistory(str(history)) if _writable(history) else InMemoryHistory(),
            completer=completer,
            complete_while_typing=False,
            enable_history_search=True,
        )

    def read(self, prompt: str) -> str:
        """Ask for a line."""
        return self._session.prompt(prompt)


def _decoded_lines(stream: BinaryIO | IO[bytes]) -> Iterator[str]:
    before = 0
    for line in stream:
        yield decode_utf8(line, before).rstrip("\r\n")
        before += len(line)


def _writable(history: Path | None) -> bool:
    if history is None or not history.is_absolute():  # without a home there is no place for it
        return False
    try:
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch(mode=0o600)
    except OSError:
        return False
    return True
