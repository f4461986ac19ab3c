"""Texts computed for what the model makes of their tokens; nothing is drawn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from localllm.engine.batch import Batch
from localllm.engine.pages import PagePool, Table
from localllm.engine.runner import Rows
from localllm.engine.scheduler import Chunk
from localllm.engine.sequence import Sequence
from localllm.errors import LocalLLMError


class Reader:
    """Computes texts side by side, a step at a time; other sequences may be stepped in between.

    A text has all of its pages or none, and at most one is begun and not done between two steps: so
    two readers never wait for each other.

    Args:
        pool: gives the pages.
        compute: the outputs of a batch.
        texts: each fits the context; read in order.
        room: tokens that the next step may have.

    Attributes:
        waiting: texts that are not read to the end.
    """

    def __init__(
        self,
        pool: PagePool,
        compute: Callable[[Batch], Rows],
        texts: Iterable[Sequence],
        room: Callable[[], int],
    ) -> None:
        self.waiting = deque(texts)
        self._pool = pool
        self._compute = compute
        self._room = room
        self._broken = False

    @property
    def tables(self) -> list[Table]:
        """The tables that hold pages."""
        return [sequence.table for sequence in self.waiting if sequence.table.pages]

    def step(self) -> list[tuple[Sequence, Rows]]:
        """Compute the next tokens: of each text that had some, their outputs float32[n, width].

        Raises:
            OutOfPagesError: others hold the pages; nothing was changed.
        """
        if self._broken:
            raise LocalLLMError("the computation was interrupted")
        chunks = self._plan()
        outputs = self._compute(Batch.of(chunks, every_row=True))
        parts, start = [], 0
        for chunk in chunks:
            sequence = chunk.sequence
            parts.append((sequence, outputs[start : start + chunk.count]))
            start += chunk.count
            sequence.computed += chunk.count
            if not sequence.missing:
                self.waiting.popleft()
                self._pool.release(sequence.table)
        return parts

    def close(self) -> None:
        """Give all pages back; there is nothing more to compute."""
        for table in self.tables:
            self._pool.release(table)
        self.waiting.clear()

    def abandon(self) -> None:
        """The pages were lost: whoever asks for the next step is told."""
        self._broken = True

    def _plan(self) -> list[Chunk]:
        """The next chunks, as many as fit and find pages; at least one."""
        chunks: list[Chunk] = []
        room = self._room()
        for sequence in self.waiting:
            table, length = sequence.table, len(sequence.tokens)
            lacking = self._pool.needed(table, 0, length) > self._pool.available
            if not room or (chunks and lacking):
                break
            self._pool.writable(table, 0, length)
            chunks.append(Chunk(sequence, sequence.computed, min(room, sequence.missing)))
            room -= chunks[-1].count
        return chunks


class WholeReader(Reader):
    """Computes texts whose tokens see all others of theirs: each in one step, and without pages."""

    def _plan(self) -> list[Chunk]:
        chunks: list[Chunk] = []
        room = self._room()
        for sequence in self.waiting:
            length = len(sequence.tokens)
            if chunks and length > room:
                break
            chunks.append(Chunk(sequence, 0, length))
            room -= length
        return chunks
