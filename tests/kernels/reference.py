"""The native operations in plain numpy, float64 where nothing says otherwise."""

from __future__ import annotations

import numpy as np

FLOAT_TYPES = ["F32", "F16", "BF16"]


def quantise(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of rows: the largest of a row becomes 127, ties to even (float32)."""
    x = np.asarray(x, np.float32)
    peak = np.abs(x).max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        inverse = np.where(peak > 0, np.float32(127) / peak, np.float32(0))
    return np.rint(x * inverse).astype(np.float64), (peak / np.float32(127)).astype(np.float64)


def requantised(x: np.ndarray, size: int) -> np.ndarray:
    """`x` as it looks after quantisation in runs of `size`."""
    codes, scales = quantise(x.reshape(-1, size))
    return (codes * scales).reshape(x.shape)


def as_bfloat16(x: np.ndarray) -> np.ndarray:
    """`x` rounded to bfloat16, ties to even; finite values."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + (bits >> 16 & 1)
    return (rounded & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


def seen(x: np.ndarray, weight_type: str, isa: str) -> np.ndarray:
    """`x` as the kernels of `isa` see it beside weights of that type."""
    if weight_type == "BF16" and isa == "avx512bf16":
        return as_bfloat16(x)
    if weight_type in FLOAT_TYPES:
        return x.astype(np.float64)
    return requantised(x, 32)


def linear(
    x: np.ndarray, weight: np.ndarray, weight_type: str, isa: str
) -> tuple[np.ndarray, np.ndarray]:
    """weight * x for every row, and the sum of the magnitudes of its terms."""
    x = seen(x, weight_type, isa)
    weight = weight.astype(np.float64)
    return x @ weight.T, np.abs(x) @ np.abs(weight).T


def norm(x: np.ndarray, weight: np.ndarray, eps: float, group: int) -> np.ndarray:
    x = x.astype(np.float64)
    parts = x.reshape(len(x), -1, group)
    parts = parts / np.sqrt((parts**2).mean(-1, keepdims=True) + eps) * weight.astype(np.float64)
    return parts.reshape(x.shape)


def rope(x, positions, inverse, heads, head_dim, interleaved, scale) -> np.ndarray:
    out = x.astype(np.float64).reshape(len(x), heads, head_dim)
    angle = (np.float32(positions)[:, None] * np.float32(inverse)).astype(np.float64)[:, None]
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    pairs = len(inverse)
    first = slice(0, 2 * pairs, 2) if interleaved else slice(0, pairs)
    second = slice(1, 2 * pairs, 2) if interleaved else slice(pairs, 2 * pairs)
    a, b = out[..., first].copy(), out[..., second].copy()
    out[..., first] = a * cos - b * sin
    out[..., second] = a * sin + b * cos
    return out.reshape(x.shape)


def attention(
    q, k, v, past, heads, kv_heads, head_dim, scale, window=0, softcap=0.0, cache="f16"
) -> np.ndarray:
    """The last len(q) of the len(k) tokens attend to the tokens before them and to themselves."""
    q = q.reshape(-1, heads, head_dim)
    k, v = (a.reshape(-1, kv_heads, head_dim) for a in (k, v))
    if cache == "int8":
        q, k, v = (requantised(a, head_dim) for a in (q, k, v))
    if cache == "f16":
        k, v = (np.clip(a, -65504, 65504).astype(np.float16) for a in (k, v))
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    out = np.empty(q.shape)
    for i in range(len(q)):
        last = past + i + 1
        first = max(0, last - window) if window > 0 else 0
        for h in range(heads):
            kv = h // (heads // kv_heads)
            score = k[first:last, kv] @ q[i, h] * scale
            if softcap > 0:
                score = softcap * np.tanh(score / softcap)
            p = np.exp(score - score.max())
            out[i, h] = p @ v[first:last, kv] / p.sum()
    return out.reshape(len(q), -1)


def activation(x: np.ndarray, kind: str) -> np.ndarray:
    x = x.astype(np.float64)
    if kind == "silu":
        return x / (1 + np.exp(-x))
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def moe(x, router, gate, up, down, used, normalise, scale, kind, types, isa) -> np.ndarray:
    """Mixture of experts; `types` of router, gate, up and down."""
    to_router, to_gate, to_up = (seen(x, name, isa) for name in types[:3])
    router, gate, up, down = (a.astype(np.float64) for a in (router, gate, up, down))
    # row by row, so that equal rows of the router give equal sums
    logits = (to_router[:, None] * router).sum(-1)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    out = np.zeros(x.shape)
    for i in range(len(x)):
        best = np.argsort(-shares[i], kind="stable")[:used]
        kept = shares[i, best].sum() if normalise else 1.0
        for e in best:
            g = to_gate[i] @ gate[e].T
            hidden = activation(g, kind) * (to_up[i] @ up[e].T)
            hidden = seen(hidden[None].astype(np.float32), types[3], isa)[0]
            out[i] += shares[i, e] / kept * scale * (hidden @ down[e].T)
    return out
