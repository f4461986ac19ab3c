"""Numbers as people read them."""

from __future__ import annotations

import pytest

from localllm.units import in_bytes, si


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (15_300_000, "15.3 MB"), (2e12, "2 TB")],
)
def test_bytes(number: float, text: str) -> None:
    assert in_bytes(number) == text


def test_counts() -> None:
    assert [si(n) for n in (12, 7_300_000, 1.24e9)] == ["12", "7.3M", "1.24B"]


@pytest.mark.parametrize("size", [1e3, 1e6, 1e9, 1e12])
def test_the_unit_is_that_of_the_rounded_number(size: float) -> None:
    for number in (0.99949 * size, 0.9995 * size, size - 1, size):
        assert "e+" not in si(number) + in_bytes(number)
    assert si(size - 0.0001 * size) == si(size)
