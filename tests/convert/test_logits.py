"""Checkpoints of transformers, converted and run natively: the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytestmark = pytest.mark.peer
torch = pytest.importorskip("torch")

from localllm.convert import convert_checkpoint  # noqa: E402
from localllm.engine.engine import Engine  # noqa: E402
from localllm.gguf import GGUFFile  # noqa: E402
from localllm.models import load_definition  # noqa: E402
from localllm.ops import eager  # noqa: E402

from .building import DEFAULT_ROPE, PAIRS, model, save  # noqa: E402

TOKENS = 96
EXPERTS: dict[str, Any] = {
    "num_local_experts": 6,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "moe_intermediate_size": 48,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama tied": ("Llama", {"tie_word_embeddings": True}),
    "llama wide heads": ("Llama", {"head_dim": 32}),
    "llama 3.1": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "llama linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mixtral": ("Mixtral", EXPERTS),
    "qwen2": ("Qwen2", {}),
    "qwen2 yarn": (
        "Qwen2",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "qwen2 yarn with a factor": (
        "Qwen2",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "attention_factor": 1.3,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3 tied": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen3moe": ("Qwen3Moe", {"head_dim": 32, **EXPERTS}),
    "phi3": ("Phi3", {}),
    "phi3 part of a head": (
        "Phi3",
        {"rope_parameters": {**DEFAULT_ROPE, "partial_rotary_factor": 0.5}},
    ),
    "phi3 longrope": (
        "Phi3",
        {
            "original_max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "long_factor": [1.0 + i for i in range(PAIRS)],
                "short_factor": [1.0 + i / 10 for i in range(PAIRS)],
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "gemma3": (
        "Gemma3Text",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "tie_word_embeddings": True,
            "rope_parameters": {
                "sliding_attention": DEFAULT_ROPE,
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            },
        },
    ),
    "gemma3 as published": (
        "Gemma3Text",
        {
            "num_hidden_layers": 7,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 24,
            "tie_word_embeddings": True,
        },
    ),
}


class Errors(NamedTuple):
    """How far values are off from those of transformers in float32, as a part of the largest.

    Attributes:
        eager: hidden states and logits of the eager definition, at most.
        native: logits of the native one with keys and values in full precision, at most.
        half: with keys and values in half precision (so that a near tie of experts may go the
            other way), for half of the tokens.
    """

    eager: float
    native: float
    half: float

    def check(self) -> None:
        """What is promised."""
        assert self.eager <= 1e-4
        assert self.native <= 1e-4
        assert self.half <= 2e-3


def errors(made: Any, file: Path) -> Errors:
    """Measures them on one text."""
    tokens = torch.randint(3, 500, (TOKENS,), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        outputs = made.float()(tokens[None], output_hidden_states=True)
        exact = eager.run(load_definition(GGUFFile.open(file)), tokens)
    expected = {"logits": outputs.logits[0], "hidden": outputs.hidden_states[-1][0]}
    largest = max(
        float((exact[name] - values).abs().max() / values.abs().max())
        for name, values in expected.items()
    )
    logits = expected["logits"].numpy()

    def of_tokens(kv_type: str) -> np.ndarray:
        engine = Engine.load(file, context=256, kv_type=kv_type)
        found = np.concatenate(list(engine.logits(tokens.tolist())))
        return np.abs(found - logits).max(axis=1) / np.abs(logits).max()

    return Errors(largest, float(of_tokens("f32").max()), float(np.median(of_tokens("f16"))))


@pytest.mark.parametrize("name", MODELS)
def test_logits(tmp_path: Path, name: str) -> None:
    kind, options = MODELS[name]
    made = model(kind, **options)
    folder = save(made, tmp_path / "checkpoint")
    file = tmp_path / "model.gguf"
    convert_checkpoint(folder, file, type="F32")
    found = errors(made, file)
    print(f"error of the logits: {found}")
    found.check()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["Llama", "Mixtral"])
def test_shards_and_types(tmp_path: Path, kind: str, dtype: str) -> None:
    made = model(kind, getattr(torch, dtype), **(EXPERTS if kind == "Mixtral" else {}))
    folder = save(made, tmp_path / "checkpoint", max_shard_size="60KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    file = tmp_path / "model.gguf"
    convert_checkpoint(folder, file, type="F32")
    # read again: a change of type has rounded the rope frequencies too
    errors(type(made).from_pretrained(folder, dtype=torch.float32), file).check()
