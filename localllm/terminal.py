"""What is said to a person: answers on stdout, notes and errors on stderr; and text from stdin."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import TextIO

from localllm.errors import LocalLLMError

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
# What a terminal would obey: C0 controls but tab and newline, delete, C1 controls.
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if code not in (9, 10)}
_LONGEST_ERROR = 600  # characters; more than any message has that quotes nothing very long


class Writer:
    """Answers go to `out`, everything else to `notes`.

    Thoughts are shown only where a person reads the answer; control characters of a model never
    reach a terminal.
    """

    def __init__(self, out: TextIO | None = None, notes: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._notes = sys.stderr if notes is None else notes
        self.interactive = self._out.isatty()
        self._colour = self.interactive and colour_allowed()
        self._thinking = False

    def piece(self, reasoning: str, content: str) -> None:
        """Show the next piece of an answer at once."""
        if reasoning and self.interactive:
            if not self._thinking:
                self._thinking = True
                self._out.write(_DIM if self._colour else "(thinking) ")
            self._out.write(printable(reasoning))
        if content:
            self._end_thinking()
            self._out.write(printable(content) if self.interactive else content)
        self._out.flush()

    def end(self) -> None:
        """End the answer with a line of its own."""
        self._end_thinking()
        self._out.write("\n")
        self._out.flush()

    def note(self, text: str) -> None:
        """Say something that is not part of an answer."""
        self._out.flush()
        dim = self._notes.isatty() and colour_allowed()
        text = printable(text)
        self._notes.write(f"{_DIM}{text}{_PLAIN}\n" if dim else f"{text}\n")
        self._notes.flush()

    def error(self, error: object) -> None:
        """Say what went wrong, in one line."""
        self.note(error_line(error))

    def _end_thinking(self) -> None:
        if self._thinking:
            self._thinking = False
            self._out.write(f"{_PLAIN}\n\n" if self._colour else " (answer)\n\n")


def colour_allowed() -> bool:
    """Whether the user lets programs use colours (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """The text without the control characters that a terminal would obey."""
    return text.translate(_CONTROLS)


def one_line(text: str) -> str:
    """The text in one printable line; bytes of a file's name that are no text are escaped."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return " ".join(printable(text).split())


def paragraph(text: str) -> str:
    """The text in lines that the terminal has room for; one line where there is no terminal."""
    if not sys.stdout.isatty():
        return text
    return textwrap.fill(text, max(20, shutil.get_terminal_size().columns - 1))


def error_line(error: object) -> str:
    """`error: …` in one printable line; where it quotes something very long, without the middle."""
    text = one_line(str(error))
    if len(text) > _LONGEST_ERROR:
        half = _LONGEST_ERROR // 2
        text = f"{text[:half]} … {text[-half:]}"
    return f"error: {text}"


def decode_utf8(data: bytes, before: int = 0) -> str:
    """Text of bytes that came from stdin after `before` others.

    Raises:
        LocalLLMError: they are not UTF-8; names the byte.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        at = before + error.start
        raise LocalLLMError(
            f"stdin is not valid UTF-8: byte {at} is 0x{data[error.start]:02x}",
            "convert the text first, for instance with iconv",
        ) from None
