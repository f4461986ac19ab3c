"""tiny-chat as a checkpoint folder: what a repository of the model would hold."""

import json

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from localllm.gguf import GGUFFile, dequantize
from localllm.hub.names import resolve

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = 3  # of `tokenizer.ggml.token_type`


def write_checkpoint(folder, shards=2):
    """Writes config, tokenizer and weights in float16; returns the names of the files."""
    file = GGUFFile.open(resolve(None).path)
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(file, folder)
    _write_json(folder / "config.json", _config(file))
    tensors = dict(_tensors(file))
    total = sum(values.nbytes for values in tensors.values())
    names, places = list(tensors), {}
    for number in range(shards):
        part = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        chosen = names[number::shards]
        save_file({name: tensors[name] for name in chosen}, folder / part, {"format": "pt"})
        places |= dict.fromkeys(chosen, part)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    _write_json(folder / "model.safetensors.index.json", index)
    return sorted(path.name for path in folder.iterdir())


def _config(file):
    value = file.metadata
    head_dim = int(value["llama.rope.dimension_count"])
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": int(value["llama.vocab_size"]),
        "max_position_embeddings": int(value["llama.context_length"]),
        "hidden_size": int(value["llama.embedding_length"]),
        "num_hidden_layers": int(value["llama.block_count"]),
        "intermediate_size": int(value["llama.feed_forward_length"]),
        "num_attention_heads": int(value["llama.attention.head_count"]),
        "num_key_value_heads": int(value["llama.attention.head_count_kv"]),
        "head_dim": head_dim,
        "rope_theta": float(value["llama.rope.freq_base"]),
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "bos_token_id": None,
        "eos_token_id": int(value["tokenizer.ggml.eos_token_id"]),
        "pad_token_id": int(value["tokenizer.ggml.padding_token_id"]),
    }


def _tensors(file):
    heads = {
        "attn_q": int(file.metadata["llama.attention.head_count"]),
        "attn_k": int(file.metadata["llama.attention.head_count_kv"]),
    }
    for name, info in file.tensors.items():
        values = dequantize(info.data, info.type, info.shape).astype(np.float16)
        *block, part, kind = name.split(".")
        if part in heads:  # GGUF has the two halves of a head interleaved
            pairs = values.reshape(heads[part], -1, 2, values.shape[-1])
            values = np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(values.shape))
        prefix = f"model.layers.{block[1]}." if block else ""
        yield f"{prefix}{NAMES[part]}.{kind}", values


def _write_tokenizer(file, folder):
    value = file.metadata
    texts = [text.decode() for text in value["tokenizer.ggml.tokens"]]
    merges = [tuple(merge.decode().split(" ")) for merge in value["tokenizer.ggml.merges"]]
    types = value["tokenizer.ggml.token_type"].tolist()
    added = [number for number, kind in enumerate(types) if kind != 1]
    vocabulary = {text: number for number, text in enumerate(texts)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for number in added:
        token = AddedToken(texts[number], normalized=False, special=types[number] == CONTROL)
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": texts[int(value["tokenizer.ggml.eos_token_id"])],
            "pad_token": texts[int(value["tokenizer.ggml.padding_token_id"])],
            "add_bos_token": False,
            "chat_template": value["tokenizer.chat_template"],
        },
    )


def _write_json(path, document):
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")
