"""Large numbers in few characters: decimal units, as file managers and download pages show."""

from __future__ import annotations


def si(number: float) -> str:
    """`7300000` -> `7.3M`."""
    return _scaled(number, ("T", "B", "M", "k"), "")


def in_bytes(number: float) -> str:
    """`15300000` -> `15.3 MB`."""
    return _scaled(number, (" TB", " GB", " MB", " kB"), " bytes")


def _scaled(number: float, units: tuple[str, str, str, str], plain: str) -> str:
    for size, unit in zip((1e12, 1e9, 1e6, 1e3), units, strict=True):
        if number >= 0.9995 * size:  # what would be shown as 1000 of the next smaller unit
            return f"{number / size:.3g}{unit}"
    return f"{number:g}{plain}"


def rate(value: float) -> str:
    """At least three digits, and no more behind the point: `9.87`, `98.7`, `987`, `9,876`."""
    return f"{value:,.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"
