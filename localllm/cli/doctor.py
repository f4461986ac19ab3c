"""`localllm doctor`: the machine, and what of it is used."""

from __future__ import annotations

import json
import os
import platform
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from localllm import __version__
from localllm.cli.options import OutputOptions, with_options
from localllm.hub.folders import config_file, hugging_face_cache, state_dir
from localllm.units import in_bytes


@with_options
def command(output: OutputOptions) -> None:
    """Describe this machine, and what of it is used."""
    facts = _facts()
    if output.json:
        print(json.dumps(facts, ensure_ascii=False))
        return
    for name, value in facts.items():
        shown = in_bytes(value) if name.startswith("memory") else value
        shown = {True: "yes", False: "no"}.get(value, shown) if isinstance(value, bool) else shown
        print(f"{name.replace('_', ' '):<22} {shown}")


def _facts() -> dict[str, Any]:
    import psutil

    from localllm.engine.machine import available_memory, default_threads

    return {
        "version": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": default_threads(),
        "kernels": _kernels(),
        "memory_total": psutil.virtual_memory().total,
        "memory_available": available_memory(),
        "torch_installed": find_spec("torch") is not None,
        "hugging_face_cache": str(hugging_face_cache()),
        "config_file": f"{config_file()}{'' if config_file().is_file() else ' (not there)'}",
        "state_folder": str(state_dir()),
    }


def _kernels() -> str:
    from localllm._native import measured_rates
    from localllm.engine.machine import kernels

    used = kernels()
    why = "set by LOCALLLM_ISA" if os.environ.get("LOCALLLM_ISA") else "the fastest measured"
    rates = ", ".join(f"{name} {rate / 1e12:.3f}" for name, rate in measured_rates().items())
    return f"{used}, {why} ({rates} Top/s a core)"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
