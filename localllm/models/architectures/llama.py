"""Llama 2, 3, 3.1, 3.2, Mistral, TinyLlama, and with experts Mixtral.

The converter permutes q and k so that rotation pairs are neighbours. `rope_freqs` carries the
frequency divisors of Llama 3.1.
"""

from __future__ import annotations

from localllm.gguf import GGUFFile
from localllm.models.blocks import Decoder, ExpertMLP, GatedMLP, Layer, SelfAttention
from localllm.models.config import read_config
from localllm.models.rope import make_rope, read_factors
from localllm.models.weights import Weights


def build(file: GGUFFile, context: int) -> Decoder:
    """The definition of a `llama` file."""
    config = read_config(file)
    weights = Weights(file, config)
    rope = make_rope(config.rope, interleaved=True, factors=read_factors(weights, context))

    def layer(block: Weights, number: int) -> Layer:
        attention = SelfAttention.bind(block, number, rope)
        mlp = ExpertMLP.bind(block) if config.experts else GatedMLP.bind(block)
        return Layer.bind(block, attention, mlp)

    return Decoder.bind(weights, layer)
