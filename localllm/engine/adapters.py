"""The adapters that an engine's sequences may use: loaded, counted and dropped while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from weakref import WeakSet

from localllm.engine.machine import available_memory
from localllm.engine.runner import Runner
from localllm.engine.sequence import Sequence
from localllm.errors import LocalLLMError, UsageError
from localllm.models.adapters.loading import open_adapter
from localllm.models.blocks import Model
from localllm.units import in_bytes

MOST_NAME = 200  # characters


@dataclass(frozen=True, eq=False)
class Adapter:
    """A loaded adapter.

    Attributes:
        name: by which it is asked for.
        path: of its file or folder.
        rank: the largest of its weights.
        nbytes: memory it takes.
        number: the runner's, never given to another one.
    """

    name: str
    path: Path
    rank: int
    nbytes: int
    number: int
    users: WeakSet[Sequence] = field(default_factory=WeakSet, repr=False)


class Adapters(Mapping[str, Adapter]):
    """Adapters by name; any thread may ask.

    Args:
        runner: what computes with them.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._loaded: dict[str, Adapter] = {}
        self._lock = Lock()  # held while an adapter is added, dropped or taken into use

    def __getitem__(self, name: str) -> Adapter:
        """The adapter of that name.

        Raises:
            KeyError: there is none.
        """
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._loaded))

    def __len__(self) -> int:
        return len(self._loaded)

    def load(self, path: str | Path, name: str, model: Model) -> Adapter:
        """Load an adapter for the model that the runner has.

        Raises:
            UsageError: the name is taken, empty, too long, or not printable.
            ModelFileError: the adapter cannot be used with the model.
            LocalLLMError: there is too little memory, said before any is taken.
        """
        if not name:
            raise UsageError(f"adapter {path}: a name is needed")
        if len(name) > MOST_NAME or not name.isprintable():  # it stands in lines of logs
            raise UsageError(
                f"adapter name {name[:40]!r}: must be printable, at most {MOST_NAME} characters"
            )
        self._require_free(name)
        file = open_adapter(path, model)
        available = available_memory()
        if 2 * file.nbytes > available:  # as it is read, and as the runner keeps it
            raise LocalLLMError(
                f"{path}: not enough memory: the adapter needs {in_bytes(2 * file.nbytes)}; "
                f"{in_bytes(available)} are available"
            )
        terms = file.read()
        with self._lock:
            self._require_free(name)  # somebody else may have been quicker
            number = self._runner.add_adapter(terms)
            adapter = Adapter(name, file.path, file.rank, file.nbytes, number)
            self._loaded[name] = adapter
        return adapter

    def drop(self, name: str) -> None:
        """Forget an adapter and free its memory.

        Raises:
            UsageError: there is none of that name, or sequences use it.
        """
        with self._lock:
            adapter = self._known(name)
            count = sum(not sequence.ended for sequence in adapter.users)
            if count:
                raise UsageError(f"adapter {name!r}: in use by {count} texts under way")
            del self._loaded[name]
            self._runner.drop_adapter(adapter.number)

    def use(self, name: str, sequence: Sequence) -> None:
        """Let a sequence be computed with an adapter, which stays until the sequence has ended.

        Raises:
            UsageError: there is none of that name.
        """
        with self._lock:
            adapter = self._known(name)
            adapter.users.add(sequence)
            sequence.adapter = adapter.number

    def release(self, sequence: Sequence) -> None:
        """Note that a sequence goes on no more, whether or not it has ended."""
        with self._lock:
            for adapter in self._loaded.values():
                adapter.users.discard(sequence)

    def _require_free(self, name: str) -> None:
        if name in self._loaded:
            raise UsageError(f"adapter {name!r}: the name is taken")

    def _known(self, name: str) -> Adapter:
        if name not in self._loaded:
            raise UsageError(f"adapter {name!r}: none of that name is loaded")
        return self._loaded[name]
