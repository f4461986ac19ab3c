"""Phi-3, Phi-3.5 and Phi-4: q, k, v in one tensor and gate, up in another; LongRoPE factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localllm.convert.checkpoint import Checkpoint
from localllm.convert.layout import DECODER_BUT_QKV, Layout, decoder_metadata, head_dim, require
from localllm.convert.rope import rope_fields, rope_kind, rope_tensors
from localllm.ops.spec import Float32

_FUSED = {
    "layers.{}.self_attn.qkv_proj": "blk.{}.attn_qkv",
    "layers.{}.mlp.gate_up_proj": "blk.{}.ffn_up",
    "layers.{}.mlp.down_proj": "blk.{}.ffn_down",
}


def layout(checkpoint: Checkpoint) -> Layout:
    """The layout of a checkpoint of this family."""
    return Layout("phi3", DECODER_BUT_QKV | _FUSED, _metadata, extra=_rope_factors)


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    require(config, "hidden_act", "silu")
    rope = rope_fields(config)
    if rope_kind(rope) not in ("default", "longrope"):
        raise rope.fail("rope_type", f"{rope_kind(rope)!r} is not supported")
    context = config.integer("max_position_embeddings", high=1 << 31)
    original = config.integer("original_max_position_embeddings", context)
    window = config.integer("sliding_window", 0, low=0)
    return {
        **decoder_metadata(config, rope),
        "attention.sliding_window": window,  # none is written as 0
        "rope.dimension_count": _turning(checkpoint),
        "rope.scaling.original_context_length": rope.integer(
            "original_max_position_embeddings", original
        ),
    }


def _turning(checkpoint: Checkpoint) -> int:
    """How many dimensions of a head turn."""
    share = rope_fields(checkpoint.config).number("partial_rotary_factor", 1.0, high=1)
    return int(share * head_dim(checkpoint.config))


def _rope_factors(checkpoint: Checkpoint) -> Mapping[str, Float32]:
    config = checkpoint.config
    return rope_tensors(config, rope_fields(config), _turning(checkpoint))
