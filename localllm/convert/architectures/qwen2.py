"""Qwen2 and Qwen2.5: biases on q, k and v."""

from __future__ import annotations

from typing import Any

from localllm.convert.checkpoint import Checkpoint
from localllm.convert.layout import DECODER, GATED_MLP, Layout, decoder_metadata, require


def layout(checkpoint: Checkpoint) -> Layout:
    """The layout of a checkpoint of this family."""
    return Layout("qwen2", DECODER | GATED_MLP, _metadata)


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    require(checkpoint.config, "hidden_act", "silu")
    require(checkpoint.config, "use_sliding_window", False)
    return decoder_metadata(checkpoint.config)
