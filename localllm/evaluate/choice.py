"""Which quantisation to take: the frontier of quality and speed, and a recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localllm.units import in_bytes, rate

MOST_LOST = 0.05
"""Mean KL divergence, in nats, up to which a quantisation passes for the model itself: about one
likeliest token in ten differs, where the two best are nearly even."""
READING_SPEED = 10.0
"""Tokens per second: faster than most people read."""


@dataclass(frozen=True)
class Option:
    """A quantisation as far as the choice depends on it.

    Attributes:
        name: such as "Q4_K_M".
        bytes: of the file.
        decode: tokens per second.
        memory: bytes that it takes.
        lost: mean KL divergence from the base, in nats; None: not measured.
    """

    name: str
    bytes: int
    decode: float
    memory: float
    lost: float | None = None


@dataclass(frozen=True)
class Recommendation:
    """The option to take, and why, in one sentence; `name` is None where nothing fits."""

    name: str | None
    reason: str


def frontier(options: Sequence[Option]) -> list[Option]:
    """Options than which none is both closer to the base and faster, the closest first."""
    best: list[Option] = []
    for option in sorted(options, key=lambda option: (option.lost or 0.0, -option.decode)):
        if not best or option.decode > best[-1].decode:
            best.append(option)
    return best


def recommend_measured(options: Sequence[Option], available: int) -> Recommendation:
    """The fastest of those that fit the memory and lose no more than `MOST_LOST`.

    Args:
        options: all measured.
        available: bytes of memory.
    """
    fitting = [option for option in options if option.memory <= available]
    if not fitting:
        return _nothing_fits(options, available)
    good = [option for option in fitting if (option.lost or 0.0) <= MOST_LOST]
    if not good:
        least = min(fitting, key=lambda option: option.lost or 0.0)
        return Recommendation(
            least.name,
            f"no quantisation that fits stays within a mean KL divergence of {MOST_LOST}; "
            f"{least.name} comes closest, with {least.lost or 0.0:.3f}",
        )
    best = max(good, key=lambda option: option.decode)
    reason = (
        f"the fastest that stays within a mean KL divergence of {MOST_LOST} "
        f"({best.lost or 0.0:.4f}) and fits the memory: {rate(best.decode)} tokens/s"
    )
    closer = [o for o in frontier(fitting) if (o.lost or 0.0) < (best.lost or 0.0)]
    if closer:
        next_one = closer[-1]
        slower = 1 - next_one.decode / best.decode
        reason += f"; {next_one.name}, the next better one, is {slower:.0%} slower"
    return Recommendation(best.name, reason)


def recommend_predicted(options: Sequence[Option], available: int) -> Recommendation:
    """The largest that fits the memory and still answers faster than people read; else the fastest.

    A larger file of the same model is closer to it: that much is known before anything is measured.
    """
    fitting = [option for option in options if option.memory <= available]
    if not fitting:
        return _nothing_fits(options, available)
    quick = [option for option in fitting if option.decode >= READING_SPEED]
    if quick:
        best = max(quick, key=lambda option: option.bytes)
        return Recommendation(
            best.name,
            f"the largest that fits the memory and answers at {READING_SPEED:.0f} tokens/s or more "
            f"({rate(best.decode)} predicted): the larger the file, the closer to the model",
        )
    best = max(fitting, key=lambda option: option.decode)
    return Recommendation(
        best.name,
        f"none that fits the memory reaches {READING_SPEED:.0f} tokens/s; this is the fastest, "
        f"at {rate(best.decode)}",
    )


def _nothing_fits(options: Sequence[Option], available: int) -> Recommendation:
    least = min(options, key=lambda option: option.memory)
    return Recommendation(
        None,
        f"none fits: {least.name} takes least, {in_bytes(least.memory)}, and "
        f"{in_bytes(available)} are available; a smaller model would",
    )
