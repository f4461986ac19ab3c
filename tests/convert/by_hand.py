"""A small Llama checkpoint written by hand: for tests without transformers, and for bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.models.adapting import entry, with_header

WIDTH, HEADS, KV_HEADS, FFN, ROWS, BLOCKS = 32, 2, 1, 48, 270, 2
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "intermediate_size": FFN,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "vocab_size": ROWS,
    "hidden_act": "silu",
}
SHAPES = {
    "model.embed_tokens.weight": (ROWS, WIDTH),
    "model.norm.weight": (WIDTH,),
    "lm_head.weight": (ROWS, WIDTH),
} | {
    f"model.layers.{block}.{name}.weight": shape
    for block in range(BLOCKS)
    for name, shape in {
        "input_layernorm": (WIDTH,),
        "post_attention_layernorm": (WIDTH,),
        "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (WIDTH // 2, WIDTH),
        "self_attn.v_proj": (WIDTH // 2, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH),
        "mlp.gate_proj": (FFN, WIDTH),
        "mlp.up_proj": (FFN, WIDTH),
        "mlp.down_proj": (WIDTH, FFN),
    }.items()
}
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
TOKENS += ["▁", "a", "b", "c", "ab", "▁ab", "abc"]
TOKENIZER: dict[str, Any] = {
    "added_tokens": [
        {"id": number, "content": text, "special": True}
        for number, text in enumerate(("<unk>", "<s>", "</s>"))
    ],
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    },
    "pre_tokenizer": None,
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
        "pair": [],
    },
    "model": {
        "type": "BPE",
        "unk_token": "<unk>",
        "byte_fallback": True,
        "vocab": {token: number for number, token in enumerate(TOKENS)},
        "merges": ["a b", ["▁", "ab"], "ab c"],
    },
}


def tensors() -> dict[str, np.ndarray]:
    """Float32 values of every tensor."""
    random = np.random.default_rng(5)
    return {name: random.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}


def write_safetensors(path: Path, values: dict[str, np.ndarray], kind: str = "F32") -> None:
    """A file of float32 arrays, stored as F32, F16 or BF16."""
    header, data = {}, b""
    for name, value in values.items():
        stored = encoded(value, kind)
        header[name] = entry(kind, value.shape, len(data), len(data) + len(stored))
        data += stored
    path.write_bytes(with_header(header, data))


def encoded(value: np.ndarray, kind: str) -> bytes:
    """The bytes of float32 values as another type; BF16 cuts off what it cannot hold."""
    if kind == "BF16":
        return (np.ascontiguousarray(value).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return value.astype({"F32": np.float32, "F16": np.float16}[kind]).tobytes()


def checkpoint(
    folder: Path,
    values: dict[str, np.ndarray] | None = None,
    *,
    config: dict[str, Any] | None = None,
    tokenizer: Any = TOKENIZER,
    kind: str = "F32",
) -> Path:
    """Writes a checkpoint folder."""
    folder.mkdir(exist_ok=True)
    write_safetensors(folder / "model.safetensors", values or tensors(), kind)
    (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder
