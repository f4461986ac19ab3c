"""The native CPU core (kernels/bindings); docs/architecture.md explains the interface."""

from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]

def isa() -> str: ...
def available_isas() -> list[str]: ...
def measured_rates() -> dict[str, float]: ...
def measure_memory(threads: list[int], bytes: int) -> tuple[int, int, list[dict[str, Any]]]: ...
def measure_dots(threads: int) -> list[dict[str, Any]]: ...
def measure_barrier(threads: int) -> float: ...

packed_layout: int

def packed_size(type: str, matrices: int, rows: int, cols: int) -> int: ...
def map_file(file: int, bytes: int) -> Bytes: ...
def scan_strings(buffer: Bytes, offset: int, count: int) -> tuple[Longs, Longs, int]: ...
def largest(values: npt.NDArray[np.floating[Any]], count: int) -> Longs: ...
def dequantize(type: str, data: Bytes, out: Floats) -> None: ...
def quantize(
    type: str,
    source: str,
    cols: int,
    data: Bytes,
    importance: Floats | None,
    threads: int,
    out: Bytes,
) -> tuple[float, float, int]: ...

class Cache:
    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        pages: int,
        page_size: int,
        type: str,
    ) -> None: ...
    def copy_page(self, source: int, target: int) -> None: ...
    @property
    def nbytes(self) -> int: ...

class Program:
    def __init__(self, threads: int, isa: str = "") -> None: ...
    def weight(self, type: str, matrices: int, rows: int, cols: int, data: Bytes) -> int: ...
    def pack_weights(
        self,
        shapes: list[tuple[str, int, int, int]],
        data: list[Bytes],
        offsets: list[int],
        file: int,
    ) -> list[int]: ...
    def packed_weight(
        self, type: str, matrices: int, rows: int, cols: int, packed: Bytes
    ) -> int: ...
    def checksum(self, data: Bytes) -> int: ...
    def table(self, type: str, rows: int, cols: int, data: Bytes) -> int: ...
    def vector(self, data: Floats) -> int: ...
    def buffer(self, width: int) -> int: ...
    def embed(self, out: int, table: int, scale: float, index: str = "token") -> None: ...
    def norm(self, out: int, x: int, weight: int, eps: float, group: int) -> None: ...
    def layer_norm(self, out: int, x: int, weight: int, bias: int, eps: float) -> None: ...
    def linear(
        self,
        x: int,
        weights: list[int],
        outs: list[int],
        biases: list[int],
        accumulate: bool,
        norm: int = -1,
        eps: float = 0.0,
        act: str = "",
    ) -> None: ...
    def rope(
        self,
        x: int,
        inverse_frequencies: int,
        heads: int,
        head_dim: int,
        interleaved: bool,
        scale: float,
    ) -> None: ...
    def attention(
        self,
        out: int,
        q: int,
        k: int,
        v: int,
        layer: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        scale: float,
        window: int,
        softcap: float,
        q_norm: int = -1,
        q_eps: float = 0.0,
        k_norm: int = -1,
        k_eps: float = 0.0,
        inverse_frequencies: int = -1,
        interleaved: bool = False,
        rope_scale: float = 1.0,
    ) -> None: ...
    def attention_both_ways(
        self,
        out: int,
        q: int,
        k: int,
        v: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        scale: float,
    ) -> None: ...
    def act(self, out: int, x: int, kind: str) -> None: ...
    def gated_act(self, out: int, gate: int, up: int, kind: str) -> None: ...
    def add(self, out: int, a: int, b: int) -> None: ...
    def softcap(self, x: int, cap: float) -> None: ...
    def select(self, out: int, x: int) -> None: ...
    def moe(
        self,
        out: int,
        x: int,
        router: int,
        gate: int,
        up: int,
        down: int,
        used: int,
        normalise: bool,
        scale: float,
        kind: str,
    ) -> None: ...
    def output(self, name: str, buffer: int) -> None: ...
    def step(
        self,
        cache: Cache,
        tokens: Ints,
        lengths: Ints,
        past: Ints,
        tables: Ints,
        rows: Ints,
        only: str = "",
        adapters: Ints | None = None,
    ) -> dict[str, Floats]: ...
    def collect_squares(self) -> None: ...
    def squares(self, weight: int) -> tuple[npt.NDArray[np.float64], Longs]: ...
    def adapter(self, weights: list[int], a: list[Floats], b: list[Floats]) -> int: ...
    def drop_adapter(self, number: int) -> None: ...
