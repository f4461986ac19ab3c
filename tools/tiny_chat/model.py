"""The tiny-chat network: a Llama-style decoder written in plain PyTorch.

Shapes in this file: B rows in a batch, T tokens in a row, D model width, H query heads,
K key/value heads, C = D / H channels of a head, F feed-forward width, V vocabulary size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """Sizes of the network (all in elements, except the base of the rotation)."""

    vocab: int = 4096
    width: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 768
    context: int = 1024
    rope_base: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def head_width(self) -> int:
        """Channels of one head."""
        return self.width // self.heads


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, with a learned gain of shape [D]."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., D]."""
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)
        return (x * scale) * self.weight


def rope_tables(config: Config, length: int, start: int = 0) -> tuple[Tensor, Tensor]:
    """Cosines and sines of shape [length, C / 2] for the positions start, start + 1, ..."""
    half = config.head_width // 2
    frequency = config.rope_base ** (-torch.arange(half, dtype=torch.float32) / half)
    angle = torch.arange(start, start + length, dtype=torch.float32)[:, None] * frequency[None]
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the channel pairs (i, i + C/2) of x [B, T, heads, C]; tables are [T, C / 2].

    GGUF's llama architecture pairs (2i, 2i + 1) instead; export.py reorders the rows.
    """
    cos, sin = cos[:, None, :].to(x.dtype), sin[:, None, :].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def causal_mask(length: int, total: int) -> Tensor:
    """Mask [length, total] for the last `length` of `total` positions: 0 or minus infinity."""
    return torch.full((length, total), float("-inf")).triu_(total - length + 1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of queries [B, H, T, C] over keys and values [B, K, S, C]; mask adds to scores.

    Query head h reads key/value head h // (H / K). For rows this short, plain products are twice
    as fast on a CPU as the fused kernel.
    """
    batch, heads, length, channels = q.shape
    grouped = (q * channels**-0.5).reshape(batch, k.shape[1], -1, channels)
    scores = torch.matmul(grouped, k.transpose(2, 3)).view(batch, heads, length, -1)
    shares = (scores + mask.to(scores.dtype)).softmax(-1)
    mixed = torch.matmul(shares.to(v.dtype).view(batch, k.shape[1], -1, k.shape[2]), v)
    return mixed.view(batch, heads, length, channels)


class Block(nn.Module):
    """One decoder layer: attention and a gated feed-forward, both with a residual."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, kv_width = config.width, config.kv_heads * config.head_width
        self.config = config
        self.attn_norm = RMSNorm(width, config.norm_eps)
        self.q = nn.Parameter(torch.empty(width, width))
        self.k = nn.Parameter(torch.empty(kv_width, width))
        self.v = nn.Parameter(torch.empty(kv_width, width))
        self.o = nn.Parameter(torch.empty(width, width))
        self.ffn_norm = RMSNorm(width, config.norm_eps)
        self.gate = nn.Parameter(torch.empty(config.ffn, width))
        self.up = nn.Parameter(torch.empty(config.ffn, width))
        self.down = nn.Parameter(torch.empty(width, config.ffn))

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        cache: list[Tensor] | None = None,
    ) -> Tensor:
        """x [B, T, D]; mask [B, 1, T, S] is added to the scores (None: causal).

        cache, when given, is [] or [keys, values] of shape [B, K, S, C]; it is extended in place.
        """
        c = self.config
        batch, length, width = x.shape
        qkv = F.linear(self.attn_norm(x), torch.cat((self.q, self.k, self.v)))
        qkv = qkv.view(batch, length, c.heads + 2 * c.kv_heads, c.head_width)
        q, k, v = qkv.split((c.heads, c.kv_heads, c.kv_heads), dim=2)
        q, k = rotate(q, cos, sin).transpose(1, 2), rotate(k, cos, sin).transpose(1, 2)
        v = v.transpose(1, 2)
        if cache is not None:
            if cache:
                k, v = torch.cat((cache[0], k), dim=2), torch.cat((cache[1], v), dim=2)
            cache[:] = [k, v]
        mixed = attend(q, k, v, causal_mask(length, k.shape[2]) if mask is None else mask)
        x = x + F.linear(mixed.transpose(1, 2).reshape(batch, length, width), self.o)
        gate, up = F.linear(self.ffn_norm(x), torch.cat((self.gate, self.up))).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down)


class TinyChat(nn.Module):
    """The whole network; the output matrix is the embedding (tied)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Parameter(torch.empty(config.vocab, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.reset()

    def reset(self) -> None:
        """Draw the starting weights; matrices that write to the residual start small."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                small = name.endswith((".o", ".down"))
                std = 0.02 if name == "embed" else 0.05 / (4.0 if small else 1.0)
                nn.init.normal_(parameter, std=std)

    def hidden(
        self, tokens: Tensor, mask: Tensor | None = None, caches: list | None = None, start: int = 0
    ) -> Tensor:
        """Tokens [B, T] to normalised hidden states [B, T, D]."""
        cos, sin = rope_tables(self.config, tokens.shape[1], start)
        x = F.embedding(tokens, self.embed)
        for index, block in enumerate(self.blocks):
            x = block(x, cos, sin, mask, None if caches is None else caches[index])
        return self.norm(x)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens [B, T] to logits [B, T, V]."""
        return F.linear(self.hidden(tokens, mask), self.embed)
