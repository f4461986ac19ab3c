"""`localllm doctor`: the machine, and what of it is used."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from localllm import __version__
from localllm.cli.loading import progress
from localllm.cli.options import OutputOptions, with_options
from localllm.evaluate.installation import folders, gpus, installed, lacking
from localllm.evaluate.machine_rates import (
    MachineRates,
    MemoryRate,
    measure,
    thread_counts,
)
from localllm.hub.folders import config_file
from localllm.units import in_bytes


@with_options
def command(output: OutputOptions) -> None:
    """Describe this machine, and what of it is used."""
    with progress("measuring memory and cores …"):
        facts = _facts()
        rates = measure(thread_counts(facts["cores"]))
    versions, places, missing = installed(), list(folders()), list(lacking())
    if output.json:
        document = {
            **facts,
            "versions": versions,
            "folders": [asdict(folder) for folder in places],
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
    for folder in places:
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
