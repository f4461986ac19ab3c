"""A small model file, and the command line as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from localllm.evaluate.synthetic import random_model

ROOT = Path(__file__).resolve().parents[2]
CODE = "from localllm.cli.app import main; main()"


@dataclass
class Result:
    """What one run of the program left behind."""

    code: int
    out: str
    error: str


Run = Callable[..., Result]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with ChatML template and a context of 256 tokens."""
    pytest.importorskip("localllm._native")
    path = tmp_path_factory.mktemp("models") / "random-Q8_0.gguf"
    return random_model(path, "qwen3", "Q8_0", context=256)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment without the user's own settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LOCALLLM_", "HF_"))}
    home = tmp_path_factory.mktemp("home")
    kept |= {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "PYTHONPATH": str(ROOT),
        "NO_COLOR": "1",
    }
    return kept


@pytest.fixture
def localllm(environment: dict[str, str], tmp_path: Path) -> Run:
    """Runs `localllm ARGUMENTS…` in a process of its own."""

    def run(*arguments: object, stdin: bytes | None = b"", **variables: str) -> Result:
        done = subprocess.run(
            [sys.executable, "-c", CODE, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            env=environment | variables,
            cwd=tmp_path,
            timeout=120,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
