"""llama.cpp as the outside reference: next-token logits and greedy tokens of a file."""

from pathlib import Path

import numpy as np
import pytest

Logits = np.ndarray


def open_peer(path: Path, context: int, cache: str = "f16"):
    """A `llama_cpp.Llama` of the file; the test is skipped where the package is absent."""
    llama_cpp = pytest.importorskip("llama_cpp")
    kind = {"f16": llama_cpp.GGML_TYPE_F16, "f32": llama_cpp.GGML_TYPE_F32}[cache]
    return llama_cpp.Llama(
        str(path),
        logits_all=True,
        n_ctx=context,
        n_batch=context,
        n_threads=2,
        type_k=kind,
        type_v=kind,
        flash_attn=False,
        verbose=False,
    )


def peer_logits(peer, tokens: list[int]) -> Logits:
    """float32 [T, vocab]."""
    peer.reset()
    peer.eval(tokens)
    return np.array(peer.scores[: len(tokens)])


def peer_greedy(peer, tokens: list[int], count: int) -> list[int]:
    """The next `count` tokens, the most likely each time."""
    peer.reset()
    peer.eval(tokens)
    found: list[int] = []
    for _ in range(count):
        found.append(int(np.argmax(peer.scores[peer.n_tokens - 1])))
        peer.eval(found[-1:])
    return found


def mean_divergence(reference: Logits, found: Logits) -> float:
    """Mean over rows of KL(reference || found), in nats."""

    def log_softmax(logits: Logits) -> Logits:
        shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

    p, q = log_softmax(reference), log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(-1).mean())
