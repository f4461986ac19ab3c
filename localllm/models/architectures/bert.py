"""BERT and what is made of it to embed texts: MiniLM, BGE, E5, GTE.

Its MLP uses the exact GELU, as the models were trained; llama.cpp computes the tanh approximation.
"""

from __future__ import annotations

from dataclasses import replace

from localllm.gguf import GGUFFile
from localllm.models.blocks import SelfAttention
from localllm.models.config import read_config
from localllm.models.encoder import MLP, Encoder, EncoderLayer
from localllm.models.weights import Weights


def build(file: GGUFFile, context: int) -> Encoder:
    """The definition of a `bert` file."""
    config = replace(read_config(file), causal=False)

    def layer(block: Weights, number: int) -> EncoderLayer:
        attention = SelfAttention.bind(block, number, rope=None)
        return EncoderLayer.bind(block, attention, MLP.bind(block, "gelu_erf"))

    segments = file.get("tokenizer.ggml.token_type_count", int)
    return Encoder.bind(Weights(file, config), layer, segments)
