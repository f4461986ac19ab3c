"""Adapters as PEFT computes them: the same random ones, the same logits."""

import pytest
import torch

from localllm.models import load_definition
from localllm.models.adapters.loading import open_adapter
from localllm.ops import eager
from tests.models.memory import memory_file
from tests.models.test_transformers import (
    DEFAULT_ROPE,
    GEMMA_NAMES,
    NAMES,
    TOKENS,
    VOCAB,
    gguf_tensors,
    metadata,
    peer,
    unpermuted,
)

pytestmark = pytest.mark.peer
peft = pytest.importorskip("peft")

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
HEADS_OF_32 = {"attention__key_length": 32, "attention__value_length": 32}
GEMMA = {
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 1000,
    "tie_word_embeddings": True,
    "rope_parameters": {"sliding_attention": DEFAULT_ROPE, "full_attention": DEFAULT_ROPE},
}


def plus_one(name, values):
    return values + 1 if name.endswith("norm") else values


def same(name, values):
    return values


CASES = {  # the peer, its options, how its tensors are converted, what is adapted
    "llama": ("Llama", {}, NAMES, unpermuted, [*PROJECTIONS, "lm_head"], {}),
    "qwen2": ("Qwen2", {}, NAMES, same, PROJECTIONS, {}),
    "qwen3": ("Qwen3", {"head_dim": 32}, NAMES, same, PROJECTIONS[:4], HEADS_OF_32),
    "gemma3": ("Gemma3Text", GEMMA, GEMMA_NAMES, plus_one, PROJECTIONS, HEADS_OF_32),
    "phi3": ("Phi3", {}, NAMES, same, ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], {}),
}
WAYS = {
    "plain": {"r": 6, "lora_alpha": 9},
    "rslora": {"r": 6, "lora_alpha": 9, "use_rslora": True},
    "patterns": {
        "r": 6,
        "lora_alpha": 9,
        "rank_pattern": {"o_proj": 3, "layers.1.mlp.down_proj": 17},
        "alpha_pattern": {"o_proj": 30},
    },
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("arch", CASES)
def test_logits_are_those_of_peft(arch, way, tmp_path):
    kind, options, names, change, modules, keys = CASES[arch]
    base = peer(kind, **options)
    file = memory_file(metadata(arch, **keys), gguf_tensors(base, names, change))
    model = load_definition(file)
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=modules, **WAYS[way]))
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, values in adapted.named_parameters():
            if "lora_" in name:
                values.normal_(0, values.shape[-1] ** -0.5, generator=random)
    adapted.eval().save_pretrained(tmp_path)
    terms = open_adapter(tmp_path, model).read()
    tokens = torch.randint(VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = adapted(tokens[None]).logits[0]
        found = eager.run(model, tokens, adapters=[terms])["logits"]
        plain = eager.run(model, tokens)["logits"]
    size = expected.abs().max()
    assert (expected - plain).abs().max() > 0.1 * size, "the adapter changes nothing"
    assert (expected - found).abs().max() <= 1e-4 * size
