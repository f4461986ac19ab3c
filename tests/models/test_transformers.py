"""The eager reference against transformers in float32: the same random weights, the same logits."""

import math

import numpy as np
import pytest
import torch

from localllm.evaluate.synthetic import llama3_rope_factors
from localllm.models import load_definition
from localllm.ops import eager
from tests.models.memory import memory_file

pytestmark = pytest.mark.peer
transformers = pytest.importorskip("transformers", minversion="5.0")

LAYERS, WIDTH, HEADS, KV_HEADS, FFN, VOCAB, CONTEXT = 3, 64, 4, 2, 96, 128, 256
EXPERTS, EXPERTS_USED, EXPERT_FFN, WINDOW = 6, 2, 48, 24
TOKENS = 96

NAMES = {  # transformers to GGUF
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
}
GEMMA_NAMES = NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}

DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
PHI_PAIRS = WIDTH // HEADS // 2
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "long_factor": [1.0 + i for i in range(PHI_PAIRS)],
    "short_factor": [1.0 + i / 10 for i in range(PHI_PAIRS)],
    "original_max_position_embeddings": 64,
}


def peer(kind, **options):
    """A transformers model with random weights, norms about 1 (Gemma's: about 0, as it adds 1)."""
    config = getattr(transformers, f"{kind}Config")(
        num_hidden_layers=LAYERS,
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        intermediate_size=FFN,
        vocab_size=VOCAB,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        attn_implementation="eager",
        **{"rope_parameters": DEFAULT_ROPE, "tie_word_embeddings": False, **options},
    )
    name = kind.removesuffix("Text")
    model = getattr(transformers, f"{name}ForCausalLM")(config).float().eval()
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.normal_(0, value.shape[-1] ** -0.5, generator=random)
            if key.endswith("norm.weight"):
                value.add_(0.0 if name == "Gemma3" else 1.0)
            if key.endswith("bias"):
                value.mul_(4)
    return model


def interleaved(weight, heads):
    """The converter's row order for adjacent rotation pairs."""
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def gguf_tensors(model, names=NAMES, change=lambda name, values: values):
    """The weights of a transformers model under their GGUF names."""
    tensors = {}
    for key, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        prefix = ""
        if key.startswith("model.layers."):
            _, _, number, key = key.split(".", 3)
            prefix = f"blk.{number}."
        if key == "mlp.experts.gate_up_proj":
            gate, up = np.split(values, 2, axis=1)
            tensors[f"{prefix}ffn_gate_exps.weight"] = gate
            tensors[f"{prefix}ffn_up_exps.weight"] = up
        elif key == "mlp.experts.down_proj":
            tensors[f"{prefix}ffn_down_exps.weight"] = values
        else:
            stem, kind = key.rsplit(".", 1)
            tensors[f"{prefix}{names[stem]}.{kind}"] = change(names[stem], values)
    return tensors


def metadata(arch, **more):
    values = {
        "block_count": LAYERS,
        "embedding_length": WIDTH,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "feed_forward_length": FFN,
        "context_length": CONTEXT,
        "vocab_size": VOCAB,
        "attention.layer_norm_rms_epsilon": 1e-5,
        **{key.replace("__", "."): value for key, value in more.items()},
    }
    return {"general.architecture": arch} | {f"{arch}.{key}": v for key, v in values.items()}


def assert_same_outputs(model, file):
    tokens = torch.randint(VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        outputs = model(tokens[None], output_hidden_states=True)
        found = eager.run(load_definition(file), tokens)
    for name, expected in (("hidden", outputs.hidden_states[-1][0]), ("logits", outputs.logits[0])):
        error = float((expected - found[name]).abs().max() / expected.abs().max())
        print("max relative error of", name, error)
        assert error <= 1e-4


def unpermuted(name, values):
    heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name)
    return values if heads is None else interleaved(values, heads)


@pytest.mark.parametrize("rope", [DEFAULT_ROPE, LLAMA3_ROPE], ids=["plain", "llama3.1"])
def test_llama(rope):
    model = peer("Llama", rope_parameters=rope)
    tensors = gguf_tensors(model, change=unpermuted)
    if rope is LLAMA3_ROPE:
        tensors["rope_freqs.weight"] = llama3_rope_factors(PHI_PAIRS, 500000.0, 64)
    base = rope["rope_theta"]
    assert_same_outputs(model, memory_file(metadata("llama", rope__freq_base=base), tensors))


def test_mixtral():
    model = peer("Mixtral", num_local_experts=EXPERTS, num_experts_per_tok=EXPERTS_USED)
    tensors = gguf_tensors(model, change=unpermuted)
    keys = metadata("llama", expert_count=EXPERTS, expert_used_count=EXPERTS_USED)
    assert_same_outputs(model, memory_file(keys, tensors))


@pytest.mark.parametrize("rope", [DEFAULT_ROPE, YARN_ROPE], ids=["plain", "yarn"])
def test_qwen2(rope):
    model = peer("Qwen2", rope_parameters=rope)
    more = {}
    if rope is YARN_ROPE:
        more = {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
        }
    assert_same_outputs(model, memory_file(metadata("qwen2", **more), gguf_tensors(model)))


@pytest.mark.parametrize("tied", [False, True], ids=["head", "tied"])
def test_qwen3(tied):
    model = peer("Qwen3", head_dim=32, tie_word_embeddings=tied)
    keys = metadata("qwen3", attention__key_length=32, attention__value_length=32)
    assert_same_outputs(model, memory_file(keys, gguf_tensors(model)))


def test_qwen3moe():
    model = peer(
        "Qwen3Moe",
        head_dim=32,
        num_experts=EXPERTS,
        num_experts_per_tok=EXPERTS_USED,
        moe_intermediate_size=EXPERT_FFN,
        norm_topk_prob=True,
    )
    keys = metadata(
        "qwen3moe",
        attention__key_length=32,
        attention__value_length=32,
        expert_count=EXPERTS,
        expert_used_count=EXPERTS_USED,
        expert_feed_forward_length=EXPERT_FFN,
    )
    assert_same_outputs(model, memory_file(keys, gguf_tensors(model)))


def test_gemma3():
    model = peer(
        "Gemma3Text",
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        tie_word_embeddings=True,
        rope_parameters={
            "sliding_attention": DEFAULT_ROPE,
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        },
    )

    def plus_one(name, values):
        return values + 1 if name.endswith("norm") else values

    tensors = gguf_tensors(model, GEMMA_NAMES, plus_one)
    keys = metadata(
        "gemma3",
        attention__key_length=32,
        attention__value_length=32,
        attention__sliding_window=WINDOW,
        attention__sliding_window_pattern=np.array([True, True, False]),
        rope__freq_base=1e6,
        rope__scaling__type="linear",
        rope__scaling__factor=8.0,
    )
    assert_same_outputs(model, memory_file(keys, tensors))


def test_phi3():
    model = peer("Phi3")
    assert_same_outputs(model, memory_file(metadata("phi3"), gguf_tensors(model)))


def test_phi3_with_long_factors():
    model = peer("Phi3", rope_parameters=LONGROPE, original_max_position_embeddings=64)
    tensors = gguf_tensors(model) | {
        "rope_factors_long.weight": np.array(LONGROPE["long_factor"], np.float32),
        "rope_factors_short.weight": np.array(LONGROPE["short_factor"], np.float32),
    }
    keys = metadata(
        "phi3",
        rope__scaling__original_context_length=64,
        rope__scaling__attn_factor=math.sqrt(1 + math.log(CONTEXT / 64) / math.log(64)),
    )
    assert_same_outputs(model, memory_file(keys, tensors))
