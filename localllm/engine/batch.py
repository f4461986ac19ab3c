"""One step as the arrays that the native program reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from localllm.engine.scheduler import Chunk

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Batch:
    """Rows of several sequences, those of one together.

    Attributes:
        tokens: int32[T], the token of each row.
        lengths: int32[S], rows of each sequence.
        past: int32[S], computed tokens before them.
        tables: int32[S, P], pages of each sequence; entries beyond its last are 0 and not read.
        rows: int32[R], rows whose outputs are wanted.
        adapters: int32[S], the number of each sequence's adapter, -1: none; None: no sequence has
            one.
    """

    tokens: Ints
    lengths: Ints
    past: Ints
    tables: Ints
    rows: Ints
    adapters: Ints | None = None

    @classmethod
    def of(cls, chunks: list[Chunk], every_row: bool = False) -> Batch:
        """The batch of some chunks; outputs of the rows they want, or of every row."""
        texts = [np.array(chunk.tokens, np.int32) for chunk in chunks]
        tokens = np.concatenate(texts)
        lengths = np.array([len(text) for text in texts], np.int32)
        past = np.array([chunk.past for chunk in chunks], np.int32)
        pages = [chunk.sequence.table.pages for chunk in chunks]
        tables = np.zeros((len(chunks), max(map(len, pages))), np.int32)
        for row, table in zip(tables, pages, strict=True):
            row[: len(table)] = table
        if every_row:
            rows = np.arange(len(tokens), dtype=np.int32)
        else:
            ends = np.cumsum(lengths)
            wanted = [
                np.arange(end - chunk.wanted, end, dtype=np.int32)
                for chunk, end in zip(chunks, ends, strict=True)
            ]
            rows = np.concatenate(wanted)
        used = [chunk.sequence.adapter for chunk in chunks]
        adapters = None
        if any(number is not None for number in used):
            adapters = np.array([-1 if number is None else number for number in used], np.int32)
        return cls(tokens, lengths, past, tables, rows, adapters)
