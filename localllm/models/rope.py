"""Inverse frequencies of rotary position embeddings, with the scalings that files ask for."""

from __future__ import annotations

import math

import numpy as np

from localllm.models.config import RopeConfig
from localllm.models.weights import Weights
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


def llama3_divisors(
    dims: int,
    base: float,
    original_context: int,
    factor: float = 8.0,
    low: float = 1.0,
    high: float = 4.0,
) -> Float32:
    """Llama 3.1: long waves are stretched by the factor, short ones kept, between them a ramp.

    Args:
        dims: that are rotated.
        base: of the frequencies.
        original_context: that the model was trained with at first.
        factor: divisor of the lowest frequencies.
        low: turns within that context up to which a wave is long.
        high: turns from which it is short.

    Returns:
        float32 [dims / 2].
    """
    # in float32, as the models' own code has it
    frequencies = 1 / np.float32(base) ** (np.arange(0, dims, 2, dtype=np.float32) / dims)
    turns = original_context * frequencies.astype(np.float64) / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    divisors: Float32 = (1 / ((1 - kept) / factor + kept)).astype(np.float32)
    return divisors


def read_factors(weights: Weights, context: int) -> Float32 | None:
    """The divisors of the frequencies that a file holds, float32 [dims / 2].

    Llama 3.1 has one set (`rope_freqs`). LongRoPE (https://arxiv.org/abs/2402.13753) has two, of
    which the context that the model is run with chooses.
    """
    rope = weights.config.rope
    pairs = rope.dims // 2
    short = weights.vector("rope_factors_short.weight", pairs)
    long = weights.vector("rope_factors_long.weight", pairs)
    one = weights.vector("rope_freqs.weight", pairs)
    if one is not None:
        return one
    return long if context > rope.original_context else short


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
