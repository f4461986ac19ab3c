"""What this machine offers: cores and memory, as far as this process may use them."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

import psutil

from localllm.errors import UsageError

_CGROUP = Path("/sys/fs/cgroup")  # limits of a container (cgroup v2); absent elsewhere


def default_threads() -> int:
    """Physical cores, never more than this process may use."""
    return min(psutil.cpu_count(logical=False) or os.cpu_count() or 1, processors())


def processors() -> int:
    """Logical processors that this process may use: what affinity and a container's quota allow."""
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    quota = _words("cpu.max")
    if len(quota) == 2 and quota[0] != "max":
        count = min(count, math.ceil(int(quota[0]) / int(quota[1])))
    return max(1, count)


def require_threads(threads: int | None) -> None:
    """Raises UsageError for a number of threads that cannot be; None: whatever is the default."""
    if threads is not None and not 1 <= threads <= 1024:
        raise UsageError(f"--threads {threads}: must be >= 1 and <= 1024")


def kernels() -> str:
    """The name of the kernels in use.

    Raises:
        UsageError: `LOCALLLM_ISA` asks for kernels that cannot run here.
    """
    from localllm._native import isa

    try:
        return isa()
    except RuntimeError as error:
        raise UsageError(str(error)) from None


def cpu_name() -> str:
    """The processor, as its maker calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def available_memory() -> int:
    """Bytes that can be taken without swapping, within a container's limit."""
    available = int(psutil.virtual_memory().available)
    limit = _words("memory.max")
    if limit and limit[0] != "max":
        used = int((_words("memory.current") or ["0"])[0])
        statistics = _words("memory.stat")
        # Cached file pages count as used there, but are given back when memory is wanted.
        reclaimable = dict(zip(statistics[::2], statistics[1::2], strict=False))
        used -= int(reclaimable.get("inactive_file", 0)) + int(reclaimable.get("active_file", 0))
        available = min(available, int(limit[0]) - used)
    return max(0, available)


def _words(name: str) -> list[str]:
    try:
        return (_CGROUP / name).read_text().split()
    except OSError:
        return []
