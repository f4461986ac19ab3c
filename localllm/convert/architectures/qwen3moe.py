"""Qwen3 with experts in every layer; the chosen probabilities are made to sum to 1."""

from __future__ import annotations

from typing import Any

from localllm.convert.architectures import qwen3
from localllm.convert.checkpoint import Checkpoint
from localllm.convert.layout import DECODER, HEAD_NORMS, Layout, expert_metadata, require

_EXPERTS = {
    "layers.{}.mlp.gate": "blk.{}.ffn_gate_inp",
    "layers.{}.mlp.experts.{}.gate_proj": "blk.{}.ffn_gate_exps",
    "layers.{}.mlp.experts.{}.up_proj": "blk.{}.ffn_up_exps",
    "layers.{}.mlp.experts.{}.down_proj": "blk.{}.ffn_down_exps",
}


def layout(checkpoint: Checkpoint) -> Layout:
    """The layout of a checkpoint of this family."""
    return Layout("qwen3moe", DECODER | HEAD_NORMS | _EXPERTS, _metadata)


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    require(config, "norm_topk_prob", True)
    require(config, "decoder_sparse_step", 1)
    require(config, "mlp_only_layers", [])
    return {
        **qwen3.metadata(checkpoint),
        **expert_metadata(config),
        "expert_feed_forward_length": config.integer("moe_intermediate_size"),
    }
