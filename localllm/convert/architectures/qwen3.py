"""Qwen3 (dense): every head of q and k is normed."""

from __future__ import annotations

from typing import Any

from localllm.convert.checkpoint import Checkpoint
from localllm.convert.layout import (
    DECODER,
    GATED_MLP,
    HEAD_NORMS,
    Layout,
    decoder_metadata,
    require,
)

_HEAD_DIM = 128  # where the config does not say


def layout(checkpoint: Checkpoint) -> Layout:
    """The layout of a checkpoint of this family."""
    return Layout("qwen3", DECODER | HEAD_NORMS | GATED_MLP, metadata)


def metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """The keys that Qwen3 has with and without experts."""
    require(checkpoint.config, "hidden_act", "silu")
    require(checkpoint.config, "use_sliding_window", False)
    length = checkpoint.config.integer("head_dim", _HEAD_DIM)
    return {
        **decoder_metadata(checkpoint.config),
        "attention.key_length": length,
        "attention.value_length": length,
    }
