"""The native operations in plain numpy, float64 where nothing says otherwise."""

from __future__ import annotations

import numpy as np


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


def linear(x: np.ndarray, weight: np.ndarray, quantised: bool) -> tuple[np.ndarray, np.ndarray]:
    """weight * x for every row, and the sum of the magnitudes of its terms."""
    x = requantised(x, 32) if quantised else x.astype(np.float64)
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
    if cache == "f16":
        k, v = (np.clip(a, -65504, 65504).astype(np.float16) for a in (k, v))
        q, k, v = (a.astype(np.float64) for a in (q, k, v))
    else:
        q, k, v = (requantised(a, head_dim) for a in (q, k, v))
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


def moe(x, router, gate, up, down, used, normalise, scale, kind, quantised) -> np.ndarray:
    """Mixture of experts; `quantised`: for router, gate, up and down, whether their input is."""
    inputs = {False: x.astype(np.float64), True: requantised(x, 32) if any(quantised) else None}
    router, gate, up, down = (a.astype(np.float64) for a in (router, gate, up, down))
    # row by row, so that equal rows of the router give equal sums
    logits = (inputs[quantised[0]][:, None] * router).sum(-1)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    out = np.zeros(x.shape)
    for i in range(len(x)):
        best = np.argsort(-shares[i], kind="stable")[:used]
        kept = shares[i, best].sum() if normalise else 1.0
        for e in best:
            g = inputs[quantised[1]][i] @ gate[e].T
            hidden = activation(g, kind) * (inputs[quantised[2]][i] @ up[e].T)
            if quantised[3]:
                hidden = requantised(hidden[None].astype(np.float32), 32)[0]
            out[i] += shares[i, e] / kept * scale * (hidden @ down[e].T)
    return out
