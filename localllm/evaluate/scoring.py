"""What a model makes of every token of a text: its surprise, and how far it is from a base model.

As llama-perplexity does it, only the second half of each chunk is scored: there the model always
has something to go by.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from localllm.engine.batch import Batch
from localllm.engine.engine import Engine
from localllm.engine.pages import PAGE_SIZE
from localllm.engine.runner import Logits
from localllm.engine.scheduler import STEP_TOKENS
from localllm.errors import LocalLLMError
from localllm.evaluate.texts import Tokens

Scores = npt.NDArray[np.void]
"""Of each scored token, in the text's order, records of the type `SCORE`."""

SCORE = np.dtype(
    [
        ("surprise", np.float64),
        ("base_surprise", np.float64),
        ("divergence", np.float64),
        ("same_top", np.bool_),
    ]
)
"""`surprise` is -ln of the probability that the model gives the token, `base_surprise` that of the
base model; `divergence` the KL divergence of the model's distribution from the base's, in nats;
`same_top` whether both find the same token the likeliest. Without a base they are NaN and False."""


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
                records = pool.map(_surprise, rows, wanted)
            else:
                records = pool.map(_compared, next(base), rows, wanted)
            part = np.array(list(records), SCORE)
            if not np.isfinite(part["surprise" if base is None else "divergence"]).all():
                raise LocalLLMError("the model's logits are not finite: its file is damaged")
            yield part


def _surprise(row: Logits, token: int) -> tuple[float, float, float, bool]:
    """A record of `SCORE` without a base."""
    shifted = row - row.max()
    surprise = np.log(np.exp(shifted).sum(dtype=np.float64)) - shifted[token]
    return float(surprise), np.nan, np.nan, False


def _compared(base: Logits, row: Logits, token: int) -> tuple[float, float, float, bool]:
    """A record of `SCORE`.

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
