"""Llama 2, 3, 3.1, 3.2, Mistral, TinyLlama, and with experts Mixtral.

The rows of q and k change from halves of a head to neighbouring pairs. A sliding window is left
out, as in llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localllm.convert.checkpoint import Checkpoint
from localllm.convert.layout import (
    DECODER,
    GATED_MLP,
    Layout,
    decoder_metadata,
    expert_metadata,
    head_dim,
    require,
)
from localllm.convert.rope import rope_fields, rope_tensors
from localllm.ops.spec import Float32

_EXPERTS = {
    "layers.{}.block_sparse_moe.gate": "blk.{}.ffn_gate_inp",
    "layers.{}.block_sparse_moe.experts.{}.w1": "blk.{}.ffn_gate_exps",
    "layers.{}.block_sparse_moe.experts.{}.w2": "blk.{}.ffn_down_exps",
    "layers.{}.block_sparse_moe.experts.{}.w3": "blk.{}.ffn_up_exps",
}


def layout(checkpoint: Checkpoint) -> Layout:
    """The layout of a checkpoint of this family."""
    mixture = checkpoint.config.has("num_local_experts")
    names = DECODER | (_EXPERTS if mixture else GATED_MLP)
    return Layout("llama", names, _metadata, turned=_turned, extra=_rope_factors)


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    require(config, "hidden_act", "silu")
    metadata = decoder_metadata(config)
    metadata["rope.dimension_count"] = head_dim(config)
    if config.has("num_local_experts"):
        metadata |= expert_metadata(config)
    return metadata


def _turned(checkpoint: Checkpoint) -> Mapping[str, int]:
    heads = checkpoint.config.integer("num_attention_heads")
    kv_heads = checkpoint.config.integer("num_key_value_heads", heads)
    return {"blk.{}.attn_q": heads, "blk.{}.attn_k": kv_heads}


def _rope_factors(checkpoint: Checkpoint) -> Mapping[str, Float32]:
    config = checkpoint.config
    return rope_tensors(config, rope_fields(config), head_dim(config))
