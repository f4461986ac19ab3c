"""Packed weights on disk: whatever lies in the folder, the model is the same."""

import os
import random
import shutil
import time
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from localllm.engine.engine import Engine
from localllm.ops import packed
from localllm.ops.packed import PackedCache

native = pytest.importorskip("localllm._native")
MODEL = str(files("localllm") / "assets" / "tiny-chat.gguf")
PROMPT = list(range(40, 60))


@pytest.fixture(autouse=True)
def small_files_too(monkeypatch):
    monkeypatch.setattr(packed, "SMALLEST", 0)
    monkeypatch.setattr(packed, "SPARE", 0)


@pytest.fixture
def cache(tmp_path):
    return PackedCache(tmp_path / "packed", 1 << 30)


def logits(cache=None, model=MODEL):
    engine = Engine.load(model, context=64, threads=2, packed=cache)
    return np.concatenate(list(engine.logits(PROMPT)))


EXPECTED = logits()


def packings(monkeypatch):
    """How many weights were packed from now on, in a list of one."""
    count = [0]

    class Counting(native.Program):
        def pack_weights(self, shapes, *arguments):
            count[0] += len(shapes)
            return super().pack_weights(shapes, *arguments)

    monkeypatch.setattr(native, "Program", Counting)
    return count


def test_the_second_start_packs_nothing(cache, monkeypatch):
    count = packings(monkeypatch)
    assert (logits(cache) == EXPECTED).all()
    first, count[0] = count[0], 0
    assert first > 20
    assert (logits(cache) == EXPECTED).all()
    assert count[0] == 0
    assert [path.suffix for path in cache.folder.iterdir()] == [packed.SUFFIX]


@pytest.mark.parametrize("seed", range(36))
def test_a_damaged_file_is_found_out_and_made_again(cache, monkeypatch, seed):
    logits(cache)
    (path,) = cache.files()
    content = bytearray(path.read_bytes())
    offsets = [at for at in range(0, len(content), 4096) if any(content[at : at + 4096])]
    rng = random.Random(seed)
    kind = seed % 6
    if kind == 0:  # a bit of some weight
        content[rng.choice(offsets) + rng.randrange(100)] ^= 1 << rng.randrange(8)
    elif kind == 1:  # a page that never reached the disk
        at = rng.choice(offsets[:-2])
        content[at : at + 4096] = bytes(4096)
    elif kind == 2:
        del content[rng.randrange(len(content)) :]
    elif kind == 5:  # pages in another order
        first, second = rng.sample(offsets[:-2], 2)
        pages = content[first : first + 4096], content[second : second + 4096]
        content[first : first + 4096], content[second : second + 4096] = pages[1], pages[0]
    elif kind == 3:  # the list, its length or the magic word
        content[-rng.randrange(1, 3000)] ^= 1 << rng.randrange(8)
    else:
        content = bytearray(rng.randbytes(rng.choice((0, 1, 16, 5000))))
    path.write_bytes(content)
    count = packings(monkeypatch)
    assert (logits(cache) == EXPECTED).all()
    assert count[0] > 20
    count[0] = 0
    assert (logits(cache) == EXPECTED).all()
    assert count[0] == 0


def test_another_model_is_another_file(cache, tmp_path):
    copy = tmp_path / "copy.gguf"
    shutil.copy(MODEL, copy)
    logits(cache)
    logits(cache, str(copy))
    assert len(cache.files()) == 2
    status = copy.stat()
    shutil.copy(copy, tmp_path / "again.gguf")
    os.utime(tmp_path / "again.gguf", ns=(status.st_atime_ns, status.st_mtime_ns))
    (tmp_path / "again.gguf").replace(copy)  # downloaded again, the time set as it was
    logits(cache, str(copy))
    assert len(cache.files()) == 3


def test_those_used_longest_ago_give_way(tmp_path):
    cache = PackedCache(tmp_path, 1 << 30)
    logits(cache)
    (path,) = cache.files()
    size = cache.files()[path]
    for index in range(3):
        (tmp_path / f"{index}.packed").write_bytes(b"x" * size)
        os.utime(tmp_path / f"{index}.packed", (index + 1, index + 1))
    path.unlink()
    logits(PackedCache(tmp_path, 2 * size + (1 << 20)))
    assert {p.name for p in cache.files()} == {"2.packed", path.name}


def test_a_model_beyond_the_limit_is_not_kept(tmp_path):
    assert (logits(PackedCache(tmp_path, 1000)) == EXPECTED).all()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_only_the_file(cache, monkeypatch):
    cache.folder.mkdir()
    other = cache.folder / "other.packed"
    other.write_bytes(b"x")
    monkeypatch.setattr(packed, "SPARE", 1 << 60)
    assert (logits(cache) == EXPECTED).all()
    assert list(cache.folder.iterdir()) == [other]


def test_others_give_way_to_a_disk_that_is_nearly_full(cache, monkeypatch):
    logits(cache)
    (path,) = cache.files()
    size = cache.files()[path]
    path.unlink()
    for index in range(3):
        (cache.folder / f"{index}.packed").write_bytes(b"x" * size)
        os.utime(cache.folder / f"{index}.packed", (index + 1, index + 1))
    disk = 4 * size + size // 2

    def usage(folder):
        free = disk - sum(p.stat().st_size for p in cache.folder.iterdir())
        return SimpleNamespace(free=free)

    monkeypatch.setattr(packed.shutil, "disk_usage", usage)
    monkeypatch.setattr(packed, "SPARE", size)
    assert (logits(cache) == EXPECTED).all()
    assert {p.name for p in cache.files()} == {"1.packed", "2.packed", path.name}


def test_a_file_that_cannot_be_touched_is_used_all_the_same(cache, monkeypatch):
    def refused(path):
        raise PermissionError

    logits(cache)
    monkeypatch.setattr(packed.os, "utime", refused)
    count = packings(monkeypatch)
    assert (logits(cache) == EXPECTED).all()
    assert count[0] == 0


def test_a_folder_that_begins_nowhere_is_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (logits(PackedCache(Path("~/.cache"), 1 << 30)) == EXPECTED).all()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_disk_that_fills_up_meanwhile_costs_only_the_file(cache, monkeypatch):
    def full(suffix, dir):
        path = dir / ("x" + suffix)
        path.touch()
        return os.open("/dev/full", os.O_RDWR), str(path)

    monkeypatch.setattr(packed.tempfile, "mkstemp", full)
    assert (logits(cache) == EXPECTED).all()
    assert list(cache.folder.iterdir()) == []


def test_a_folder_that_cannot_be_used_costs_only_the_file(cache):
    cache.folder.write_text("in the way")
    assert (logits(cache) == EXPECTED).all()


@pytest.mark.skipif(os.name == "nt", reason="pipes and devices of POSIX")
@pytest.mark.parametrize("what", ["folder", "pipe", "device", "circle", "huge"])
def test_something_else_in_the_files_place(cache, what):
    logits(cache)
    (path,) = cache.files()
    tail = path.read_bytes()[-packed.TAIL.size :]
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "circle":
        path.symlink_to(path)
    else:
        with path.open("wb") as stream:
            stream.truncate(1 << 41)
            stream.seek(1 << 41)
            stream.write(packed.TAIL.pack(1 << 40, packed.TAIL.unpack(tail)[1]))
    assert (logits(cache) == EXPECTED).all()
    if what != "folder":
        assert cache.files()[path] < 1 << 30


def test_what_is_no_file_is_neither_counted_nor_in_the_way(cache):
    logits(cache)
    (path,) = cache.files()
    (cache.folder / "folder.packed").mkdir()
    (cache.folder / "circle.packed").symlink_to("circle.packed")
    assert list(cache.files()) == [path]
    assert cache.clear() > 5e6


def test_an_interrupt_leaves_nothing_behind_and_leftovers_go(cache, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(packed, "_parts", stop)
        with pytest.raises(KeyboardInterrupt):
            logits(cache)
    assert list(cache.folder.iterdir()) == []
    old, new = cache.folder / "a.part", cache.folder / "b.part"
    for leftover in (old, new):
        leftover.touch()
    hours_ago = time.time() - 7200
    os.utime(old, (hours_ago, hours_ago))
    logits(cache)
    assert not old.exists()
    assert new.exists()


def test_clear_says_what_it_freed(cache):
    logits(cache)
    (path,) = cache.files()
    size = cache.files()[path]
    (cache.folder / "killed.part").write_bytes(b"x" * 1000)
    assert cache.clear() == size + 1000 > 5e6
    assert list(cache.folder.iterdir()) == []
