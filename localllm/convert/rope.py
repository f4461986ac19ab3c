"""Rotary position embedding: from config.json to GGUF metadata and tensors of factors.

transformers has two forms of it: `rope_parameters`, with the base in it and one set for each kind
of layer where these differ; before version 5 `rope_scaling`, with `rope_theta` beside it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from localllm.convert.fields import Fields
from localllm.models.rope import llama3_divisors
from localllm.ops.spec import Float32

_UNSCALED = ("default", "dynamic")  # dynamic: scales beyond the trained context only


def rope_fields(config: Fields, layers: str = "full_attention") -> Fields:
    """The rope parameters of a config, of the layers of one kind where these differ."""
    if not config.has("rope_parameters"):
        scaling = config.object("rope_scaling")
        kept = {key: config.values[key] for key in _BESIDE if config.has(key)}
        return Fields({**kept, **scaling.values}, scaling.where)
    parameters = config.object("rope_parameters")
    if not isinstance(parameters.values.get(layers), dict):
        return parameters
    return parameters.object(layers)


_BESIDE = ("rope_theta", "original_max_position_embeddings", "partial_rotary_factor")


def rope_kind(rope: Fields) -> str:
    """How the frequencies are scaled, in the words of transformers."""
    kind = rope.text("rope_type", rope.text("type", "default"))
    return "longrope" if kind == "su" else kind


def rope_metadata(config: Fields, rope: Fields) -> dict[str, Any]:
    """Base and scaling under their GGUF keys, without the architecture's name before them.

    Raises:
        ModelFileError: a scaling that is not supported.
    """
    base = rope.number("rope_theta", 10000.0, low=1, high=1e12)
    found: dict[str, Any] = {"rope.freq_base": base}
    kind = rope_kind(rope)
    if kind == "linear":
        found["rope.scaling.type"] = kind
        found["rope.scaling.factor"] = rope.number("factor")
    elif kind == "yarn":
        found |= _yarn(config, rope)
    elif kind == "longrope":
        found |= _longrope(config, rope)
    elif kind not in (*_UNSCALED, "llama3"):
        raise rope.fail("rope_type", f"{kind!r} is not supported")
    return found


def rope_tensors(config: Fields, rope: Fields, dims: int) -> dict[str, Float32]:
    """The divisors of the frequencies, float32 [dims / 2] each; most models have none."""
    kind = rope_kind(rope)
    if kind == "llama3":
        return {"rope_freqs.weight": _llama3_divisors(rope, dims)}
    if kind == "longrope":
        return {
            f"rope_factors_{name}.weight": _factors(rope, f"{name}_factor", dims // 2)
            for name in ("long", "short")
        }
    return {}


def _yarn(config: Fields, rope: Fields) -> dict[str, Any]:
    """YaRN: https://arxiv.org/abs/2309.00071."""
    if not rope.flag("truncate", True):
        raise rope.fail("truncate", "false is not supported")
    original = rope.integer(
        "original_max_position_embeddings", config.integer("max_position_embeddings")
    )
    factor = rope.number("factor", config.integer("max_position_embeddings") / original)
    found = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": original,
    }
    # runtimes multiply by the usual factor themselves
    usual = 1 + 0.1 * math.log(max(factor, 1.0))
    if rope.has("attention_factor") and rope.number("attention_factor") != usual:
        found["rope.scaling.attn_factor"] = rope.number("attention_factor") / usual
    for key in ("beta_fast", "beta_slow"):
        if rope.has(key):
            found[f"rope.scaling.yarn_{key}"] = rope.number(key)
    return found


def _longrope(config: Fields, rope: Fields) -> dict[str, Any]:
    """LongRoPE: https://arxiv.org/abs/2402.13753."""
    original = rope.integer("original_max_position_embeddings")
    scale = config.integer("max_position_embeddings") / original
    usual = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
    return {"rope.scaling.attn_factor": rope.number("attention_factor", usual)}


def _factors(rope: Fields, key: str, count: int) -> Float32:
    values = rope.array(key)
    sane = all(type(value) in (int, float) and 0 < value < 1e6 for value in values)
    if len(values) != count or not sane:
        raise rope.fail(key, f"must be {count} positive numbers")
    return np.array(values, np.float32)


def _llama3_divisors(rope: Fields, dims: int) -> Float32:
    base = rope.number("rope_theta", 10000.0, low=1, high=1e12)
    factor = rope.number("factor", 8.0, low=1)
    low, high = rope.number("low_freq_factor", 1.0), rope.number("high_freq_factor", 4.0)
    if low >= high:
        raise rope.fail("low_freq_factor", f"{low:g} must be less than high_freq_factor {high:g}")
    original = rope.integer("original_max_position_embeddings", 8192)
    return llama3_divisors(dims, base, original, factor, low, high)
