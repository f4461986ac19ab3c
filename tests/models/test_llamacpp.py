"""The eager reference against llama.cpp on the same random files: one meaning for one file."""

import numpy as np
import pytest
import torch

from localllm.evaluate.synthetic import ARCHITECTURES, random_model
from localllm.gguf import GGUFFile
from localllm.models import load_definition
from localllm.ops import eager
from tests.parity.peer import mean_divergence, open_peer, peer_logits

pytestmark = pytest.mark.peer

POSITIONS = 256
CONTEXT = 512
CASES = [(arch, {}) for arch in ARCHITECTURES] + [
    ("llama", {"rope_factors": True}),
    ("phi3", {"rope_factors": True}),  # an original context of 256: the long factors
    ("phi3", {"rope_factors": True, "context": 4096}),  # the short ones
    ("qwen3", {"tied": True, "kv_heads": 1}),
    ("gemma3", {"tied": False, "head_dim": 64}),
    ("gemma3", {"metadata": {"gemma3.attention.sliding_window_pattern": 2}, "layers": 3}),
    ("gemma3", {"metadata": {"gemma3.final_logit_softcapping": 3.0}}),
    ("gemma3", {"layers": 62, "width": 64, "heads": 2, "head_dim": 16}),  # scaled as the 27B
    (
        "llama",
        {"metadata": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}},
    ),
    (
        "qwen2",
        {
            "metadata": {
                "qwen2.rope.scaling.type": "yarn",
                "qwen2.rope.scaling.factor": 4.0,
                "qwen2.rope.scaling.original_context_length": 256,
            }
        },
    ),
]


def llamacpp_logits(path, tokens):
    """[T, vocab], computed with keys and values in float32."""
    peer = open_peer(path, CONTEXT, "f32")
    try:
        return peer_logits(peer, tokens)
    finally:
        peer.close()


def ids(case):
    arch, options = case
    return "-".join([arch, *(str(value) for value in options.values())])[:60]


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_eager_equals_llamacpp(case, tmp_path):
    arch, options = case
    path = random_model(tmp_path / "model.gguf", arch, **options)
    model = load_definition(GGUFFile.open(path), context=CONTEXT)
    tokens = np.random.default_rng(1).integers(0, model.config.vocab, POSITIONS)
    expected = llamacpp_logits(path, tokens.tolist())
    found = eager.run(model, torch.tensor(tokens))["logits"].numpy()
    divergence = mean_divergence(expected, found)
    print(ids(case), "KL", divergence, "max", np.abs(expected - found).max())
    assert divergence <= 1e-6
    assert (expected.argmax(-1) == found.argmax(-1)).all()
