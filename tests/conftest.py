"""What all tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.standin import StandIn, standin

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def vocabs() -> Path:
    """The folder of reference vocabularies; the test is skipped where it is absent."""
    return _shared("vocabs")


@pytest.fixture(scope="session")
def templates() -> Path:
    """The folder of real models' chat templates; the test is skipped where it is absent."""
    return _shared("templates")


@pytest.fixture
def hub() -> Iterator[StandIn]:
    """A stand-in of the Hugging Face hub on this machine, without repositories."""
    with standin() as running:
        yield running


def _shared(name: str) -> Path:
    folder = SHARED / "data" / name
    if not folder.is_dir():
        pytest.skip(f"no shared {name} beside this checkout")
    return folder
