"""`localllm doctor`: the machine, and what of it is used."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from localllm import __version__
from localllm.cli.loading import progress
from localllm.cli.options import OutputOptions, with_options
from localllm.evaluate.machine_rates import (
    MachineRates,
    MemoryRate,
    measure,
    thread_counts,
)
from localllm.hub.folders import cache_dir, config_file, hugging_face_cache, state_dir
from localllm.terminal import one_line
from localllm.units import in_bytes

_PACKAGES = ("numpy", "gguf", "huggingface-hub", "llguidance", "torch", "llama-cpp-python")
# What is used where it is there: for what, and the extra of this package that brings it.
_OPTIONAL = {
    "torch": ("--device other than cpu", "torch"),
    "opentelemetry-sdk": ("traces of the server's requests", "otel"),
    "llama-cpp-python": ("comparisons, bench --vs llama.cpp", "llamacpp"),
}


@with_options
def command(output: OutputOptions) -> None:
    """Describe this machine, and what of it is used."""
    with progress("measuring memory and cores …"):
        facts = _facts()
        rates = measure(thread_counts(facts["cores"]))
    versions, folders, missing = installed(), list(_folders()), list(lacking())
    if output.json:
        document = {
            **facts,
            "versions": versions,
            "folders": [asdict(folder) for folder in folders],
            "missing": [asdict(part) for part in missing],
            "rates": asdict(rates),
        }
        print(json.dumps(document, ensure_ascii=False))
        return
    for name, value in facts.items():
        shown = in_bytes(value) if name.startswith("memory") else value
        if name == "gpus":
            shown = ", ".join(value) or "none found"
        print(f"{name.replace('_', ' '):<22} {shown}")
    for name, text in _rates(rates):
        print(f"{name:<22} {text}")
    heads = ["versions"] + [""] * len(versions)
    for head, (name, found) in zip(heads, versions.items(), strict=False):
        print(f"{head:<22} {name} {found or 'not installed'}")
    for folder in folders:
        print(f"{folder.name:<22} {folder}")
    heads = ["missing"] + [""] * len(missing)
    for head, part in zip(heads, missing, strict=False):
        print(f"{head:<22} {part.name}, for {part.purpose}: {part.install}")


def _facts() -> dict[str, Any]:
    import psutil

    from localllm.engine.machine import available_memory, cpu_name, default_threads

    return {
        "version": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": default_threads(),
        "kernels": _kernels(),
        "memory_total": psutil.virtual_memory().total,
        "memory_available": available_memory(),
        "gpus": gpus(),
        "config_file": f"{config_file()}{'' if config_file().is_file() else ' (not there)'}",
    }


@dataclass(frozen=True)
class Folder:
    """A folder of this program or of the Hugging Face cache; the numbers are bytes.

    Attributes:
        name: what lies there.
        path: of the folder, which need not be there yet.
        used: by what is in it, links not followed.
        free: on its disk; None where that cannot be said.
    """

    name: str
    path: str
    used: int
    free: int | None

    def __str__(self) -> str:
        free = "" if self.free is None else f", {in_bytes(self.free)} free"
        return f"{self.path} ({in_bytes(self.used)}{free})"


@dataclass(frozen=True)
class Missing:
    """Something useful that is not installed, and the line that installs it."""

    name: str
    purpose: str
    install: str


def installed() -> dict[str, str | None]:
    """Versions of what this program stands on, and of what it uses where it is there."""
    return {name: _version(name) for name in _PACKAGES}


def lacking() -> Iterator[Missing]:
    """What is not there, of what would be used."""
    for package, (purpose, extra) in _OPTIONAL.items():
        if _version(package) is None:
            yield Missing(package, purpose, f"pip install 'localllm[{extra}]'")


def gpus() -> list[str]:
    """The graphics cards that NVIDIA's or AMD's driver names; nothing runs on them by default.

    Asked of the drivers' own tools: importing torch for it would take seconds.
    """
    commands = (
        ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
        ["rocm-smi", "--showproductname", "--csv"],
    )
    found: list[str] = []
    for command in commands:
        if shutil.which(command[0]) is None:
            continue
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            lines = [one_line(line) for line in done.stdout.splitlines() if line.strip()]
            found += lines[1:] if command[0] == "rocm-smi" else lines
    return found


def _folders() -> Iterator[Folder]:
    places = {
        "Hugging Face cache": hugging_face_cache(),
        "packed weights": cache_dir() / "packed",
        "state folder": state_dir(),
    }
    for name, path in places.items():
        there = next((place for place in (path, *path.parents) if place.is_dir()), None)
        free = None
        with contextlib.suppress(OSError):
            free = None if there is None else shutil.disk_usage(there).free
        yield Folder(name, str(path), _size(path), free)


def _size(folder: Path) -> int:
    """Bytes of the regular files below a folder; what cannot be read counts as nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(place, name))
                total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _kernels() -> str:
    from localllm._native import measured_rates
    from localllm.engine.machine import kernels

    used = kernels()
    rule = "the widest unless a narrower one is a quarter faster"
    why = "set by LOCALLLM_ISA" if os.environ.get("LOCALLLM_ISA") else rule
    rates = ", ".join(f"{name} {rate / 1e12:.3f}" for name, rate in measured_rates().items())
    return f"{used}, {why} ({rates} Top/s a core)"


def _rates(rates: MachineRates) -> Iterator[tuple[str, str]]:
    """What was measured, in lines with a name."""
    name = "memory read"
    for threads in dict.fromkeys(rate.threads for rate in rates.memory):
        plain = next(rate for rate in rates.memory if rate.threads == threads)
        best = rates.memory_read(threads)
        yield (
            name,
            f"{best.median / 1e9:.1f} GB/s on {_threads(threads)} ({_way(best)}); "
            f"plain {plain.median / 1e9:.1f}",
        )
        name = ""
    if rates.memory_bytes:
        share = rates.huge_bytes / rates.memory_bytes
        yield "huge pages", f"{share:.0%} of what asked for them" if share else "none on request"
    name = "dot products"
    # What the weights are multiplied with comes first, the fastest of it at the top.
    dots = sorted(rates.dots, key=lambda dot: (dot.type != "int8", -dot.rate))
    for isa, bits in dict.fromkeys((dot.isa, dot.bits) for dot in dots):
        each = ", ".join(
            f"{dot.type} {dot.rate / rates.threads / 1e12:.3f}"
            for dot in dots
            if (dot.isa, dot.bits) == (isa, bits)
        )
        yield name, f"{each} Top/s a core ({isa}, {bits} bits)"
        name = ""
    several = [barrier for barrier in rates.barriers if barrier.threads > 1]
    if several:
        times = ", ".join(f"{b.seconds * 1e9:.0f} ns on {_threads(b.threads)}" for b in several)
        yield "barrier", times


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _way(rate: MemoryRate) -> str:
    words = [f"{rate.streams} stream{'s' if rate.streams > 1 else ''} each"]
    words += ["prefetch"] * rate.prefetch + ["huge pages"] * rate.huge_pages
    return ", ".join(words)
