"""Writes a trained tiny-chat as a GGUF file that llama.cpp and localllm can load.

python tools/tiny_chat/export.py DIR/mean.pt DIR/tokenizer.json tiny-chat.gguf
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from model import Config, TinyChat
from template import CHAT_TEMPLATE
from tokenizer import CONTROL, END_OF_TEXT, PRE_TOKENIZER, TURN_END, VOCAB
from tokenizers import Tokenizer
from torch import Tensor

DESCRIPTION = (
    "A demonstration model of the localllm project: it shows that the tool works, "
    "it is not a useful assistant."
)


def pair_neighbours(weight: Tensor, heads: int) -> Tensor:
    """Reorder rows of a query or key matrix [heads * C, D] from half-split to adjacent pairs.

    The network rotates channels (i, i + C/2); GGUF's llama architecture rotates (2i, 2i + 1).
    """
    rows, width = weight.shape
    return weight.view(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width)


def tensors(model: TinyChat) -> dict[str, Tensor]:
    """GGUF tensor names and values; matrices are [outputs, inputs]."""
    config = model.config
    named = {"token_embd.weight": model.embed, "output_norm.weight": model.norm.weight}
    for index, block in enumerate(model.blocks):
        named |= {
            f"blk.{index}.attn_norm.weight": block.attn_norm.weight,
            f"blk.{index}.attn_q.weight": pair_neighbours(block.q, config.heads),
            f"blk.{index}.attn_k.weight": pair_neighbours(block.k, config.kv_heads),
            f"blk.{index}.attn_v.weight": block.v,
            f"blk.{index}.attn_output.weight": block.o,
            f"blk.{index}.ffn_norm.weight": block.ffn_norm.weight,
            f"blk.{index}.ffn_gate.weight": block.gate,
            f"blk.{index}.ffn_up.weight": block.up,
            f"blk.{index}.ffn_down.weight": block.down,
        }
    return named


def write_gguf(model: TinyChat, tokenizer: Tokenizer, path: Path) -> None:
    """Write the model to path: matrices in F16, gains in F32."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-chat")
    writer.add_author("localllm")
    writer.add_license("mit")
    writer.add_description(DESCRIPTION)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(config.vocab)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.ffn)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_dimension_count(config.head_width)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    _add_tokenizer(writer, tokenizer)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, value in tensors(model).items():
        kind = np.float16 if value.ndim == 2 else np.float32
        writer.add_tensor(name, value.detach().float().numpy().astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    """Tokens in id order, their types, and the merges as 'left right'."""
    spec = json.loads(tokenizer.to_str())
    added = {token["content"] for token in spec["added_tokens"]}
    tokens = [tokenizer.id_to_token(i) for i in range(VOCAB)]
    types = []
    for token in tokens:
        kind = gguf.TokenType.USER_DEFINED if token in added else gguf.TokenType.NORMAL
        types.append(gguf.TokenType.CONTROL if token in CONTROL else kind)
    merges = [m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokenizer.token_to_id(TURN_END))
    writer.add_eot_token_id(tokenizer.token_to_id(TURN_END))
    writer.add_pad_token_id(tokenizer.token_to_id(END_OF_TEXT))
    writer.add_add_bos_token(False)


def load_checkpoint(path: Path) -> TinyChat:
    """The model of a checkpoint that train.py wrote."""
    state = torch.load(path, map_location="cpu")
    model = TinyChat(Config(**state["config"]))
    model.load_state_dict(state["model"])
    return model.eval()


def main() -> None:
    """Export a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    write_gguf(load_checkpoint(args.checkpoint), tokenizer, args.output)


if __name__ == "__main__":
    main()
