"""What a model makes of every token of a text: its surprise, and how far it is from a base model.

As llama-perplexity does it, only the second half of each chunk is scored: there the model always
has something to go by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from localllm.engine.batch import Batch
from localllm.engine.engine import Engine
from localllm.engine.pages import PAGE_SIZE
from localllm.engine.runner import Logits
from localllm.engine.scheduler import STEP_TOKENS
from localllm.errors import LocalLLMError
from localllm.evaluate.texts import Tokens

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Of each scored token, in the text's order; all but `surprise` are None without a base.

    Attributes:
        surprise: float64[n], -ln of the probability that the model gives the token.
        base_surprise: the same, of the base model.
        divergence: float64[n], KL divergence of the model's distribution from the base's, in nats.
        same_top: bool[n], both find the same token the likeliest.
    """

    surprise: Values
    base_surprise: Values | None = None
    divergence: Values | None = None
    same_top: npt.NDArray[np.bool_] | None = None

    @classmethod
    def joined(cls, parts: Iterable[Scores]) -> Scores:
        """All of them, one after the other."""
        columns = zip(*(part._columns() for part in parts), strict=True)
        return cls(*(None if column[0] is None else np.concatenate(column) for column in columns))

    def part(self, start: int, end: int) -> Scores:
        """Those of some tokens."""
        return Scores(*(None if c is None else c[start:end] for c in self._columns()))

    def _columns(self) -> tuple[Any, ...]:
        return self.surprise, self.base_surprise, self.divergence, self.same_top


def scored(length: int) -> range:
    """The positions of a chunk whose next token is scored."""
    return range(length // 2, length - 1)


def side_by_side(length: int) -> int:
    """Chunks of so many tokens that one step computes."""
    return max(1, STEP_TOKENS // length)


def logits_bytes(vocabulary: int, length: int) -> int:
    """Bytes of the logits of one step at most."""
    rows = min(STEP_TOKENS, side_by_side(length) * len(scored(length)))
    return 4 * rows * vocabulary


def logits(engine: Engine, chunks: Tokens) -> Iterator[Logits]:
    """The logits of all scored positions, in order: float32[<= STEP_TOKENS, vocab] at a time.

    Nobody else may use the engine meanwhile, since all its pages are taken.

    Args:
        engine: has room for `side_by_side` chunks.
        chunks: int32 [chunks, length].
    """
    length = chunks.shape[1]
    pages = -(-length // PAGE_SIZE)
    for first in range(0, len(chunks), side_by_side(length)):
        together = chunks[first : first + side_by_side(length)]
        count = len(together)
        tables = np.arange(count * pages, dtype=np.int32).reshape(count, pages)
        for start in range(0, length, STEP_TOKENS):
            part = together[:, start : start + STEP_TOKENS]
            size = part.shape[1]
            wanted = [at - start for at in scored(length) if start <= at < start + size]
            rows = size * np.arange(count)[:, None] + np.array(wanted, np.int64)
            found = engine.compute(
                Batch(
                    tokens=np.ascontiguousarray(part).reshape(-1),
                    lengths=np.full(count, size, np.int32),
                    past=np.full(count, start, np.int32),
                    tables=tables,
                    rows=rows.reshape(-1).astype(np.int32),
                )
            )
            if wanted:
                yield found


def score(
    model: Iterator[Logits], chunks: Tokens, base: Iterator[Logits] | None, threads: int
) -> Iterator[Scores]:
    """The scores of every token, as many at a time as the logits come.

    Args:
        model: logits of the scored positions of `chunks`.
        chunks: int32 [chunks, length].
        base: the same of the base model, in pieces of the same sizes; None: there is none.
        threads: that compute side by side.

    Raises:
        LocalLLMError: logits are not finite.
    """
    targets = chunks[:, [at + 1 for at in scored(chunks.shape[1])]].reshape(-1)
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        for rows in model:
            wanted = targets[done : done + len(rows)]
            done += len(rows)
            if base is None:
                part = Scores(np.array(list(pool.map(_surprise, rows, wanted))))
            else:
                columns = zip(*pool.map(_compared, next(base), rows, wanted), strict=True)
                surprises, bases, divergences, same = map(np.array, columns)
                part = Scores(surprises, bases, divergences, same)
            if not np.isfinite(part.surprise if base is None else part.divergence).all():
                raise LocalLLMError("the model's logits are not finite: its file is damaged")
            yield part


def _surprise(row: Logits, token: int) -> float:
    shifted = row - row.max()
    return float(np.log(np.exp(shifted).sum(dtype=np.float64)) - shifted[token])


def _compared(base: Logits, row: Logits, token: int) -> tuple[float, float, float, bool]:
    """Surprises of model and base, the divergence, and whether the likeliest token is the same.

    KL = sum p (ln p - ln q) = sum p (x - y) + ln Z_q - ln Z_p for logits x, y and their sums Z.
    Differences of logits stay in float32; what they are summed to does not lose by it, since the
    logarithms of the sums, which a rounding would move as a whole, are of float64 sums.
    """
    top, base_top = int(row.argmax()), int(base.argmax())
    y, x = row - row[top], base - base[base_top]
    log_z = float(np.log(np.exp(y).sum(dtype=np.float64)))
    p = np.exp(x)
    z_base = float(p.sum(dtype=np.float64))
    log_z_base = float(np.log(z_base))
    surprise, base_surprise = log_z - float(y[token]), log_z_base - float(x[token])
    np.subtract(x, y, out=x)
    divergence = float(np.dot(p, x)) / z_base + log_z - log_z_base
    return surprise, base_surprise, divergence, top == base_top
