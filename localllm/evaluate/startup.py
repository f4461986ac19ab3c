"""Start-up: seconds from the start of a process to its first token and to its end, and its memory.

Every measurement is a fresh Python process. For localllm the first start packs the weights into an
empty folder, the second maps them from there; the peer's starts are all alike. The contestants take
turns. The model file is in the system's file cache: a disk's speed is not measured.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import localllm
from localllm.errors import LocalLLMError
from localllm.evaluate.summary import summary
from localllm.files import temporary_folder
from localllm.ops.packed import SUFFIX

# Before anything is imported that could be found there, "" leaves the path: the current folder.
_CHILD = (
    "import sys; sys.path[:] = {path!r}; from localllm.evaluate.first_token import main; main()"
)


@dataclass(frozen=True)
class Start:
    """One process.

    Attributes:
        first_token: seconds from its start.
        exit: seconds from its start.
        memory: bytes that it held at most; 0: unknown.
        kept: packed weights lie in its folder at its end.
    """

    first_token: float
    exit: float
    memory: int
    kept: bool


def measure_startup(
    path: Path,
    file_bytes: int,
    threads: int,
    kv_type: str,
    repetitions: int,
    peer: str | None,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """A row for localllm's first and second start and for the peer's.

    Returns:
        Each with `contestant`, `start` ("first", "second", or "every"), `first_token_seconds` and
        `exit_seconds` (see `summary`), the median of `peak_memory_bytes` (None: unknown), and
        `peak_memory_to_file`, its ratio to the file's bytes; and whether packed weights were
        `kept` for the next start.

    Raises:
        LocalLLMError: a process failed; says why.
    """
    settings = (str(path), str(threads), kv_type)
    starts: dict[tuple[str, str], list[Start]] = {}
    for repetition in range(repetitions + 1):
        # The first round is not counted: it fills the system's file cache.
        say(f"start-up: {repetition} of {repetitions}" if repetition else "start-up: warming up")
        with temporary_folder() as folder:
            turns = [("localllm", "first"), ("localllm", "second")]
            if peer:  # last in the first round that counts, so that the rows come in that order
                turns.insert(2 * (repetition % 2), (peer, "every"))
            for contestant, start in turns:
                measured = _start(contestant, settings, folder)
                if repetition:
                    starts.setdefault((contestant, start), []).append(measured)
    return [_row(*names, measured, file_bytes) for names, measured in starts.items()]


def _start(contestant: str, settings: Sequence[str], folder: Path) -> Start:
    # What is imported is what would be here. Where this very package lies comes last, so that
    # nothing beside it hides a module.
    path = [*filter(None, sys.path), str(Path(localllm.__file__).parents[1])]
    command = [sys.executable, "-c", _CHILD.format(path=path), contestant, *settings, str(folder)]
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process:
            assert process.stdout is not None
            try:
                said = process.stdout.readline()
                first_token = time.perf_counter() - start
                memory = process.stdout.read()
                process.wait()
                end = time.perf_counter() - start
            except BaseException:  # a signal: nobody waits for the rest
                process.kill()
                raise
        if process.returncode or said.strip() != "token":
            errors.seek(0)
            lines = errors.read().strip().splitlines() or [f"exit code {process.returncode}"]
            raise LocalLLMError(f"start-up of {contestant}: {lines[-1]}")
    return Start(first_token, end, int(memory), any(folder.glob("*" + SUFFIX)))


def _row(contestant: str, start: str, starts: Sequence[Start], file_bytes: int) -> dict[str, Any]:
    memory = median(each.memory for each in starts) or None
    return {
        "contestant": contestant,
        "start": start,
        "first_token_seconds": summary([each.first_token for each in starts]),
        "exit_seconds": summary([each.exit for each in starts]),
        "peak_memory_bytes": memory,
        "peak_memory_to_file": memory and memory / file_bytes,
        "kept": all(each.kept for each in starts),
    }
