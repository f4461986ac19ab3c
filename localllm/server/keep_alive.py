"""For how long a model stays loaded when nobody uses it, as Ollama's `keep_alive` says it."""

from __future__ import annotations

import math
import re

from localllm.errors import UsageError

KEEP_ALIVE = 300.0  # seconds
NEVER = math.inf  # to unload

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_TIME = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+")


def keep_alive_seconds(value: str | float) -> float:
    """Seconds of idle time after which a model is unloaded, as Ollama's `keep_alive` has them.

    A number of seconds, or a text such as "5m" or "1h30m"; what is negative means never.

    Raises:
        UsageError: it is neither.
    """
    text = str(value).strip()
    try:
        seconds = float(text)
    except ValueError:
        plain = text.removeprefix("-")
        if not _TIME.fullmatch(plain):
            seconds = math.nan
        else:
            parts = re.findall(r"([\d.]+)(ms|s|m|h)", plain)
            seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
            seconds = -seconds if plain != text else seconds
    if not math.isfinite(seconds):
        raise UsageError(f"keep_alive {text[:40]!r}: is no time", 'seconds, "5m", 0, or -1: never')
    return NEVER if seconds < 0 else seconds
