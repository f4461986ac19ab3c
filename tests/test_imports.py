"""The rooms import downwards only, and the CPU path needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "localllm"

# Lowest first; a room imports from itself and from lower lines only (docs/architecture.md).
LAYERS = [
    {"errors", "units", "_native", "__init__"},
    {"files"},
    {"gguf", "terminal"},
    {"ops", "tokenize"},
    {"models", "decoding"},
    {"chat", "engine", "hub"},
    {"compress"},
    {"server", "convert", "evaluate"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
TORCH_ALLOWED = {"ops/eager.py", "engine/eager_runner.py", "engine/runner.py"}

FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Dotted names of every import in a file, those for type checkers only left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_room_has_its_place() -> None:
    rooms = {room_of(path) for path in FILES}
    assert rooms <= LEVEL.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "localllm" or len(parts) == 1:
            continue
        other = parts[1] if parts[1] in LEVEL else "__init__"
        allowed = other == room or LEVEL[other] < LEVEL[room]
        assert allowed, f"{room} imports {name}: {other} is not below it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_torch_stays_in_its_place(path: Path) -> None:
    if str(path.relative_to(PACKAGE).as_posix()) in TORCH_ALLOWED:
        return
    if room_of(path) == "evaluate":
        return
    names = {name.split(".")[0] for name in imported(path)}
    assert not names & {"torch", "triton", "llama_cpp", "transformers"}


CPU_PATH = """
import sys
import localllm, localllm.cli.app, localllm.cli.run, localllm.cli.chat
import localllm.engine.engine, localllm.chat.session, localllm.chat.repl, localllm.models.registry
heavy = {"torch", "triton", "transformers", "llama_cpp", "gguf"} & set(sys.modules)
assert not heavy, heavy
"""


def test_the_cpu_path_imports_no_torch() -> None:
    subprocess.run([sys.executable, "-c", CPU_PATH], check=True, cwd=PACKAGE.parent)


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from localllm.cli.app import run
assert run(["--help"]) == 0
heavy = {"typer", "click", "rich", "numpy", "jinja2", "prompt_toolkit", "pydantic"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=PACKAGE.parent, stdout=subprocess.DEVNULL
    )
