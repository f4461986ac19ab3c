"""Opens an adapter in whichever form it is stored."""

from __future__ import annotations

import os
from pathlib import Path

from localllm.models.adapters.base import AdapterFile
from localllm.models.adapters.gguf import read_gguf
from localllm.models.adapters.peft import read_peft
from localllm.models.blocks import Model


def open_adapter(path: str | Path, model: Model) -> AdapterFile:
    """An adapter for a model, checked against it.

    Args:
        path: a GGUF file or a folder as PEFT saves it.
        model: what it will be used with.

    Raises:
        ModelFileError: it cannot be read, or does what is not supported, or is for another model.
    """
    path = Path(path)
    read = read_peft if os.path.isdir(path) else read_gguf  # False, too, where none may look
    return AdapterFile(path, read(path, model), model)
