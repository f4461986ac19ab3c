"""How the tensors of one architecture are called and stored, in a checkpoint and in GGUF."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from localllm.convert.checkpoint import Checkpoint
from localllm.convert.fields import Fields
from localllm.convert.rope import rope_fields, rope_metadata
from localllm.ops.spec import Float32

# Names of a decoder, checkpoint to GGUF, without .weight and .bias; {} stands for the number of a
# block, a second {} for that of an expert.
_BLOCK = "layers.{}."
HEAD_NORMS = {
    f"{_BLOCK}self_attn.q_norm": "blk.{}.attn_q_norm",
    f"{_BLOCK}self_attn.k_norm": "blk.{}.attn_k_norm",
}
GATED_MLP = {
    f"{_BLOCK}mlp.gate_proj": "blk.{}.ffn_gate",
    f"{_BLOCK}mlp.up_proj": "blk.{}.ffn_up",
    f"{_BLOCK}mlp.down_proj": "blk.{}.ffn_down",
}
DECODER_BUT_QKV = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "lm_head": "output",
    f"{_BLOCK}input_layernorm": "blk.{}.attn_norm",
    f"{_BLOCK}post_attention_layernorm": "blk.{}.ffn_norm",
    f"{_BLOCK}self_attn.o_proj": "blk.{}.attn_output",
}
DECODER = DECODER_BUT_QKV | {
    f"{_BLOCK}self_attn.q_proj": "blk.{}.attn_q",
    f"{_BLOCK}self_attn.k_proj": "blk.{}.attn_k",
    f"{_BLOCK}self_attn.v_proj": "blk.{}.attn_v",
}


def nothing(checkpoint: Checkpoint) -> dict[str, Any]:
    """No heads to turn, no tensors to add."""
    return {}


@dataclass(frozen=True)
class Layout:
    """One architecture.

    Attributes:
        arch: `general.architecture`.
        names: checkpoint to GGUF, without .weight and .bias.
        metadata: the keys that say its shape, without "arch." before them.
        prefixes: what may stand before a name in a checkpoint.
        dropped: beginnings of names, prefixes gone, of tensors that a text model needs not.
        turned: heads of the GGUF names whose rows change from halves of a head to pairs.
        shift: added to every norm weight.
        extra: tensors that no file holds: float32 arrays by GGUF name.
    """

    arch: str
    names: Mapping[str, str]
    metadata: Callable[[Checkpoint], dict[str, Any]]
    prefixes: tuple[str, ...] = ("model.",)
    dropped: tuple[str, ...] = ()
    turned: Callable[[Checkpoint], Mapping[str, int]] = nothing
    shift: float = 0.0
    extra: Callable[[Checkpoint], Mapping[str, Float32]] = nothing


def head_dim(config: Fields) -> int:
    """The width of a head, which not every config says."""
    width, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    return config.integer("head_dim", max(width // heads, 1))


def decoder_metadata(config: Fields, rope: Fields | None = None) -> dict[str, Any]:
    """What all decoders say: sizes, heads, context, the norms' epsilon, rope."""
    heads = config.integer("num_attention_heads")
    return {
        "block_count": config.integer("num_hidden_layers", high=4096),
        "context_length": config.integer("max_position_embeddings", high=1 << 31),
        "embedding_length": config.integer("hidden_size"),
        "feed_forward_length": config.integer("intermediate_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": config.integer("num_key_value_heads", heads),
        "attention.layer_norm_rms_epsilon": config.number("rms_norm_eps", 1e-6, high=1),
        "attention.key_length": head_dim(config),
        "attention.value_length": head_dim(config),
        **rope_metadata(config, rope or rope_fields(config)),
    }


def expert_metadata(config: Fields) -> dict[str, Any]:
    """How many experts there are, and how many a token uses."""
    key = "num_local_experts" if config.has("num_local_experts") else "num_experts"
    return {
        "expert_count": config.integer(key, high=4096),
        "expert_used_count": config.integer("num_experts_per_tok", high=4096),
    }


def require(config: Fields, key: str, expected: Any) -> None:
    """Refuses a config whose value for the key, where there is one, is another.

    Raises:
        ModelFileError: naming file, key and both values.
    """
    if config.has(key) and config.values[key] != expected:
        raise config.fail(key, f"{config.values[key]!r} is not supported ({expected!r} is)")
