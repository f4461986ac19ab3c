"""A few measurements of one thing, in short."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any


def summary(measured: Sequence[float]) -> dict[str, Any]:
    """`median`, `least`, `most`, and all that was `measured`, in order."""
    return {
        "median": median(measured),
        "least": min(measured),
        "most": max(measured),
        "measured": list(measured),
    }
