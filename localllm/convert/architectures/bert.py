"""BERT encoders that embed texts: MiniLM, BGE and their like, without the heads of pretraining."""

from __future__ import annotations

from typing import Any

from localllm.convert.checkpoint import Checkpoint, inner_name
from localllm.convert.fields import Fields, read_fields, read_json
from localllm.convert.layout import Layout, require

_BLOCK = "encoder.layer.{}."
_NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    f"{_BLOCK}attention.self.query": "blk.{}.attn_q",
    f"{_BLOCK}attention.self.key": "blk.{}.attn_k",
    f"{_BLOCK}attention.self.value": "blk.{}.attn_v",
    f"{_BLOCK}attention.output.dense": "blk.{}.attn_output",
    f"{_BLOCK}attention.output.LayerNorm": "blk.{}.attn_output_norm",
    f"{_BLOCK}intermediate.dense": "blk.{}.ffn_up",
    f"{_BLOCK}output.dense": "blk.{}.ffn_down",
    f"{_BLOCK}output.LayerNorm": "blk.{}.layer_output_norm",
}
_POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}  # llama.cpp's enum llama_pooling_type
_POOLING_FLAGS = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "lasttoken": "pooling_mode_lasttoken",
}


def layout(checkpoint: Checkpoint) -> Layout:
    """The layout of a checkpoint of this family."""
    return Layout(
        "bert",
        _NAMES,
        _metadata,
        prefixes=("bert.",),
        dropped=("embeddings.position_ids", "pooler.", "cls."),
    )


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    require(config, "hidden_act", "gelu")
    require(config, "position_embedding_type", "absolute")
    require(config, "is_decoder", False)
    metadata: dict[str, Any] = {
        "block_count": config.integer("num_hidden_layers", high=4096),
        "context_length": config.integer("max_position_embeddings", high=1 << 31),
        "embedding_length": config.integer("hidden_size"),
        "feed_forward_length": config.integer("intermediate_size"),
        "attention.head_count": config.integer("num_attention_heads"),
        "attention.layer_norm_epsilon": config.number("layer_norm_eps", 1e-12, high=1),
        "attention.causal": False,
    }
    pooling = _pooling(checkpoint)
    return metadata if pooling is None else metadata | {"pooling_type": pooling}


def _pooling(checkpoint: Checkpoint) -> int | None:
    """How the vectors of a text become one, where the files of sentence-transformers say it."""
    path = checkpoint.folder / _pooling_folder(checkpoint) / "config.json"
    if not path.is_file():
        return None
    fields = read_fields(path)
    modes = [mode for mode, flag in _POOLING_FLAGS.items() if fields.flag(flag, False)]
    modes = modes or [fields.text("pooling_mode", "none")]
    if len(modes) > 1 or modes[0] not in _POOLING:
        raise fields.fail("pooling_mode", f"one of {', '.join(_POOLING)} is supported")
    return _POOLING[modes[0]]


def _pooling_folder(checkpoint: Checkpoint) -> str:
    listed = checkpoint.folder / "modules.json"
    if listed.is_file():
        for module in Fields({"modules": read_json(listed)}, str(listed)).objects("modules"):
            if module.text("type").endswith("Pooling"):
                return inner_name(module.text("path"), module.where)
    return "1_Pooling"
