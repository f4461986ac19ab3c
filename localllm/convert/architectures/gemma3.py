"""Gemma 3, the text model alone or out of the one that sees; norm weights become 1 + w."""

from __future__ import annotations

from typing import Any

from localllm.convert.checkpoint import Checkpoint
from localllm.convert.fields import Fields
from localllm.convert.layout import (
    DECODER,
    GATED_MLP,
    HEAD_NORMS,
    Layout,
    decoder_metadata,
    head_dim,
    require,
)
from localllm.convert.rope import rope_fields, rope_kind

_NORMS = {
    "layers.{}.post_attention_layernorm": "blk.{}.post_attention_norm",
    "layers.{}.pre_feedforward_layernorm": "blk.{}.ffn_norm",
    "layers.{}.post_feedforward_layernorm": "blk.{}.post_ffw_norm",
}
# what configs leave out where it is as in the smallest model
_DEFAULTS = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
}
_PERIOD = 6  # the last of so many layers sees everything
_LAYERS_OF_27B = 62


def layout(checkpoint: Checkpoint) -> Layout:
    """The layout of a checkpoint of this family."""
    return Layout(
        "gemma3",
        DECODER | HEAD_NORMS | GATED_MLP | _NORMS,
        _metadata,
        prefixes=("model.", "language_model.", "model."),
        dropped=("vision_tower.", "multi_modal_projector."),
        shift=1.0,
    )


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    text = checkpoint.config.object("text_config").values or checkpoint.config.values
    config = Fields(_DEFAULTS | text, checkpoint.config.where)
    require(config, "hidden_activation", "gelu_pytorch_tanh")
    require(config, "use_bidirectional_attention", False)
    if config.has("attn_logit_softcapping"):
        raise config.fail("attn_logit_softcapping", "is not supported")
    layers = config.integer("num_hidden_layers", high=4096)
    scaled_by = head_dim(config)
    if layers == _LAYERS_OF_27B:
        scaled_by = config.integer("hidden_size") // config.integer("num_attention_heads")
    require(config, "query_pre_attn_scalar", scaled_by)
    rope = rope_fields(config)
    metadata = decoder_metadata(config, Fields({"rope_theta": 1e6} | rope.values, rope.where))
    metadata["rope.freq_base_swa"] = _local_base(config)
    metadata["attention.sliding_window"] = config.integer("sliding_window")
    if config.has("final_logit_softcapping"):
        metadata["final_logit_softcapping"] = config.number("final_logit_softcapping")
    local = _local_layers(config, layers)
    if local != [n % _PERIOD < _PERIOD - 1 for n in range(layers)]:
        metadata["attention.sliding_window_pattern"] = local
    return metadata


def _local_base(config: Fields) -> float:
    """The rope base of the layers with a sliding window, which scale nothing."""
    if not config.has("rope_parameters"):
        return config.number("rope_local_base_freq", 10000.0, low=1)
    rope = rope_fields(config, "sliding_attention")
    if rope_kind(rope) != "default":
        raise rope.fail("rope_type", f"{rope_kind(rope)!r} is not supported")
    return rope.number("rope_theta", 10000.0, low=1)


def _local_layers(config: Fields, layers: int) -> list[bool]:
    """Which layers have a sliding window: said by layer, or as the period of those without."""
    if config.has("layer_types"):
        types = config.array("layer_types")
        if len(types) != layers or set(types) - {"sliding_attention", "full_attention"}:
            raise config.fail("layer_types", f"must name the kinds of {layers} layers")
        return [kind == "sliding_attention" for kind in types]
    period = config.integer("sliding_window_pattern", _PERIOD)
    return [n % period < period - 1 for n in range(layers)]
