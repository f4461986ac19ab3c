"""Finds the definition of a file's architecture by name.

An architecture is a module of `localllm.models.architectures` with

    def build(file: GGUFFile, context: int) -> Model
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from functools import cache
from importlib import import_module

from localllm.errors import ModelFileError
from localllm.gguf import GGUFFile
from localllm.gguf.metadata import shown
from localllm.models import architectures
from localllm.models.blocks import Model
from localllm.models.config import read_config


@cache
def supported_architectures() -> tuple[str, ...]:
    """Names as they stand in `general.architecture`, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(architectures.__path__)))


def load_definition(file: GGUFFile, context: int | None = None) -> Model:
    """The definition of a model file, every tensor checked against the configuration.

    Args:
        file: the open model file.
        context: tokens it will be run with (some models choose rope factors by it); default: as
            many as it was trained for.

    Raises:
        ModelFileError: an architecture that is not supported, or a file that contradicts itself.
    """
    arch = file.get("general.architecture", str)
    if arch not in supported_architectures():
        raise ModelFileError(
            f"{file.path}: general.architecture: {shown(arch)} is not supported "
            f"(supported: {', '.join(supported_architectures())})"
        )
    build: Callable[[GGUFFile, int], Model] = import_module(
        f"{architectures.__name__}.{arch}"
    ).build
    return build(file, context or read_config(file).context_length)
