"""Phi-3, Phi-3.5 and Phi-4: q, k, v in one tensor and gate, up in another; LongRoPE factors.

The sliding window that some files name is left out, as in llama.cpp: it is not what the models were
trained with.
"""

from __future__ import annotations

from localllm.gguf import GGUFFile
from localllm.models.blocks import Decoder, GatedMLP, Layer, SelfAttention
from localllm.models.config import read_config
from localllm.models.rope import make_rope, read_factors
from localllm.models.weights import Weights


def build(file: GGUFFile, context: int) -> Decoder:
    """The definition of a `phi3` file."""
    config = read_config(file)
    weights = Weights(file, config)
    rope = make_rope(config.rope, interleaved=False, factors=read_factors(weights, context))

    def layer(block: Weights, number: int) -> Layer:
        return Layer.bind(block, SelfAttention.bind(block, number, rope), GatedMLP.bind(block))

    return Decoder.bind(weights, layer)
