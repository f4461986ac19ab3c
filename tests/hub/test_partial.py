"""Unfinished files: what is counted is there, in whatever order it comes."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.hub.partial import PartialFile, to_allocate

DATA = random.Random(3).randbytes(1000)


@given(segments=st.integers(1, 9), seed=st.integers())
def test_pieces_in_any_order_make_the_whole(
    tmp_path_factory: pytest.TempPathFactory, segments: int, seed: int
) -> None:
    numbers = random.Random(seed)
    path = tmp_path_factory.mktemp("parts") / "a.incomplete"
    missing = list(range(segments))
    while missing:
        with PartialFile(path, len(DATA), segments) as part:  # as another process would
            segment = numbers.choice(part.missing)
            at = part.place(segment)
            before = part.done
            part.write(segment, DATA[at : at + numbers.randint(0, 400)])  # perhaps beyond its end
            assert before <= part.done <= len(DATA)
        with PartialFile(path, len(DATA), segments) as part:
            missing = part.missing
            if not missing:
                assert part.sha256(lambda done: None) == hashlib.sha256(DATA).hexdigest()
                part.finish(path.with_name("whole"))
    assert path.with_name("whole").read_bytes() == DATA
    assert not path.exists()


def test_a_file_of_another_size_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with PartialFile(path, 1000, 2) as part:
        part.write(0, DATA[:100])
    for size, segments in ((1001, 2), (1000, 3)):
        with PartialFile(path, size, segments) as part:
            assert part.done == 0
            part.write(0, DATA[:100])


def test_counts_that_cannot_be_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(1000) + (501).to_bytes(8, "little") + bytes(8))
    with PartialFile(path, 1000, 2) as part:
        assert part.done == 0


def test_nothing_is_written_after_the_end(tmp_path: Path) -> None:
    part = PartialFile(tmp_path / "a", 1000, 1)
    part.close()
    with pytest.raises(ValueError, match="closed"):
        part.write(0, DATA)


def test_an_empty_file(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "a", 0) as part:
        assert part.missing == []
        part.finish(tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b""


def test_room_that_is_still_needed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert to_allocate(path, 10**7) == 10**7
    with PartialFile(path, 10**7, 1) as part:
        part.write(0, bytes(4_000_000))
        assert 5_000_000 < to_allocate(path, 10**7) <= 6_000_000
