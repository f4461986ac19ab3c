"""What commands that run a model have in common: find it, load it, say so."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.cli.options import EngineOptions
from localllm.cli.settings import engine_arguments, settle
from localllm.errors import LocalLLMError
from localllm.hub.names import LocalModel, resolve
from localllm.terminal import decode_utf8, one_line

if TYPE_CHECKING:
    from localllm.engine.engine import Engine


def load_engine(
    model: LocalModel,
    options: EngineOptions,
    texts: int = 1,
    reserved: int = 0,
    adapter: str | None = None,
) -> tuple[Engine, float]:
    """The engine for a model with room for so many texts, and the seconds that loading took.

    It leaves the `reserved` bytes of the machine's memory to others. With an adapter, all that it
    answers is computed with that. What the model's alias sets comes below the options.
    """
    settled = settle(options, model.preset)
    arguments = engine_arguments(settled)
    adapter = adapter or model.preset.get("adapter")
    template = _template(model)
    draft = settled.draft or "lookup"
    small = resolve(draft) if draft not in ("lookup", "none") else None
    if draft != "lookup":
        arguments["drafter"] = None
    with progress(f"loading {model.name} …"):
        start = time.perf_counter()
        from localllm.engine.engine import Engine, require_drafts

        if small is not None:  # said before minutes are spent on loading
            require_drafts(settled.device or "cpu", settled.kv_cache is not False)
        engine = Engine.load(model.path, texts=texts, reserved=reserved, **arguments)
        if small is not None:
            engine.draft_with(Engine.load(small.path, **arguments | {"context": engine.context}))
        if adapter is not None:
            engine.default_adapter = engine.load_adapter(adapter).name
        if template is not None:
            engine.chat_template = template
        seconds = time.perf_counter() - start
    for note in engine.notes:
        print(f"note: {note}", file=sys.stderr)
    return engine, seconds


def _template(model: LocalModel) -> str | None:
    """The chat template that a model's alias sets."""
    path = model.preset.get("template")
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        hint = f"{model.name} has it as its template"
        raise LocalLLMError(f"{path}: {reason}", hint) from None


def find(name: str | None) -> LocalModel:
    """The model for a MODEL argument; `-` and nothing mean the bundled one."""
    return resolve(None if name in (None, "", "-") else name)


def read_stdin() -> str:
    """All of stdin as text.

    Raises:
        LocalLLMError: it is not UTF-8; names the byte.
    """
    return decode_utf8(sys.stdin.buffer.read())


class Progress:
    """One line on stderr that says what is under way; none where stderr is not a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._length = 0

    def say(self, text: str) -> None:
        """Replace the line."""
        if self._shown:
            text = one_line(text)[: shutil.get_terminal_size().columns - 1]
            print(f"\r{text:<{self._length}}", end="", file=sys.stderr, flush=True)
            self._length = len(text)

    def end(self) -> None:
        """Take the line away."""
        if self._length:
            print("\r" + " " * self._length + "\r", end="", file=sys.stderr, flush=True)


@contextmanager
def progress(text: str = "") -> Iterator[Progress]:
    """A line on stderr that can be replaced, and vanishes at the end."""
    line = Progress()
    line.say(text)
    try:
        yield line
    finally:
        line.end()
