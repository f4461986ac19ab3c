"""Runs a calibration text through a model and measures what its weights are multiplied with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import localllm
from localllm.engine.engine import Engine
from localllm.engine.runner import NativeRunner
from localllm.errors import LocalLLMError, UsageError
from localllm.ops.native import InputSquares

CALIBRATION_TEXT = Path(localllm.__file__).parent / "assets" / "calibration.txt"


def collect(
    engine: Engine,
    chunks: Sequence[Sequence[int]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, InputSquares]:
    """The squares of what each weight of a model is multiplied with, over some texts.

    All but the head's, which nothing is computed of: llama-imatrix leaves it out as well.

    Args:
        engine: of the CPU; its context holds each of the texts.
        chunks: token ids.
        progress: is told how many tokens are done, of how many.

    Returns:
        by the weight's name in the model file.

    Raises:
        UsageError: the engine computes elsewhere, or a text does not fit.
        LocalLLMError: an input is not finite; names the weight.
    """
    runner = engine.runner
    if not isinstance(runner, NativeRunner):
        raise UsageError("inputs are measured on the cpu only")
    total = sum(map(len, chunks))
    runner.collect_squares()
    reader = engine.read(chunks, "hidden")
    done = 0
    try:
        while reader.waiting:
            done += sum(len(rows) for _, rows in reader.step())
            progress(done, total)
    finally:
        reader.close()
    found = {name: one for name, one in runner.squares().items() if one.rows.any()}
    for name, one in found.items():
        if not (one.sums <= np.finfo(np.float32).max).all():  # nor is a NaN
            raise LocalLLMError(
                f"{engine.file.path}: {name}: what it is multiplied with is not finite",
                "the model's numbers overflow, or its weights are damaged",
            )
    return found
