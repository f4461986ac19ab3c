"""Fetching a model, with bars and questions: for `pull` and for commands that need one first."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.cli.loading import find
from localllm.errors import LocalLLMError, UsageError
from localllm.hub.names import LocalModel, NotHereError, downloadable
from localllm.hub.user_models import known_models
from localllm.terminal import one_line
from localllm.units import in_bytes

if TYPE_CHECKING:
    from localllm.hub.listing import RemoteModel
    from localllm.hub.pull import Pulled


_YES = ("", "y", "yes")


def find_or_pull(name: str | None) -> LocalModel:
    """The model for a MODEL argument; one that is not here is downloaded, if a person agrees."""
    try:
        return find(name)
    except NotHereError as error:
        if not asks() or ask(f"{error.message}. {_offer(error.name)} [Y/n]").lower() not in _YES:
            raise
        pull_model(error.name, fit=False)
    return find(name)


def _offer(name: str) -> str:
    known = known_models().get(name.lower())
    return f"Download {in_bytes(known.bytes)}?" if known else "Download it?"


def pull_model(name: str, fit: bool) -> Pulled:
    """Bring the model of a NAME to this machine.

    Args:
        name: see `localllm.hub.references.parse`; or an alias.
        fit: of several quantisations take the best that fits this machine's memory.

    Raises:
        UsageError: the name is none, or several quantisations are left to choose from.
        LocalLLMError: the download failed; says whether it can be gone on with.
    """
    wanted, default = downloadable(name)

    from localllm.hub.pull import pull

    with _bars() as bars:

        def pick(repository: str, models: Sequence[RemoteModel]) -> RemoteModel:
            with bars.hidden():
                return _pick(repository, models, fit)

        # With --fit what fits is asked for even where the default is there.
        return pull(wanted, "" if fit else default, pick, _convert, bars)


def _pick(repository: str, models: Sequence[RemoteModel], fit: bool) -> RemoteModel:
    from localllm.hub.listing import best_fitting, listed

    if fit:
        from localllm.engine.machine import available_memory

        memory = available_memory()
        best = best_fitting(models, memory)
        if best is None:
            hint = f"it has {listed(models)}"
            raise LocalLLMError(f"nothing of {repository} fits {in_bytes(memory)} of memory", hint)
        return best
    if not asks():
        hint = f"{repository}:QUANT takes one, --fit the best that fits the memory"
        raise UsageError(f"{repository} has {listed(models)}", hint)
    for number, model in enumerate(models, 1):
        note = "" if model.runnable else "  (does not run here)"
        print(f"{number:>3}  {model.label:<12} {in_bytes(model.bytes):>8}{note}", file=sys.stderr)
    while answer := ask(f"Which one of {repository}? [1-{len(models)}]"):
        for number, model in enumerate(models, 1):
            if answer.upper() in (str(number), model.label.upper()):
                return model
        print(f"{one_line(answer)} is none of them", file=sys.stderr)
    raise UsageError("none was chosen", f"{repository}:QUANT takes one")


def _convert(folder: Path, output: Path, kind: str) -> None:
    """Make a GGUF file of a checkpoint."""
    from localllm.convert import convert_checkpoint

    convert_checkpoint(folder, output, type=kind)


def asks() -> bool:
    """Whether there is a person to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str) -> str:
    """A line from the person at the terminal; stdout is left to the answer of the command."""
    print(one_line(question), end=" ", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


class Bars:
    """A bar for each file, on stderr; nothing where that is no terminal.

    It is what `localllm.hub.transfer.Watch` asks for.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, Any] = {}

    def say(self, text: str) -> None:
        """Something is waited for, in one line."""
        if not self.progress.disable:
            self.progress.console.print(one_line(text), style="dim", markup=False, highlight=False)

    def moved(self, file: str, done: int, total: int) -> None:
        """So many of a file's bytes are here."""
        self._show(file, file, done, total)

    def checked(self, file: str, done: int, total: int) -> None:
        """So many of a file's bytes were read again, to verify them."""
        self._show(f"{file} again", f"verifying {file}", done, total)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Leave the terminal to a question."""
        self.progress.stop()
        try:
            yield
        finally:
            self.progress.start()

    def _show(self, key: str, text: str, done: int, total: int) -> None:
        if key not in self._tasks:
            name = one_line(text.rpartition("/")[2] if key == text else text)
            self._tasks[key] = self.progress.add_task(name, total=total, completed=done)
        self.progress.update(self._tasks[key], completed=done)


@contextmanager
def _bars() -> Iterator[Bars]:
    bars = Bars()
    with bars.progress:
        yield bars
