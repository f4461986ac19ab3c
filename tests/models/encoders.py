"""BERT models as files: random ones of any shape, and what transformers has of them."""

import numpy as np

from localllm.gguf import write_gguf
from tests.tokenize.building import word_piece

LAYERS, WIDTH, HEADS, FFN, CONTEXT, SEGMENTS = 3, 48, 3, 80, 96, 2
EPS = 1e-12

NAMES = {  # transformers to GGUF
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def tensors_of(model):
    """The weights of a transformers `BertModel` under their GGUF names."""
    tensors = {}
    for key, parameter in model.named_parameters():
        if key.startswith("pooler."):
            continue
        prefix = ""
        if key.startswith("encoder.layer."):
            _, _, number, key = key.split(".", 3)
            prefix = f"blk.{number}."
        stem, kind = key.rsplit(".", 1)
        tensors[f"{prefix}{NAMES[stem]}.{kind}"] = parameter.detach().numpy()
    return tensors


def random_tensors(seed=0, *, layers=LAYERS, width=WIDTH, ffn=FFN, vocab, context=CONTEXT):
    """Random weights under their GGUF names; norms about 1."""
    random = np.random.default_rng(seed)
    shapes = {
        "token_embd": (vocab, width),
        "position_embd": (context, width),
        "token_types": (SEGMENTS, width),
        "token_embd_norm": (width,),
    }
    for layer in range(layers):
        at = f"blk.{layer}."
        shapes |= {f"{at}attn_{one}": (width, width) for one in ("q", "k", "v", "output")}
        shapes |= {f"{at}ffn_up": (ffn, width), f"{at}ffn_down": (width, ffn)}
        shapes |= {f"{at}{one}": (width,) for one in ("attn_output_norm", "layer_output_norm")}
    tensors = {}
    for name, shape in shapes.items():
        values = random.standard_normal(shape, np.float32)
        if name.endswith("norm"):
            tensors[f"{name}.weight"] = 1 + values / 4
        else:
            tensors[f"{name}.weight"] = values if name.count("_embd") else values * 3 / shape[1]
        if name.startswith("blk.") or name.endswith("norm"):
            tensors[f"{name}.bias"] = random.standard_normal(shape[0], np.float32) / 4
    return tensors


def metadata(*, layers=LAYERS, width=WIDTH, heads=HEADS, ffn=FFN, context=CONTEXT, **more):
    """What llama.cpp's converter writes for BERT, without the vocabulary."""
    values = {
        "block_count": layers,
        "context_length": context,
        "embedding_length": width,
        "feed_forward_length": ffn,
        "attention.head_count": heads,
        "attention.layer_norm_epsilon": EPS,
        "attention.causal": False,
        "pooling_type": 1,
    }
    return {
        "general.architecture": "bert",
        "tokenizer.ggml.token_type_count": SEGMENTS,
        **{f"bert.{key}": value for key, value in values.items()},
        **more,
    }


def vocabulary():
    """Letters, digits and some words."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?!"
    words = ("▁the", "▁fox", "▁dog", "▁over", "ing", "ed")
    pieces = [*(f"▁{one}" for one in letters), *letters, *words]
    return {f"tokenizer.ggml.{key}": value for key, value in word_piece(pieces).items()}


def random_bert(path, seed=0, **shape):
    """Writes a random model with a vocabulary; returns its path."""
    words = vocabulary()
    sizes = {key: value for key, value in shape.items() if key != "heads"}
    tensors = random_tensors(seed, vocab=len(words["tokenizer.ggml.tokens"]), **sizes)
    write_gguf(path, metadata(**shape) | words, tensors)
    return path
