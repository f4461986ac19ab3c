"""The command line in front of the hub's stand-in: in a process of its own, or here."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.cli.conftest import CODE, Result, Run
from tests.hub.standin import StandIn


def content(size: int, seed: int = 0) -> bytes:
    """Bytes of a file that is as good as any model to a download."""
    return random.Random(seed).randbytes(size)


@dataclass
class Client:
    """`localllm` with a cache of its own, empty at first."""

    hub: StandIn
    run: Run
    environment: dict[str, str]
    folder: Path

    @property
    def cache(self) -> Path:
        """Its Hugging Face cache."""
        return self.folder / "hf" / "hub"

    def __call__(self, *arguments: object, **variables: str) -> Result:
        """Run a command here."""
        return self.run(*arguments, **(self.environment | variables))

    def start(self, *arguments: object, **variables: str) -> subprocess.Popen[bytes]:
        """Begin a command in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", CODE, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment | variables,
            cwd=self.folder,
        )

    def visible(self) -> list[Path]:
        """Every name of the cache that stands for a file of a repository."""
        return sorted(self.cache.glob("models--*/snapshots/*/**/*.*"))

    def unfinished(self) -> list[Path]:
        """What is left of downloads that did not come to their end."""
        return sorted(self.cache.glob("models--*/blobs/*.incomplete"))


def finish(process: subprocess.Popen[bytes]) -> Result:
    """What a command in a process of its own has left behind at its end."""
    out, error = process.communicate(timeout=60)
    return Result(process.returncode, out.decode(), error.decode())
