"""Random-weight GGUF models of every architecture.

Keys and tensor names are those that llama.cpp's loader asks for, so one file runs here and there.
Weights have a deviation of 1/sqrt(fan in) and norms lie about 1, so that activations and logits
have a deviation of about 1.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from localllm.compress.mixes import fitting, mix_named, plan_types
from localllm.evaluate.synthetic.blocks import random_tensor
from localllm.evaluate.synthetic.vocabularies import bpe_vocabulary, spm_vocabulary
from localllm.gguf import GGUFFile, MadeTensor, TensorInfo, quant_type, write_gguf
from localllm.gguf.types import RUNNABLE_TYPES
from localllm.hub.catalog import CatalogModel, Shape
from localllm.models.rope import llama3_divisors

ARCHITECTURES = ("llama", "llama-moe", "qwen2", "qwen3", "qwen3moe", "gemma3", "phi3")
"""`llama-moe` is Mixtral: architecture "llama" with experts."""

_RUNNABLE = frozenset(quant.name for quant in RUNNABLE_TYPES)
ROUTER_GAIN = 3.0  # a clear first expert: near-ties that flip the last one matter little


@dataclass(frozen=True, kw_only=True)
class SyntheticShape(Shape):
    """A shape, and what else a file needs to say."""

    arch: str
    context: int
    rope_factors: bool = False
    window: int = 48

    @property
    def general_architecture(self) -> str:
        """The name in the file."""
        return "llama" if self.arch == "llama-moe" else self.arch


def random_model(
    path: str | Path,
    arch: str,
    weight_type: str | Mapping[str, str] = "F32",
    *,
    seed: int = 0,
    layers: int | None = None,
    width: int = 256,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int | None = None,
    ffn: int | None = None,
    vocab: int = 512,
    context: int = 1024,
    tied: bool | None = None,
    rope_factors: bool = False,
    experts: int = 8,
    experts_used: int = 2,
    window: int = 48,
    vocabulary: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a random model and returns its path.

    Args:
        path: where to.
        arch: one of ARCHITECTURES.
        weight_type: a type for all matrices ("Q4_0"), a mix ("Q4_K_M"), or types by name pattern,
            the first match counting, F32 where none does. Norms, biases and routers are always F32.
        seed: the same seed gives the same file; a tensor's numbers depend on seed and name only.
        layers: 2 by default; gemma3 6, so that its last one attends globally.
        width: embedding length; a multiple of 256 for the types with blocks of 256.
        heads: query heads.
        kv_heads: key and value heads.
        head_dim: width / heads by default; twice that for qwen3, qwen3moe and gemma3.
        ffn: inner width of the MLP: twice the width by default; of one expert: the width.
        vocab: tokens.
        context: context length of the metadata.
        tied: no output.weight; by default only for gemma3.
        rope_factors: llama: rope_freqs.weight as Llama 3.1 has it; phi3: long and short factors,
            the long ones from a context of more than a quarter of `context`.
        experts: number of experts, where there are any.
        experts_used: experts a token is sent to.
        window: sliding window of gemma3.
        vocabulary: metadata to use in place of the architecture's own synthetic vocabulary.
        metadata: more metadata, replacing what is there.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"{arch} is not one of {', '.join(ARCHITECTURES)}")
    moe = arch in ("llama-moe", "qwen3moe")
    wide_heads = arch in ("qwen3", "qwen3moe", "gemma3")
    shape = SyntheticShape(
        layers=layers or (6 if arch == "gemma3" else 2),
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim or width // heads * (2 if wide_heads else 1),
        ffn=ffn or (width if moe else 2 * width),
        vocab=vocab,
        tied=arch == "gemma3" if tied is None else tied,
        experts=experts if moe else 0,
        experts_used=experts_used if moe else 0,
        arch=arch,
        context=context,
        rope_factors=rope_factors,
        window=window,
    )
    content = {
        **_hyperparameters(shape),
        **(vocabulary or _vocabulary(shape)),
        **(metadata or {}),
    }
    write_gguf(path, content, _tensors(shape, weight_type, seed))
    return Path(path)


def catalog_model(
    path: str | Path, entry: CatalogModel, weight_type: str | Mapping[str, str]
) -> Path:
    """Writes random weights in the shape of a catalog entry; types as of `random_model`.

    Raises:
        UsageError: there is no such type and no such mix.
    """
    shape = _catalog_shape(entry)
    content = _hyperparameters(shape) | _vocabulary(shape)
    write_gguf(path, content, _tensors(shape, weight_type, seed=0))
    return Path(path)


def catalog_outline(entry: CatalogModel) -> GGUFFile:
    """What `catalog_model` writes, without vocabulary and data, every matrix as F16."""
    return _outline(_catalog_shape(entry))


def _outline(shape: SyntheticShape) -> GGUFFile:
    nothing = np.empty(0, np.uint8)
    tensors = {
        name: TensorInfo(name, made.type, tuple(made.shape), nothing)
        for name, made in _tensors(shape, "F16", seed=0).items()
    }
    return GGUFFile(Path("outline.gguf"), 3, _hyperparameters(shape), tensors)


def _catalog_shape(entry: CatalogModel) -> SyntheticShape:
    moe = entry.architecture == "llama" and entry.shape.experts
    arch = "llama-moe" if moe else entry.architecture
    return SyntheticShape(**asdict(entry.shape), arch=arch, context=entry.context)


def _vocabulary(shape: SyntheticShape) -> dict[str, Any]:
    if shape.arch.startswith("qwen"):
        return bpe_vocabulary(shape.vocab, "qwen2")
    if shape.arch == "llama" and shape.rope_factors:
        return bpe_vocabulary(shape.vocab, "llama-bpe")
    return spm_vocabulary(shape.vocab, space_prefix=shape.arch != "gemma3")


def _hyperparameters(shape: SyntheticShape) -> dict[str, Any]:
    arch = shape.general_architecture
    values: dict[str, Any] = {
        "block_count": shape.layers,
        "context_length": shape.context,
        "embedding_length": shape.width,
        "feed_forward_length": shape.ffn,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-5 if arch == "llama" else 1e-6,
        "rope.freq_base": 10000.0,
    }
    if arch in ("llama", "phi3"):
        values["rope.dimension_count"] = shape.head_dim
        values["vocab_size"] = shape.vocab
    if arch in ("qwen3", "qwen3moe", "gemma3"):
        values["attention.key_length"] = shape.head_dim
        values["attention.value_length"] = shape.head_dim
    if arch.startswith("qwen") or arch == "gemma3":
        values["rope.freq_base"] = 1e6
    if arch == "gemma3":
        # every sixth layer is global; the local ones turn with the fixed base 10,000
        values["attention.sliding_window"] = shape.window
    if shape.experts:
        values["expert_count"] = shape.experts
        values["expert_used_count"] = shape.experts_used
    if arch == "qwen3moe":
        values["expert_feed_forward_length"] = shape.ffn
        values["feed_forward_length"] = 3 * shape.ffn
    if shape.rope_factors and arch == "llama":
        values["rope.freq_base"] = 500000.0
    if shape.rope_factors and arch == "phi3":
        values["rope.scaling.original_context_length"] = shape.context // 4
        values["rope.scaling.attn_factor"] = 1.19
    return {
        "general.architecture": arch,
        "general.type": "model",
        # no architecture here: llama.cpp asks for Phi-3's own tokens where the name has "phi3"
        "general.name": "random weights",
        "general.quantization_version": 2,
        **{f"{arch}.{key}": value for key, value in values.items()},
    }


def _tensors(
    shape: SyntheticShape, weight_type: str | Mapping[str, str], seed: int
) -> dict[str, MadeTensor]:
    type_of = _types(shape, weight_type)
    tensors: dict[str, MadeTensor] = {}

    def generator(name: str) -> np.random.Generator:
        return np.random.default_rng([seed, zlib.crc32(name.encode())])

    def matrix(name: str, *size: int, gain: float = 1.0) -> None:
        deviation = gain / size[-1] ** 0.5
        quant = quant_type(fitting(type_of(name), size[-1]))
        tensors[name] = MadeTensor(
            quant, size, lambda: random_tensor(generator(name), quant, size, deviation)
        )

    def stored(name: str, values: np.ndarray) -> None:
        values = values.astype(np.float32)
        tensors[name] = MadeTensor(quant_type("F32"), values.shape, lambda: values)

    def vector(
        name: str, size: int, mean: float, spread: float, signs: np.ndarray | int = 1
    ) -> None:
        stored(name, generator(name).uniform(mean - spread, mean + spread, size) * signs)

    def norm(name: str, size: int, signs: np.ndarray | int = 1) -> None:
        vector(name, size, mean=1.0, spread=0.5, signs=signs)

    arch = shape.general_architecture
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    matrix("token_embd.weight", shape.vocab, shape.width)
    # Random signs: otherwise a token's own embedding, still in the stream, predicts that token.
    signs = generator("signs").choice(np.array([-1, 1], np.float32), shape.width)
    norm("output_norm.weight", shape.width, signs if shape.tied else 1)
    if not shape.tied:
        matrix("output.weight", shape.vocab, shape.width)
    if shape.rope_factors:
        for name, factors in _rope_factors(shape).items():
            stored(name, factors)
    for layer in range(shape.layers):
        at = f"blk.{layer}."
        norm(at + "attn_norm.weight", shape.width)
        if arch == "phi3":
            matrix(at + "attn_qkv.weight", queries + 2 * keys, shape.width)
        else:
            matrix(at + "attn_q.weight", queries, shape.width)
            matrix(at + "attn_k.weight", keys, shape.width)
            matrix(at + "attn_v.weight", keys, shape.width)
        if arch == "qwen2":
            for name, size in (("q", queries), ("k", keys), ("v", keys)):
                vector(f"{at}attn_{name}.bias", size, mean=0.0, spread=1.0)
        if arch in ("qwen3", "qwen3moe", "gemma3"):
            norm(at + "attn_q_norm.weight", shape.head_dim)
            norm(at + "attn_k_norm.weight", shape.head_dim)
        matrix(at + "attn_output.weight", shape.width, queries)
        if arch == "gemma3":
            norm(at + "post_attention_norm.weight", shape.width)
        norm(at + "ffn_norm.weight", shape.width)
        inner, many = shape.ffn, shape.experts
        if many:
            matrix(at + "ffn_gate_inp.weight", many, shape.width, gain=ROUTER_GAIN)
            matrix(at + "ffn_gate_exps.weight", many, inner, shape.width)
            matrix(at + "ffn_up_exps.weight", many, inner, shape.width)
            matrix(at + "ffn_down_exps.weight", many, shape.width, inner)
        elif arch == "phi3":
            matrix(at + "ffn_up.weight", 2 * inner, shape.width)
            matrix(at + "ffn_down.weight", shape.width, inner)
        else:
            matrix(at + "ffn_gate.weight", inner, shape.width)
            matrix(at + "ffn_up.weight", inner, shape.width)
            matrix(at + "ffn_down.weight", shape.width, inner)
        if arch == "gemma3":
            norm(at + "post_ffw_norm.weight", shape.width)
    return tensors


def _rope_factors(shape: SyntheticShape) -> dict[str, np.ndarray]:
    if shape.arch == "llama":
        return {"rope_freqs.weight": llama3_divisors(shape.head_dim, 500000.0, shape.context // 4)}
    if shape.arch == "phi3":
        ramp = np.linspace(0, 1, shape.head_dim // 2, dtype=np.float32)
        return {
            "rope_factors_long.weight": 1 + 7 * ramp**2,
            "rope_factors_short.weight": 1 + 0.5 * ramp,
        }
    raise ValueError(f"{shape.arch} has no rope factors")


def _types(shape: SyntheticShape, weight_type: str | Mapping[str, str]) -> Callable[[str], str]:
    """What gives each matrix its type, by name; see `random_model`."""
    if isinstance(weight_type, str) and weight_type not in _RUNNABLE:
        weight_type = {
            name: quant.name
            for name, quant in plan_types(_outline(shape), mix_named(weight_type)).types.items()
        }
    patterns = {"*": weight_type} if isinstance(weight_type, str) else weight_type

    def type_of(name: str) -> str:
        if name.endswith("ffn_gate_inp.weight"):
            return "F32"
        if name in patterns:
            return patterns[name]
        return next((quant for text, quant in patterns.items() if fnmatchcase(name, text)), "F32")

    return type_of
