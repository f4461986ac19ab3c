"""Qwen3 with experts; the chosen probabilities are made to sum to 1."""

from __future__ import annotations

from localllm.gguf import GGUFFile
from localllm.models.blocks import Decoder, ExpertMLP, Layer, SelfAttention
from localllm.models.config import read_config
from localllm.models.rope import make_rope
from localllm.models.weights import Weights


def build(file: GGUFFile, context: int) -> Decoder:
    """The definition of a `qwen3moe` file."""
    config = read_config(file)
    rope = make_rope(config.rope, interleaved=False)

    def layer(block: Weights, number: int) -> Layer:
        attention = SelfAttention.bind(block, number, rope, head_norms=True)
        return Layer.bind(block, attention, ExpertMLP.bind(block))

    return Decoder.bind(Weights(file, config), layer)
