"""Adapters as PEFT computes them: the same random ones, the same logits."""

import pytest
import torch

from localllm.convert import convert_checkpoint
from localllm.gguf import GGUFFile
from localllm.models import load_definition
from localllm.models.adapters.loading import open_adapter
from localllm.ops import eager
from tests.convert.building import DEFAULT_ROPE, SIZES, model, save

pytestmark = pytest.mark.peer
peft = pytest.importorskip("peft")

TOKENS = 96
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GEMMA = {
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 1000,
    "tie_word_embeddings": True,
    "rope_parameters": {"sliding_attention": DEFAULT_ROPE, "full_attention": DEFAULT_ROPE},
}
CASES = {  # the peer, its options, what is adapted
    "llama": ("Llama", {}, [*PROJECTIONS, "lm_head"]),
    "qwen2": ("Qwen2", {}, PROJECTIONS),
    "qwen3": ("Qwen3", {"head_dim": 32}, PROJECTIONS[:4]),
    "gemma3": ("Gemma3Text", GEMMA, PROJECTIONS),
    "phi3": ("Phi3", {}, ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]),
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
    kind, options, modules = CASES[arch]
    base = model(kind, **options)
    convert_checkpoint(save(base, tmp_path / "base"), tmp_path / "base.gguf", type="F32")
    definition = load_definition(GGUFFile.open(tmp_path / "base.gguf"))
    adapted = peft.get_peft_model(base, peft.LoraConfig(target_modules=modules, **WAYS[way]))
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, values in adapted.named_parameters():
            if "lora_" in name:
                values.normal_(0, values.shape[-1] ** -0.5, generator=random)
    adapted.eval().save_pretrained(tmp_path / "adapter")
    terms = open_adapter(tmp_path / "adapter", definition).read()
    tokens = torch.randint(
        SIZES["vocab_size"], (TOKENS,), generator=torch.Generator().manual_seed(3)
    )
    with torch.no_grad():
        expected = adapted(tokens[None]).logits[0]
        found = eager.run(definition, tokens, adapters=[terms])["logits"]
        plain = eager.run(definition, tokens)["logits"]
    size = expected.abs().max()
    assert (expected - plain).abs().max() > 0.1 * size, "the adapter changes nothing"
    assert (expected - found).abs().max() <= 1e-4 * size
