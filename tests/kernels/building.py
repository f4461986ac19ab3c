"""Small native programs whose inputs are given arrays, and weights of random bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from gguf import GGMLQuantizationType, quants

from localllm import _native
from localllm.gguf import QuantType, quant_type
from localllm.gguf.types import RUNNABLE_TYPES

from .reference import FLOAT_TYPES

PAGE = 32
TYPES = [quant.name for quant in RUNNABLE_TYPES]
QUANTISED_TYPES = [name for name in TYPES if name not in FLOAT_TYPES]

# Byte offsets of the fp16 fields of a block.
_HALVES = {
    "Q8_0": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "MXFP4": [],
}


def raw(array: np.ndarray) -> np.ndarray:
    """The bytes of an array."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def random_weight(
    random: np.random.Generator, name: str, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The stored bytes of a weight and its float32 values.

    Every code, scale and minimum of a block is random over its full range; only the fp16 fields are
    drawn from a narrow range, of either sign.
    """
    if name in FLOAT_TYPES:
        values = random.standard_normal(shape, np.float32)
        if name == "F32":
            return raw(values), values
        if name == "F16":
            return raw(values.astype(np.float16)), values.astype(np.float16).astype(np.float32)
        upper = values.view(np.uint32) >> 16
        return raw(upper.astype(np.uint16)), (upper << 16).astype(np.uint32).view(np.float32)
    quant = quant_type(name)
    n = int(np.prod(shape)) // quant.block_size
    blocks = random.integers(0, 256, (n, quant.type_size), dtype=np.uint8)
    for at in _HALVES[name]:
        size = random.uniform(0.01, 0.02, (n, 1)) * random.choice([-1, 1], (n, 1))
        blocks[:, at : at + 2] = size.astype("<f2").view(np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = random.integers(118, 127, n)
    return blocks.reshape(-1), reference_values(blocks, quant).reshape(shape)


def reference_values(blocks: np.ndarray, quant: QuantType) -> np.ndarray:
    """The gguf package's own dequantiser."""
    with np.errstate(all="ignore"):
        return quants.dequantize(blocks, GGMLQuantizationType[quant.name])


def columns_of(name: str) -> tuple[int, ...]:
    """Column counts worth testing for a type."""
    size = quant_type(name).block_size
    return {1: (1, 7, 33, 256), 32: (32, 96, 288), 256: (256, 512, 768)}[size]


class Net:
    """A native program; token `t` reads row `t` of every input array."""

    def __init__(self, isa: str = "", threads: int = 1):
        self.isa = isa or _native.isa()
        self.native = _native.Program(threads, isa=isa)
        self.outputs: dict[str, int] = {}

    def __getattr__(self, name: str):
        return getattr(self.native, name)

    def input(self, values: np.ndarray) -> int:
        """A buffer that holds `values[token]` for each row."""
        values = np.ascontiguousarray(values, np.float32)
        out = self.native.buffer(values.shape[1])
        table = self.native.table("F32", *values.shape, raw(values))
        self.native.embed(out, table, 1.0)
        return out

    def random_weight(self, random, name: str, shape: tuple[int, ...]) -> tuple[int, np.ndarray]:
        """A random weight's id and values."""
        data, values = random_weight(random, name, shape)
        matrices = shape[0] if len(shape) == 3 else 1
        return self.native.weight(name, matrices, *shape[-2:], data), values

    def linear(self, x: int, weight: int, rows: int) -> int:
        """A buffer that holds weight * x."""
        out = self.native.buffer(rows)
        self.native.linear(x, [weight], [out], [-1], False)
        return out

    def finish(self, widths: Mapping[str, tuple[int, int]]) -> Net:
        """Ends the program with outputs: name -> (buffer, width)."""
        for name, (buffer, width) in widths.items():
            selected = self.native.buffer(width)
            self.native.select(selected, buffer)
            self.native.output(name, selected)
        return self

    def run(self, tokens: Sequence[int]) -> dict[str, np.ndarray]:
        """All rows of the outputs for one new sequence; the program has no attention."""
        tokens = np.asarray(tokens, np.int32)
        pages = -(-len(tokens) // PAGE)
        return self.native.step(
            _native.Cache(1, 1, 16, pages, PAGE, "f16"),
            tokens,
            np.array([len(tokens)], np.int32),
            np.zeros(1, np.int32),
            np.arange(pages, dtype=np.int32)[None],
            np.arange(len(tokens), dtype=np.int32),
        )


class Sequences:
    """Token histories of several sequences that share a cache, their pages in random order."""

    def __init__(self, cache, pages: int, count: int, seed: int = 0):
        self.cache = cache
        self.tokens: list[list[int]] = [[] for _ in range(count)]
        order = np.random.default_rng(seed).permutation(pages).astype(np.int32)
        self.tables = order[: pages // count * count].reshape(count, -1)

    def step(self, net, work: Sequence[tuple[int, Sequence[int]]]) -> dict[str, np.ndarray]:
        """Appends tokens to some sequences, all in one batch; the outputs of every row."""
        order = [which for which, _ in work]
        tokens = np.concatenate([np.asarray(new, np.int32) for _, new in work])
        past = np.array([len(self.tokens[which]) for which in order], np.int32)
        result = net.native.step(
            self.cache,
            tokens,
            np.array([len(new) for _, new in work], np.int32),
            past,
            np.ascontiguousarray(self.tables[order]),
            np.arange(len(tokens), dtype=np.int32),
        )
        for which, new in work:
            self.tokens[which] += list(new)
        return result
