"""Inverse frequencies of rotary position embeddings, with the scalings that files ask for."""

from __future__ import annotations

import math

import numpy as np

from localllm.models.config import RopeConfig
from localllm.ops.spec import Float32, Rope


def make_rope(config: RopeConfig, *, interleaved: bool, factors: Float32 | None = None) -> Rope:
    """The rotation of a configuration.

    Args:
        config: base, dimensions and scaling.
        interleaved: whether pairs are neighbours or halves of a head.
        factors: float32 [dims / 2], divisors of the frequencies (Llama 3, LongRoPE).
    """
    pairs = np.arange(config.dims // 2, dtype=np.float64)
    frequencies = config.base ** (-2.0 * pairs / config.dims)
    if factors is not None:
        frequencies = frequencies / factors.astype(np.float64)
    scale = config.attention_factor
    if config.scaling == "yarn":
        kept = _unscaled_share(config, pairs)
        frequencies = frequencies * (kept + (1 - kept) / config.factor)
        scale *= 1 + 0.1 * math.log(max(config.factor, 1.0))
    else:
        frequencies = frequencies / config.factor
    return Rope(frequencies.astype(np.float32), interleaved, scale)


def _unscaled_share(config: RopeConfig, pairs: np.ndarray) -> np.ndarray:
    """YaRN (https://arxiv.org/abs/2309.00071): how much of each frequency stays as it was, 0..1."""

    def pair_that_turns(times: float) -> float:
        turns = config.original_context / (times * 2 * math.pi)
        return config.dims * math.log(turns) / (2 * math.log(config.base))

    low = max(0.0, math.floor(pair_that_turns(config.beta_fast)))
    high = min(config.dims - 1.0, math.ceil(pair_that_turns(config.beta_slow)))
    ramp = (pairs - low) / max(0.001, high - low)
    share: np.ndarray = 1 - np.clip(ramp, 0, 1)
    return share
