"""What this program stands on here: packages, graphics cards, and the folders that it fills."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from localllm.hub.folders import cache_dir, hugging_face_cache, state_dir
from localllm.terminal import one_line
from localllm.units import in_bytes

_PACKAGES = ("numpy", "gguf", "huggingface-hub", "llguidance", "torch", "llama-cpp-python")
# What is used where it is there: for what, and the extra of this package that brings it.
_OPTIONAL = {
    "torch": ("--device, the slow reference in torch", "torch"),
    "opentelemetry-sdk": ("traces of the server's requests", "otel"),
    "llama-cpp-python": ("comparisons, bench --vs llama.cpp", "llamacpp"),
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


def folders() -> Iterator[Folder]:
    """Where downloads, packed weights and what is remembered lie."""
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
