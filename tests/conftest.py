"""What all tests share."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def vocabs() -> Path:
    """The folder of reference vocabularies; the test is skipped where it is absent."""
    folder = SHARED / "data" / "vocabs"
    if not folder.is_dir():
        pytest.skip("no shared vocabularies beside this checkout")
    return folder


@pytest.fixture(scope="session")
def templates() -> Path:
    """The folder of real models' chat templates; the test is skipped where it is absent."""
    folder = SHARED / "data" / "templates"
    if not folder.is_dir():
        pytest.skip("no shared templates beside this checkout")
    return folder
