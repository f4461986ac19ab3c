"""The configuration of a model, read from GGUF metadata and bounded.

Keys are those of the GGUF specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md);
defaults are those of llama.cpp, so that a file means the same here and there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from localllm.errors import ModelFileError, UsageError
from localllm.gguf import GGUFFile

_MANY = 1 << 24
LEAST_BASE = 1.001  # frequencies must fall, or YaRN has no pair to tell apart
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding.

    Attributes:
        dims: dimensions of each head that turn.
        base: the frequency base.
        scaling: "none", "linear", "yarn" or "longrope".
        factor: how much longer than the original the context became; 1 where nothing is scaled.
        original_context: tokens the model was first trained on.
        attention_factor: factor on cosine and sine.
        beta_fast: YaRN: turns within the original context above which a dimension is not scaled.
        beta_slow: YaRN: turns below which a dimension is scaled in full.
    """

    dims: int
    base: float
    scaling: str = "none"
    factor: float = 1.0
    original_context: int = 0
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True)
class ExpertConfig:
    """A mixture of experts: how many, how many a token uses, the width of each."""

    count: int
    used: int
    ffn: int


@dataclass(frozen=True)
class ModelConfig:
    """What the metadata says of a model; the tensors are checked against it.

    Attributes:
        arch: `general.architecture`.
        name: `general.name`, for people.
        layers: transformer blocks.
        width: of the residual stream.
        heads: query heads.
        kv_heads: heads of keys and values.
        head_dim: width of one head.
        ffn: inner width of the MLP.
        context_length: tokens the model was trained for.
        vocab: rows of the embedding.
        eps: of the norms.
        rope: rotary position embedding.
        experts: None for a dense model.
        window: sliding window of the local layers in tokens; None: all layers see everything.
        attention_scale: factor on the attention scores.
        logit_softcap: soft-capping of the logits; None: none.
        causal: a token sees what is before it. Otherwise the whole text: such a model makes vectors
            of texts, it generates none.
    """

    arch: str
    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    context_length: int
    vocab: int
    eps: float
    rope: RopeConfig
    experts: ExpertConfig | None = None
    window: int | None = None
    attention_scale: float = 1.0
    logit_softcap: float | None = None
    causal: bool = True


def require_generating(file: GGUFFile, config: ModelConfig) -> None:
    """Raises UsageError where a model makes vectors of texts and generates none."""
    if not config.causal:
        raise UsageError(
            f"{file.path.name}: an embedding model ({config.arch}): it generates no text",
            "`localllm embed` and /v1/embeddings take it",
        )


class Keys:
    """Typed, bounded metadata of one architecture; every failure names file and key."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self.arch = file.get("general.architecture", str)

    def full(self, key: str) -> str:
        """The key as it stands in the file."""
        return f"{self.arch}.{key}"

    def fail(self, key: str, problem: str) -> ModelFileError:
        """An error about a key."""
        return ModelFileError(f"{self.file.path}: {self.full(key)}: {problem}")

    def integer(
        self, key: str, default: int | None = None, *, low: int = 1, high: int = _MANY
    ) -> int:
        """A whole number within bounds; required where there is no default."""
        full = self.full(key)
        value = self.file.get(full, int) if default is None else self.file.get(full, int, default)
        if not low <= value <= high:
            raise self.fail(key, f"{value} is not within {low} and {high}")
        return value

    def number(
        self, key: str, default: float | None = None, *, low: float = 0.0, high: float = math.inf
    ) -> float:
        """A finite number within bounds."""
        full = self.full(key)
        if default is None:
            value = self.file.get(full, float)
        else:
            value = self.file.get(full, float, default)
        if not (math.isfinite(value) and low <= value <= high):
            raise self.fail(key, f"{value} is not a finite number from {low:g} to {high:g}")
        return value

    def uniform(self, key: str, layers: int, default: int | None = None) -> int:
        """A number that may stand once or once a layer; all layers must agree."""
        value = self.file.metadata.get(self.full(key))
        if not isinstance(value, np.ndarray):
            return self.integer(key, default)
        per_layer: list[Any] = value.tolist()
        if len(per_layer) < layers:
            raise self.fail(key, f"{len(per_layer)} values for {layers} layers")
        different = sorted(set(per_layer[:layers]))
        if len(different) != 1 or not isinstance(different[0], int):
            raise self.fail(key, "layers that differ in this are not supported")
        if not 1 <= different[0] <= _MANY:
            raise self.fail(key, f"{different[0]} is not within 1 and {_MANY}")
        return different[0]


def read_config(file: GGUFFile) -> ModelConfig:
    """The configuration that all supported architectures share.

    Raises:
        ModelFileError: a key is missing, of the wrong kind, out of bounds, or contradicts another.
    """
    keys = Keys(file)
    layers = keys.integer("block_count", high=4096)
    width = keys.integer("embedding_length")
    heads = keys.uniform("attention.head_count", layers)
    kv_heads = keys.uniform("attention.head_count_kv", layers, heads)
    if heads % kv_heads:
        raise keys.fail("attention.head_count_kv", f"{kv_heads} does not divide {heads} heads")
    head_dim = keys.integer("attention.key_length", max(width // heads, 1))
    value_dim = keys.integer("attention.value_length", max(width // heads, 1))
    if head_dim % 16 or head_dim > 512:
        raise keys.fail(
            "attention.key_length", f"heads of {head_dim} are not supported (16 to 512 in 16s are)"
        )
    if value_dim != head_dim:
        raise keys.fail(
            "attention.value_length", f"{value_dim}, but keys are {head_dim} wide: not supported"
        )
    context_length = keys.integer("context_length", high=1 << 31)
    return ModelConfig(
        arch=keys.arch,
        name=file.get("general.name", str, ""),
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=keys.uniform("feed_forward_length", layers),
        context_length=context_length,
        vocab=_vocabulary(file, keys),
        eps=_eps(keys),
        rope=_rope(keys, head_dim, context_length),
        experts=_experts(keys, layers),
        attention_scale=head_dim**-0.5,
        causal=bool(file.get(keys.full("attention.causal"), bool, True)),
    )


def _eps(keys: Keys) -> float:
    """Of RMS norms, or of layer norms where the file speaks of those alone."""
    rms, layer = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
    only_layer = keys.full(layer) in keys.file.metadata and keys.full(rms) not in keys.file.metadata
    return keys.number(layer if only_layer else rms, high=1.0)


def _vocabulary(file: GGUFFile, keys: Keys) -> int:
    tokens = file.get("tokenizer.ggml.tokens", list, None)
    return len(tokens) if tokens is not None else keys.integer("vocab_size")


def _rope(keys: Keys, head_dim: int, context_length: int) -> RopeConfig:
    dims = keys.integer("rope.dimension_count", head_dim, low=2, high=head_dim)
    if dims % 2:
        raise keys.fail("rope.dimension_count", f"{dims} is odd")
    scaling = keys.file.get(keys.full("rope.scaling.type"), str, "linear")
    if scaling not in _ROPE_SCALINGS:
        known = ", ".join(_ROPE_SCALINGS)
        raise keys.fail("rope.scaling.type", f"{scaling!r} is not supported ({known} are)")
    linear = keys.number("rope.scale_linear", 0.0, high=_MANY)
    factor = keys.number("rope.scaling.factor", linear, high=_MANY) or 1.0
    if factor < 1 / _MANY:
        raise keys.fail("rope.scaling.factor", f"{factor} is too small")
    return RopeConfig(
        dims=dims,
        base=keys.number("rope.freq_base", 10000.0, low=LEAST_BASE),
        scaling=scaling,
        factor=1.0 if scaling == "none" else factor,
        original_context=keys.integer(
            "rope.scaling.original_context_length", context_length, high=1 << 31
        ),
        attention_factor=keys.number("rope.scaling.attn_factor", 1.0, high=_MANY),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0, low=0.01, high=_MANY),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0, low=0.01, high=_MANY),
    )


def _experts(keys: Keys, layers: int) -> ExpertConfig | None:
    count = keys.integer("expert_count", 0, low=0, high=4096)
    if count == 0:
        return None
    used = keys.uniform("expert_used_count", layers)
    if used > count:
        raise keys.fail("expert_used_count", f"{used} of {count} experts")
    ffn = keys.uniform("feed_forward_length", layers)
    return ExpertConfig(count, used, keys.uniform("expert_feed_forward_length", layers, ffn))
