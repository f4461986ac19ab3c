"""A small model file, and the command line as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from localllm.cli import app
from localllm.evaluate.synthetic import random_model
from tests.hub.standin import StandIn

if TYPE_CHECKING:
    from tests.cli.hub_client import Client

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
def endless(model: Path) -> list[str]:
    """Flags under which the model never ends an answer by itself."""
    from localllm.gguf import GGUFFile
    from localllm.tokenize import load_tokenizer

    ends = load_tokenizer(GGUFFile.open(model)).eog_ids
    return [flag for token in sorted(ends) for flag in ("--logit-bias", f"{token}=-100")]


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
def process(environment: dict[str, str], tmp_path: Path) -> Run:
    """Runs `localllm ARGUMENTS…` in a process of its own."""

    def run(*arguments: object, stdin: bytes = b"", **variables: str) -> Result:
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


@pytest.fixture
def localllm(
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs `localllm ARGUMENTS…` here, which is much quicker."""
    for name in {*os.environ, "LOCALLLM_DEBUG"} - environment.keys():
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def run(*arguments: object, stdin: bytes = b"", **variables: str) -> Result:
        source = tmp_path / "stdin"
        source.write_bytes(stdin)
        with source.open() as piped, monkeypatch.context() as patch:
            patch.setattr("sys.stdin", piped)
            patch.chdir(tmp_path)
            for name, value in (environment | variables).items():
                patch.setenv(name, value)
            capsys.readouterr()
            code = app.run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Result(code, printed.out, printed.err)

    return run


@pytest.fixture
def client(
    hub: StandIn,
    localllm: Run,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Client:
    """`localllm` in front of a stand-in of the hub, with an empty cache."""
    from huggingface_hub import constants

    from tests.cli.hub_client import Client

    home = tmp_path / "hf"
    # Here the library has read its variables already.
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr("localllm.hub.asking._FIRST_WAIT", 0.01)
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
    own |= {f"XDG_{name}_HOME": str(tmp_path / name.lower()) for name in ("DATA", "CONFIG")}
    return Client(hub, localllm, environment | own, tmp_path)
