"""Predicts what a model would do on this machine before it is there, from parts of its shape.

Random weights run as fast as trained ones. A model of about a gigabyte is made whole; of a larger
one two parts, the first layer alone and as many as make a gigabyte. Each layer more costs the same
time and the same memory, so what all layers cost follows. Tensors get the types that the
quantisation gives them in the whole model: a part has layers from everywhere in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod

from localllm.compress.mixes import Mix, plan_types
from localllm.evaluate.speed import PREFILL, SPREAD, Figures, Say, measure_speed
from localllm.evaluate.synthetic import catalog_model, catalog_outline
from localllm.files import require_space, temporary_folder
from localllm.gguf import GGUFFile, QuantType
from localllm.hub.catalog import CatalogModel, Shape
from localllm.models.config import ModelConfig, read_config
from localllm.ops.packed import PackedCache

Types = Mapping[str, QuantType]  # by tensor name

_NEARLY = 0.7  # of the layers: then it is not worth guessing at the rest
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Part:
    """A model with some of the layers; `bytes` are those of its layers, `layers` their number."""

    layers: int
    bytes: int
    figures: Figures


@dataclass(frozen=True)
class Prediction:
    """What one quantisation of a model would do.

    Attributes:
        file_bytes: of the tensors.
        figures: see `speed.FIGURES`.
        layers: that were measured, of each part.
        spread: the greatest `speed.SPREAD` of the parts.
    """

    file_bytes: int
    figures: Figures
    layers: tuple[int, ...]
    spread: float


def predict(
    entry: CatalogModel, mix: Mix, threads: int | None, say: Say, enough: int = 1 << 30
) -> Prediction:
    """Measure parts of the model's shape, and say what the whole would do.

    Args:
        entry: the model.
        mix: the quantisation.
        threads: None: the physical cores that this process may use.
        say: told what is being measured.
        enough: bytes of the larger part's layers; a smaller model is measured whole.

    Raises:
        LocalLLMError: there is no room for the parts, in memory or on the disk.
    """
    outline = catalog_outline(entry)
    types = plan_types(outline, mix).types
    sizes = _sizes(outline, types)
    whole = sum(size for name, size in sizes.items() if _LAYER.match(name))
    layers = entry.shape.layers
    most = max(2, -(-enough * layers // whole))
    counts = (layers,) if most >= _NEARLY * layers else (1, most)
    parts = [
        _measured(entry, count, _types_of_part(types, layers, count), threads, say)
        for count in counts
    ]
    figures = extrapolated(parts[0], parts[-1], layers, whole)
    spread = max(part.figures[SPREAD] for part in parts)
    return Prediction(sum(sizes.values()), figures, counts, spread)


def extrapolated(small: Part, large: Part, layers: int, bytes: int) -> Figures:
    """The figures of a model with so many layers, which take so many bytes.

    Those of `large` itself where it is the whole model.

    Decode, start and memory follow the bytes, since every weight is read for every token; prefill
    follows the layers, since there multiplying takes the time, whatever the type.
    """

    def along(name: str, at: Callable[[Part], float], end: float, inverse: float = 0.0) -> float:
        first, second = (
            inverse / part.figures[name] if inverse else part.figures[name]
            for part in (small, large)
        )
        if large.layers == layers:
            return second
        slope = max(0.0, second - first) / (at(large) - at(small))
        return second + slope * (end - at(large))

    def stored(part: Part) -> float:
        return part.bytes

    def counted(part: Part) -> float:
        return part.layers

    prefill = along("prefill_tokens_per_second", counted, layers, PREFILL)
    return {
        "prefill_tokens_per_second": PREFILL / prefill,
        "decode_tokens_per_second": 1 / along("decode_tokens_per_second", stored, bytes, 1.0),
        "first_token_seconds": along("first_token_seconds", stored, bytes),
        "peak_memory_bytes": along("peak_memory_bytes", stored, bytes),
    }


def model_of(file: GGUFFile, name: str) -> CatalogModel:
    """A model file as if it stood in the catalog."""
    config = read_config(file)
    shape = shape_of(config, tied="output.weight" not in file.tensors)
    return CatalogModel(
        alias=name,
        repository="",
        quantisation="",
        architecture=config.arch,
        parameters=shape.parameters,
        context=config.context_length,
        licence="",
        bytes=file.nbytes,
        shape=shape,
    )


def shape_of(config: ModelConfig, tied: bool) -> Shape:
    """The shape that a configuration states."""
    experts = config.experts
    return Shape(
        layers=config.layers,
        width=config.width,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        ffn=experts.ffn if experts else config.ffn,
        vocab=config.vocab,
        tied=tied,
        experts=experts.count if experts else 0,
        experts_used=experts.used if experts else 0,
    )


def _measured(
    entry: CatalogModel, layers: int, types: Types, threads: int | None, say: Say
) -> Part:
    part = replace(entry, shape=replace(entry.shape, layers=layers))
    sizes = _sizes(catalog_outline(part), types)
    with temporary_folder() as folder:
        needed = 3 * sum(sizes.values())  # packed twice
        require_space(folder, needed, "TMPDIR may name another folder")
        say(f"{layers} of {entry.shape.layers} layers: making random weights")
        named = {name: type.name for name, type in types.items()}
        path = catalog_model(folder / "part.gguf", part, named)
        packed = PackedCache(folder / "packed", 1 << 40)

        def told(text: str) -> None:
            say(f"{layers} layer{'s' if layers > 1 else ''}: {text}")

        figures = measure_speed(path, threads, packed, told, repetitions=5)
    return Part(layers, sum(sizes[name] for name in sizes if _LAYER.match(name)), figures)


def _sizes(outline: GGUFFile, types: Types) -> dict[str, int]:
    """Bytes of each tensor."""
    tensors = outline.tensors.items()
    return {name: types[name].nbytes(prod(one.shape)) for name, one in tensors}


def _types_of_part(types: Types, layers: int, count: int) -> dict[str, QuantType]:
    """The types of a model with `count` of the layers, taken from everywhere in the whole."""
    found: dict[str, QuantType] = {}
    for layer in range(count):
        source = (2 * layer + 1) * layers // (2 * count)
        for name, type in types.items():
            match = _LAYER.match(name)
            if match and int(match[1]) == source:
                found[f"blk.{layer}.{match[2]}"] = type
    return found | {name: type for name, type in types.items() if not _LAYER.match(name)}
