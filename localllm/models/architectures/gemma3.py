"""Gemma 3: local layers with a sliding window and their own rope base, five for each global one.

Norms before and after attention and MLP, norms on the heads of q and k; the embedding is scaled by
sqrt(width). The norm weights in GGUF already hold the 1 + w of the original.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from localllm.gguf import GGUFFile
from localllm.models.blocks import Decoder, GatedMLP, Layer, SelfAttention
from localllm.models.config import LEAST_BASE, Keys, ModelConfig, read_config
from localllm.models.rope import make_rope
from localllm.models.weights import Weights

_LAYERS_OF_27B = 62


def build(file: GGUFFile, context: int) -> Decoder:
    """The definition of a `gemma3` file."""
    keys = Keys(file)
    config = read_config(file)
    # the 27B is scaled by the width a head would have, not by the one it has
    scaled_by = config.head_dim
    if config.layers == _LAYERS_OF_27B:
        scaled_by = config.width // config.heads
    config = replace(
        config,
        window=keys.integer("attention.sliding_window", 0, low=0) or None,
        attention_scale=max(scaled_by, 1) ** -0.5,
        logit_softcap=keys.number("final_logit_softcapping", 0.0) or None,
    )
    local = _local_layers(keys, config)
    local_base = keys.number("rope.freq_base_swa", 10000.0, low=LEAST_BASE)
    global_rope = make_rope(config.rope, interleaved=False)
    local_rope = make_rope(replace(config.rope, base=local_base, factor=1.0), interleaved=False)

    def layer(block: Weights, number: int) -> Layer:
        attention = SelfAttention.bind(
            block,
            number,
            local_rope if local[number] else global_rope,
            window=config.window if local[number] else None,
            head_norms=True,
        )
        return Layer.bind(block, attention, GatedMLP.bind(block, "gelu"), post_norms=True)

    return Decoder.bind(Weights(file, config), layer, embedding_scale=config.width**0.5)


def _local_layers(keys: Keys, config: ModelConfig) -> list[bool]:
    """Which layers are local: said by layer, or as the period of which the last is global."""
    key = "attention.sliding_window_pattern"
    pattern = keys.file.metadata.get(keys.full(key))
    if config.window is None:
        return [False] * config.layers
    if isinstance(pattern, np.ndarray):
        if len(pattern) < config.layers:
            raise keys.fail(key, f"{len(pattern)} values for {config.layers} layers")
        return [bool(one) for one in pattern[: config.layers]]
    period = keys.integer(key, 6, low=0)
    return [period == 0 or number % period < period - 1 for number in range(config.layers)]
