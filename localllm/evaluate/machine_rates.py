"""What this machine can do at most, measured: reading memory, multiplying, waiting for threads.

The peaks that a program's own speed can be held against. They move with what else the machine
does, by a third where it is shared: compare only what was measured in the same run.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from localllm.engine.machine import available_memory

_CPUS = Path("/sys/devices/system/cpu")  # Linux; elsewhere the caches are not known
_LEAST, _ENOUGH = 1 << 20, 256 << 20  # bytes of memory to read


@dataclass(frozen=True)
class MemoryRate:
    """Reading memory that is in no cache, in one way.

    Attributes:
        threads: that read at the same time.
        streams: that each thread reads side by side.
        prefetch: whether each asks for what stands 4 KiB ahead.
        huge_pages: whether the memory asked for huge pages (Linux).
        median: bytes per second of all threads together.
        best: the same, of the best pass.
    """

    threads: int
    streams: int
    prefetch: bool
    huge_pages: bool
    median: float
    best: float


@dataclass(frozen=True)
class DotRate:
    """Dot products in registers.

    Attributes:
        isa: the kernels that have this instruction, such as "avx512".
        type: of the operands: "int8" (unsigned by signed), "float32" or "bf16".
        bits: of one vector.
        rate: multiplications and additions per second, of all threads together.
    """

    isa: str
    type: str
    bits: int
    rate: float


@dataclass(frozen=True)
class Barrier:
    """What it costs at best that `threads` threads wait for each other, in seconds."""

    threads: int
    seconds: float


@dataclass(frozen=True)
class MachineRates:
    """Everything measured.

    Attributes:
        threads: the most that were asked for; the dot products are theirs.
        memory: every way to read, for each number of threads.
        memory_bytes: that asked for huge pages; 0 where a program cannot ask: only Linux's can.
        huge_bytes: how much of that really lay in huge pages. With none, no way uses them.
        dots: of every instruction set that runs here.
        barriers: for each number of threads.
    """

    threads: int
    memory: tuple[MemoryRate, ...]
    memory_bytes: int
    huge_bytes: int
    dots: tuple[DotRate, ...]
    barriers: tuple[Barrier, ...]

    def memory_read(self, threads: int | None = None) -> MemoryRate:
        """The way with the best median for that many threads; default: the most.

        Raises:
            ValueError: nothing was measured with that many.
        """
        wanted = self.threads if threads is None else threads
        return max((m for m in self.memory if m.threads == wanted), key=lambda m: m.median)

    def peak(self, type: str) -> DotRate | None:
        """The fastest dot products of that type; None where no instruction set has them."""
        return max((d for d in self.dots if d.type == type), key=lambda d: d.rate, default=None)


def measure(threads: Sequence[int]) -> MachineRates:
    """Measure with each of these numbers of threads, in about a second in all.

    Takes up to a quarter of the available memory: 256 MiB, or eight times the last-level cache.

    Raises:
        ValueError: no number of threads, or one that is not in 1 to 1024.
    """
    from localllm import _native

    size = max(_LEAST, min(max(_ENOUGH, 8 * _last_level_cache()), available_memory() // 4))
    read_bytes, huge_bytes, memory = _native.measure_memory(list(threads), size)
    most = max(threads)
    return MachineRates(
        threads=most,
        memory=tuple(MemoryRate(**row) for row in memory),
        memory_bytes=read_bytes if hasattr(mmap, "MADV_HUGEPAGE") else 0,
        huge_bytes=huge_bytes,
        dots=tuple(DotRate(**row) for row in _native.measure_dots(most)),
        barriers=tuple(Barrier(n, _native.measure_barrier(n)) for n in threads),
    )


def thread_counts(most: int) -> list[int]:
    """1, 2, 4 and so on below `most`, and `most`."""
    return [*(1 << i for i in range((most - 1).bit_length())), most]


def _last_level_cache() -> int:
    """Bytes of all last-level caches together; 0 where they are not known."""
    sizes: dict[tuple[int, str], int] = {}
    for folder in _CPUS.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level = int((folder / "level").read_text())
            shared = (folder / "shared_cpu_list").read_text()
            sizes[level, shared] = (
                int((folder / "size").read_text().strip().removesuffix("K")) << 10
            )
        except (OSError, ValueError):
            continue
    last = max((level for level, _ in sizes), default=0)
    return sum(size for (level, _), size in sizes.items() if level == last)
