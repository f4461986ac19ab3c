"""What a converted file holds, and what a bad checkpoint is told."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localllm.convert import convert_checkpoint
from localllm.convert.storing import store
from localllm.engine.engine import Engine
from localllm.errors import LocalLLMError, ModelFileError, UsageError
from localllm.gguf import GGUFFile, dequantize, quant_type

from .by_hand import (
    CONFIG,
    ROWS,
    SHAPES,
    TOKENIZER,
    WIDTH,
    checkpoint,
    tensors,
    write_safetensors,
)


def convert(folder: Path, type: str = "F32") -> GGUFFile:
    convert_checkpoint(folder, folder / "made.gguf", type=type)
    return GGUFFile.open(folder / "made.gguf")


def float32(file: GGUFFile, name: str) -> np.ndarray:
    tensor = file.tensors[name]
    return dequantize(tensor.data, tensor.type, tensor.shape)


def test_names_and_values(tmp_path: Path) -> None:
    values = tensors()
    file = convert(checkpoint(tmp_path, values))
    np.testing.assert_array_equal(
        float32(file, "blk.1.ffn_down.weight"), values["model.layers.1.mlp.down_proj.weight"]
    )
    # rows of a head: the first of its first half, the first of its second half, and so on
    query = values["model.layers.0.self_attn.q_proj.weight"]
    order = [0, 8, 1, 9]
    np.testing.assert_array_equal(float32(file, "blk.0.attn_q.weight")[:4], query[order])
    np.testing.assert_array_equal(float32(file, "blk.0.attn_q.weight")[16:20], query[16:][order])
    assert next(iter(file.tensors)) == "token_embd.weight"
    assert file.get("general.architecture", str) == "llama"
    assert file.get("llama.context_length", int) == 64


def test_the_file_runs(tmp_path: Path) -> None:
    engine = Engine.load(convert(checkpoint(tmp_path), "F16").path, context=32)
    ids = engine.tokenizer.encode(" abcab")
    assert [engine.tokenizer.token_bytes(i) for i in ids[1:]] == [b" ", b" ab", b"c", b"ab"]
    (logits,) = engine.logits(ids)
    assert logits.shape == (len(ids), ROWS)


def test_a_tied_head_is_left_out(tmp_path: Path) -> None:
    assert "output.weight" in convert(checkpoint(tmp_path)).tensors
    config = {"tie_word_embeddings": True}
    assert "output.weight" not in convert(checkpoint(tmp_path, config=config)).tensors


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("type", ["F32", "F16", "BF16", "Q8_0", "auto"])
def test_types(tmp_path: Path, kind: str, type: str) -> None:
    values = tensors()
    file = convert(checkpoint(tmp_path, values, kind=kind), type)
    expected = kind if type == "auto" else type
    wide, odd = file.tensors["blk.0.ffn_up.weight"], file.tensors["blk.0.ffn_down.weight"]
    assert wide.type.name == expected
    assert odd.type.name == ("F16" if expected == "Q8_0" else expected)  # rows of 48
    assert file.tensors["output_norm.weight"].type.name == "F32"
    error = float32(file, wide.name) - values["model.layers.0.mlp.up_proj.weight"]
    steps = {"F32": 0, "F16": 2**-10, "BF16": 2**-7, "Q8_0": 2**-6}
    assert np.abs(error).max() <= 4 * (steps[kind] + steps[expected])
    assert (
        file.get("general.file_type", int) == {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7}[expected]
    )


@pytest.mark.parametrize("type", ["F16", "BF16", "Q8_0"])
def test_stored_as_by_the_gguf_package(type: str) -> None:
    gguf = pytest.importorskip("gguf")
    values = np.random.default_rng(3).standard_normal(1 << 16, np.float32)
    values[:32] = 0
    values[32:96] *= 1e-6
    out = np.empty(quant_type(type).nbytes(values.size), np.uint8)
    store(values, "F32", quant_type(type), 32, out)
    expected = gguf.quants.quantize(values.reshape(-1, 32), gguf.GGMLQuantizationType[type])
    np.testing.assert_array_equal(out, expected.reshape(-1).view(np.uint8))


def test_numbers_too_large_for_f16(tmp_path: Path) -> None:
    values = tensors()
    values["lm_head.weight"][3, 3] = 1e6
    folder = checkpoint(tmp_path, values)
    with pytest.raises(
        ModelFileError, match=r"tensor lm_head.weight: 1e\+06 cannot be stored as F16"
    ):
        convert(folder, "F16")
    assert not list(tmp_path.glob("*.gguf*"))
    assert not list(tmp_path.glob(".*.part"))
    assert float32(convert(folder, "BF16"), "output.weight").max() > 9e5


def test_memory(tmp_path: Path) -> None:
    """Two tensors' worth, whatever the model has."""
    rows = 1 << 15
    values = tensors() | {
        name: np.ones((rows, WIDTH * 4), np.float32) for name in ("lm_head.weight",)
    }
    folder = checkpoint(tmp_path, values)
    tracemalloc.start()
    convert(folder, "F16")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * values["lm_head.weight"].nbytes


def write_index(folder: Path, places: dict[str, Any]) -> None:
    text = json.dumps({"weight_map": places})
    (folder / "model.safetensors.index.json").write_text(text)


def test_shards(tmp_path: Path) -> None:
    values = tensors()
    whole = convert(checkpoint(tmp_path / "whole", values))
    folder = checkpoint(tmp_path / "shards", values)
    (folder / "model.safetensors").unlink()
    names = list(SHAPES)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for part, held in parts.items():
        write_safetensors(folder / part, {name: values[name] for name in held})
    write_index(folder, {name: part for part, held in parts.items() for name in held})
    made = convert(folder)
    assert list(made.tensors) == list(whole.tensors)
    for name in whole.tensors:
        np.testing.assert_array_equal(made.tensors[name].data, whole.tensors[name].data)
    (folder / "b.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"b.safetensors: no such file"):
        convert(folder)
    write_safetensors(folder / "b.safetensors", {"model.norm.weight": values["model.norm.weight"]})
    with pytest.raises(ModelFileError, match=r"tensor .* missing from the file"):
        convert(folder)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", 3, "..", "a\\b", "a\0"])
def test_shards_outside_the_folder(tmp_path: Path, name: Any) -> None:
    folder = checkpoint(tmp_path)
    write_index(folder, dict.fromkeys(SHAPES, name))
    with pytest.raises(ModelFileError, match="does not lie in the checkpoint's folder"):
        convert(folder)


def changed(path: str, value: Any) -> dict[str, Any]:
    """TOKENIZER with one thing changed."""
    made = deepcopy(TOKENIZER)
    *keys, last = path.split(".")
    inner = made
    for key in keys:
        inner = inner[key]
    inner[last] = value
    return made


def without(*names: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in tensors().items() if name not in names}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": ({"config": {"architectures": ["MambaForCausalLM"]}}, "Mamba"),
    "no architecture": ({"config": {"architectures": None}}, "architectures"),
    "architectures of numbers": ({"config": {"architectures": [3, {}]}}, "architectures"),
    "quantised": ({"config": {"quantization_config": {"quant_method": "gptq"}}}, "gptq"),
    "no layers": ({"config": {"num_hidden_layers": 0}}, "num_hidden_layers: 0 is not"),
    "many layers": ({"config": {"num_hidden_layers": 10**9}}, "num_hidden_layers"),
    "more layers": ({"config": {"num_hidden_layers": 3}}, "layers.2.input_layernorm.weight: miss"),
    "fewer layers": ({"config": {"num_hidden_layers": 1}}, "beyond the 1 that config.json"),
    "heads of text": ({"config": {"num_attention_heads": "2"}}, "num_attention_heads"),
    "heads that divide nothing": ({"config": {"num_attention_heads": 3}}, "are not 3 heads"),
    "an epsilon of text": ({"config": {"rms_norm_eps": []}}, "rms_norm_eps"),
    "an infinite epsilon": ({"config": {"rms_norm_eps": float("inf")}}, "rms_norm_eps"),
    "a very long number": ({"config": {"rms_norm_eps": 10**400}}, "rms_norm_eps"),
    "an epsilon that is none": ({"config": {"rms_norm_eps": float("nan")}}, "rms_norm_eps"),
    "a very long score": (
        {"tokenizer": changed("model", {"type": "Unigram", "vocab": [["a", 10**400]]})},
        "is no token with its score",
    ),
    "another activation": ({"config": {"hidden_act": "relu"}}, "'relu' is not supported"),
    "unknown rope": ({"config": {"rope_scaling": {"type": "x"}}}, "'x' is not supported"),
    "rope of text": ({"config": {"rope_scaling": "yarn"}}, "rope_scaling: is not an object"),
    "yarn by nothing": (
        {"config": {"rope_scaling": {"type": "linear"}}},
        "rope_scaling: factor: missing",
    ),
    "a missing tensor": ({"values": without("model.norm.weight")}, "norm.weight: missing"),
    "an unknown tensor": (
        {"values": tensors() | {"model.layers.0.mamba.weight": np.ones(3, np.float32)}},
        "not known in a llama model",
    ),
    "a tensor twice": (
        {"values": tensors() | {"norm.weight": np.ones(WIDTH, np.float32)}},
        "is there twice",
    ),
    "a tensor of nothing": (
        {"values": tensors() | {"lm_head.weight": np.ones((0, WIDTH), np.float32)}},
        "is empty",
    ),
    "no tokenizer": ({"tokenizer": {}}, "no tokenizer.json, tokenizer.model or vocab.txt"),
    "a tokenizer of text": ({"tokenizer": "x"}, "must hold a JSON object"),
    "no vocabulary": ({"tokenizer": changed("model.vocab", [])}, "vocab: is not an object"),
    "an id of text": ({"tokenizer": changed("model.vocab", {"a": "3"})}, "id 3 is beyond"),
    "a far id": ({"tokenizer": changed("model.vocab", {"a": 1 << 40})}, "is beyond the 270 rows"),
    "an id below": ({"tokenizer": changed("model.vocab", {"a": -1})}, "is beyond"),
    "half a character": ({"tokenizer": changed("model.vocab", {"\ud800": 3})}, "is not JSON"),
    "an id twice": ({"tokenizer": changed("model.vocab", {"a": 1, "b": 1})}, "two tokens"),
    "merges of three": ({"tokenizer": changed("model.merges", ["a b c"])}, "no pair of tokens"),
    "merges of numbers": ({"tokenizer": changed("model.merges", [[1, 2]])}, "no pair of tokens"),
    "merges of nothing": ({"tokenizer": changed("model.merges", {})}, "merges: is not a list"),
    "unknown kind": ({"tokenizer": changed("model.type", "Magic")}, "Magic is not supported"),
    "plain BPE": ({"tokenizer": changed("model.byte_fallback", False)}, "not without"),
    "a token of its own text": (
        {"tokenizer": changed("added_tokens", [{"id": 261, "content": "a"}])},
        "stands twice",
    ),
    "an unknown pre-tokenizer": (
        {
            "tokenizer": changed(
                "pre_tokenizer",
                {
                    "type": "Sequence",
                    "pretokenizers": [{"type": "Whitespace"}, {"type": "ByteLevel"}],
                },
            )
        },
        "cuts texts in a way that is not known: Whitespace; gpt-2",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_checkpoints(tmp_path: Path, case: str) -> None:
    changes, message = BAD[case]
    folder = checkpoint(tmp_path, **changes)
    with pytest.raises(LocalLLMError) as caught:
        convert(folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert not list(tmp_path.glob("*.gguf*"))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "deep": lambda data: b"[" * 200_000,
    "no text": lambda data: b"\xff\xfe" + data,
}


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files(tmp_path: Path, name: str, damage: str) -> None:
    folder = checkpoint(tmp_path)
    (folder / name).write_bytes(DAMAGE[damage]((folder / name).read_bytes()))
    with pytest.raises(LocalLLMError, match=name) as caught:
        convert(folder)
    assert "\n" not in str(caught.value)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        convert_checkpoint(tmp_path / "x", tmp_path / "y")
    with pytest.raises(UsageError, match=r"there is no config\.json"):
        convert_checkpoint(tmp_path, tmp_path / "y")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(UsageError, match=r"there is no model\.safetensors"):
        convert_checkpoint(tmp_path, tmp_path / "y")
    with pytest.raises(UsageError, match="Q4_K: is none of"):
        convert_checkpoint(tmp_path, tmp_path / "y", type="Q4_K")


def test_name_licence_and_sampling(tmp_path: Path) -> None:
    folder = tmp_path / "models--them--Phi-3-mini" / "snapshots" / "0123abcd"
    folder.mkdir(parents=True)
    checkpoint(folder)
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\ntags:\n- x\n---\n# x\nlicense: no\n"
    )
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20}')
    file = convert(folder)
    assert file.get("general.name", str) == "Phi-3-mini"
    assert file.get("general.license", str) == "apache-2.0"
    assert file.get("general.sampling.top_k", int) == 20
    assert file.get("general.sampling.temp", float) == pytest.approx(0.6)


def test_chat_templates(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    (folder / "chat_template.jinja").write_text("beside")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool use.jinja").write_text("more")
    file = convert(folder)
    assert file.get("tokenizer.chat_template", str) == "beside"
    assert file.get("tokenizer.chat_template.tool_use", str) == "more"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "configured"}))
    assert convert(folder).get("tokenizer.chat_template", str) == "configured"


def test_vocabulary_is_filled_and_cut_to_the_embedding(tmp_path: Path) -> None:
    added = [*TOKENIZER["added_tokens"], {"id": ROWS + 5, "content": "<far>", "special": True}]
    made = convert_checkpoint(
        checkpoint(tmp_path, tokenizer=changed("added_tokens", added)), tmp_path / "x.gguf"
    )
    assert made.notes == (f"token <far> ({ROWS + 5}) is left out: the embedding has {ROWS} rows",)
    tokens = GGUFFile.open(tmp_path / "x.gguf").metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == ROWS
    assert tokens[-1] == b"[PAD269]"
