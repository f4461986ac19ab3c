"""What the machine can do: figures of the right order, whatever else it does meanwhile."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from localllm import _native
from localllm.cli import doctor
from localllm.evaluate import machine_rates
from localllm.evaluate.machine_rates import DotRate, MachineRates, MemoryRate, measure

MOST_DOTS = 2.5e10  # vectors a second and core: four units at 6 GHz
WIDTHS = {"int8": 8, "bf16": 16, "float32": 32}


@pytest.fixture(scope="module")
def rates() -> MachineRates:
    return measure([1, 2])


def test_memory(rates: MachineRates) -> None:
    assert rates.threads == 2
    assert rates.huge_bytes <= rates.memory_bytes
    for threads in (1, 2):
        ways = [rate for rate in rates.memory if rate.threads == threads]
        assert len(ways) == (8 if rates.huge_bytes else 4)
        assert len({(way.streams, way.prefetch, way.huge_pages) for way in ways}) == len(ways)
        for way in ways:
            assert 1e7 < way.median <= way.best < 1e13
        plain = MemoryRate(threads, 1, False, False, ways[0].median, ways[0].best)
        assert plain in ways
        best = rates.memory_read(threads)
        assert best in ways
        assert best.median == max(way.median for way in ways)
    assert rates.memory_read() == rates.memory_read(2)


def test_dot_products(rates: MachineRates) -> None:
    sets = {dot.isa for dot in rates.dots}
    assert sets <= set(_native.available_isas())
    assert _native.available_isas()[0] in sets
    for dot in rates.dots:
        # more would mean that the compiler has left some out
        operations = 2 * dot.bits / WIDTHS[dot.type]
        assert 1e6 < dot.rate / rates.threads / operations < MOST_DOTS
    integer = rates.peak("int8")
    assert integer is not None
    assert integer.rate == max(dot.rate for dot in rates.dots if dot.type == "int8")
    assert rates.peak("float64") is None


def test_barriers(rates: MachineRates) -> None:
    assert [barrier.threads for barrier in rates.barriers] == [1, 2]
    assert all(0 < barrier.seconds < 1 for barrier in rates.barriers)


@pytest.mark.parametrize("threads", [[], [0], [1, -1], [2000], [2**40], [1.5], 2, None])
def test_impossible_threads(threads: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        measure(threads)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1, 1000, 2**40, 2**70, 1e6, None])
def test_impossible_sizes(size: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        _native.measure_memory([1], size)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [0, -1, 2000, 1.5, None, "2"])
def test_impossible_threads_of_the_others(threads: object) -> None:
    for function in (_native.measure_dots, _native.measure_barrier):
        with pytest.raises((ValueError, TypeError)):
            function(threads)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("available", "cache", "size"),
    [
        (64 << 30, 32 << 20, 256 << 20),
        (64 << 30, 128 << 20, 1 << 30),
        (64 << 30, 0, 256 << 20),
        (512 << 20, 32 << 20, 128 << 20),
        (0, 0, 1 << 20),
    ],
)
def test_the_memory_taken(
    monkeypatch: pytest.MonkeyPatch, available: int, cache: int, size: int
) -> None:
    taken = []

    def measure_memory(threads: list[int], bytes: int) -> tuple[int, int, list[object]]:
        taken.append(bytes)
        return 0, 0, []

    monkeypatch.setattr(_native, "measure_memory", measure_memory)
    monkeypatch.setattr(machine_rates, "available_memory", lambda: available)
    monkeypatch.setattr(machine_rates, "_last_level_cache", lambda: cache)
    measure([1])
    assert taken == [size]


def test_nothing_asks_for_huge_pages_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "measure_memory", lambda threads, bytes: (bytes, 0, []))
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 14, raising=False)
    assert measure([1]).memory_bytes > 0
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE")
    rates = measure([1])
    assert rates.memory_bytes == 0
    assert "huge pages" not in dict(doctor._rates(rates))


def test_last_level_caches_are_added_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def cache(cpu: int, index: int, level: int, shared: str, size: str) -> None:
        folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        (folder / "level").write_text(f"{level}\n")
        (folder / "shared_cpu_list").write_text(f"{shared}\n")
        (folder / "size").write_text(f"{size}\n")

    for cpu, shared in enumerate(("0-1", "0-1", "2")):
        cache(cpu, 0, 1, str(cpu), "32K")
        cache(cpu, 3, 3, shared, "16384K")
    (tmp_path / "cpu2" / "cache" / "index7").mkdir()  # says nothing
    (tmp_path / "cpufreq").mkdir()
    monkeypatch.setattr(machine_rates, "_CPUS", tmp_path)
    assert machine_rates._last_level_cache() == 32 << 20
    monkeypatch.setattr(machine_rates, "_CPUS", tmp_path / "none")
    assert machine_rates._last_level_cache() == 0


def test_thread_counts() -> None:
    counts = {1: [1], 2: [1, 2], 3: [1, 2, 3], 4: [1, 2, 4], 6: [1, 2, 4, 6], 8: [1, 2, 4, 8]}
    assert {most: machine_rates.thread_counts(most) for most in counts} == counts


def test_the_fastest_of_a_type() -> None:
    slow, fast = DotRate("a", "int8", 256, 1.0), DotRate("b", "int8", 512, 2.0)
    rates = MachineRates(1, (), 0, 0, (slow, fast, DotRate("b", "bf16", 512, 9.0)), ())
    assert rates.peak("int8") == fast
