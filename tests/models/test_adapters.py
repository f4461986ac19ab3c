"""Adapter files: what they add to which weight, and every way in which they can be wrong."""

import os
import random
from itertools import pairwise

import numpy as np
import pytest

from localllm.errors import ModelFileError
from localllm.evaluate.synthetic import random_model
from localllm.gguf import GGUFFile
from localllm.models import load_definition
from localllm.models.adapters.loading import open_adapter
from tests.models.adapting import (
    random_pairs,
    read_terms,
    write_adapter,
    write_peft,
)

Q = "blk.1.attn_q.weight"
HF_Q = "base_model.model.model.layers.1.self_attn.q_proj"
WIDTH, FFN = 64, 128


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Small models by architecture."""
    folder = tmp_path_factory.mktemp("models")
    return {
        arch: random_model(
            folder / f"{arch}.gguf", arch, width=WIDTH, heads=2, kv_heads=1, experts=4
        )
        for arch in ("llama", "qwen2", "gemma3", "phi3", "qwen3moe")
    }


def halves(module, out=WIDTH, width=WIDTH, rank=4):
    """A and B of a module as PEFT names them; B counts its rows."""
    b = np.repeat(np.arange(out, dtype=np.float32)[:, None], rank, 1)
    return {
        f"{module}.lora_A.weight": np.ones((rank, width), np.float32),
        f"{module}.lora_B.weight": b,
    }


@pytest.mark.parametrize(("alpha", "scale"), [(6.0, 1.5), (0.0, 1.0), (-2.0, -0.5)])
def test_gguf(models, tmp_path, alpha, scale):
    pairs = random_pairs(models["llama"], rank=4)
    path = write_adapter(tmp_path / "a.gguf", pairs, "llama", alpha)
    terms = read_terms(path, models["llama"])
    assert terms.keys() == pairs.keys()
    assert "output.weight" in terms
    for name, (a, b) in pairs.items():
        np.testing.assert_array_equal(terms[name].a, a)
        np.testing.assert_array_equal(terms[name].b, b * np.float32(scale))


def test_fused_weights_are_adapted_by_their_parts(models, tmp_path):
    pairs = random_pairs(models["phi3"], rank=4)
    path = write_adapter(tmp_path / "a.gguf", pairs, "phi3", 4.0, dtype=np.float16)
    terms = read_terms(path, models["phi3"])
    for name, bounds in (("attn_qkv", (0, 64, 96, 128)), ("ffn_up", (0, FFN, 2 * FFN))):
        name = f"blk.0.{name}.weight"
        for start, stop in pairwise(bounds):
            part = terms[f"{name}[{start}:{stop}]"]
            np.testing.assert_array_equal(part.a, pairs[name][0].astype(np.float16))
            np.testing.assert_array_equal(part.b, pairs[name][1][start:stop].astype(np.float16))


def test_peft_rows_of_turned_heads_are_moved_as_the_converter_does(models, tmp_path):
    module = "base_model.model.model.layers.0.self_attn"
    tensors = (
        halves(f"{module}.q_proj") | halves(f"{module}.k_proj", 32) | halves(f"{module}.v_proj", 32)
    )
    folder = write_peft(tmp_path / "a", tensors, lora_alpha=4)
    moved = read_terms(folder, models["llama"])
    kept = read_terms(folder, models["qwen2"])
    pairs = [part for i in range(16) for part in (i, 16 + i)]  # of a head of 32
    for part, expected in (
        ("q", [*pairs, *(32 + row for row in pairs)]),
        ("k", pairs),
        ("v", list(range(32))),
    ):
        name = f"blk.0.attn_{part}.weight"
        assert moved[name].b[:, 0].tolist() == expected
        assert kept[name].b[:, 0].tolist() == list(range(len(expected)))


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4.0),
        ({"lora_alpha": 3}, 0.75),
        ({"alpha_pattern": {"q_proj": 4}}, 1.0),
        ({"alpha_pattern": {"v_proj": 4}}, 2.0),
        ({"alpha_pattern": {"^model.layers.1.self_attn.q_proj": 4}}, 1.0),
        ({"alpha_pattern": {"^layers.1.self_attn.q_proj": 4}}, 2.0),
        ({"alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 4, "q_proj": 16}}, 1.0),
        ({"r": 8, "rank_pattern": {"q_proj": 4}}, 2.0),
        ({"modules_to_save": [], "use_dora": False, "init_lora_weights": "gaussian"}, 2.0),
    ],
)
def test_peft_scales(models, tmp_path, config, scale):
    terms = read_terms(write_peft(tmp_path / "a", halves(HF_Q), **config), models["qwen2"])
    assert terms[Q].b[1, 0] == scale


@pytest.mark.parametrize("prefix", ["model.", "model.language_model.", "language_model.model.", ""])
def test_peft_names(models, tmp_path, prefix):
    module = f"base_model.model.{prefix}layers.1.mlp.down_proj"
    folder = write_peft(tmp_path / "a", halves(module, width=FFN))
    assert list(read_terms(folder, models["gemma3"])) == ["blk.1.ffn_down.weight"]


BAD_GGUF = {
    "a model": ({"general.type": "model"}, None, "general.type: 'model', expected 'adapter'"),
    "no LoRA": ({"adapter.type": "ia3"}, None, "adapter.type: 'ia3', expected 'lora'"),
    "another architecture": (
        {"general.architecture": "qwen2"},
        None,
        "general.architecture: 'qwen2', expected 'llama'",
    ),
    "activated": (
        {"adapter.alora.invocation_tokens": [1, 2]},
        None,
        "adapter.alora.invocation_tokens: not supported",
    ),
    "alpha of text": ({"adapter.lora.alpha": "1"}, None, "adapter.lora.alpha: expected float"),
    "alpha of nothing": (
        {"adapter.lora.alpha": float("nan")},
        None,
        rf"tensor {Q}\.lora_b: holds a value that is not finite",
    ),
    "no such weight": (
        {},
        {"blk.9.attn_q.weight": (4, 64, 64)},
        r"tensor blk\.9\.attn_q\.weight\.lora_a: the model \(architecture llama\) has no linear",
    ),
    "a norm": ({}, {"blk.0.attn_norm.weight": (4, 64, 64)}, "has no linear weight"),
    "an embedding": ({}, {"token_embd.weight": (4, 64, 512)}, "has no linear weight"),
    "experts": (
        {},
        {"blk.0.ffn_up_exps.weight": (4, 64, 64)},
        "adapters of experts are not supported",
    ),
    "A too wide": ({}, {Q: (4, 65, 64)}, r"lora_a: expected shape \[rank, 64\], found \[4, 65\]"),
    "B too high": ({}, {Q: (4, 64, 65)}, r"lora_b: expected shape \[64, 4\], found \[65, 4\]"),
}


@pytest.mark.parametrize("case", BAD_GGUF)
def test_gguf_that_is_refused(models, tmp_path, case):
    keys, shapes, message = BAD_GGUF[case]
    pairs = {
        name: (np.ones((rank, width), np.float32), np.ones((out, rank), np.float32))
        for name, (rank, width, out) in (shapes or {Q: (4, 64, 64)}).items()
    }
    path = write_adapter(tmp_path / "bad.gguf", pairs, "llama", metadata=keys)
    with pytest.raises(ModelFileError, match=rf"bad\.gguf: .*{message}"):
        read_terms(path, models["llama"])


def test_a_tied_head_is_refused(models, tmp_path):
    base = random_model(tmp_path / "tied.gguf", "llama", width=64, heads=2, tied=True)
    path = write_peft(tmp_path / "a", halves("base_model.model.lm_head", 512))
    assert "output.weight" in read_terms(path, models["llama"])
    with pytest.raises(ModelFileError, match=r"has no linear weight output\.weight"):
        read_terms(path, base)


def config_cases():
    for key, value in {
        "use_dora": True,
        "modules_to_save": ["lm_head"],
        "lora_bias": True,
        "fan_in_fan_out": True,
        "layer_replication": [[0, 1]],
        "target_parameters": ["mlp.experts.gate_up_proj"],
        "trainable_token_indices": [1],
        "alora_invocation_tokens": [1],
        "use_qalora": True,
    }.items():
        yield {key: value}, f"{key}: not supported"
    yield {"peft_type": "IA3"}, 'peft_type: "IA3": only LORA is read'
    yield {"peft_type": None}, "peft_type: null: only LORA"
    yield {"bias": "all"}, 'bias: "all": biases are not supported'
    yield {"init_lora_weights": "pissa"}, 'init_lora_weights: "pissa": it changes the base model'
    yield {"r": 8}, r"lora_A\.weight: rank 4, but adapter_config\.json says 8"
    for value in (0, -1, None, "4", 4.0, True, 2**70):
        yield {"r": value}, "r: .*: must be a whole number above 0"
    for value in (None, "8", True, 10**400, float("nan"), float("inf")):
        yield {"lora_alpha": value}, "lora_alpha: .*: must be a number"
    yield {"alpha_pattern": {"q_proj": [1]}}, "lora_alpha: .*: must be a number"
    yield {"alpha_pattern": [1]}, "alpha_pattern: must be a JSON object"
    yield {"rank_pattern": {"(a+)+$": 1}}, "rank_pattern: .*: only names of modules"


@pytest.mark.parametrize(("config", "message"), list(config_cases()))
def test_peft_configs_that_are_refused(models, tmp_path, config, message):
    folder = write_peft(tmp_path / "a", halves(HF_Q), **config)
    with pytest.raises(ModelFileError, match=message) as caught:
        read_terms(folder, models["qwen2"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "the adapter holds no tensors"),
        ({"a.weight": np.ones(3, np.float32)}, "tensor a.weight: neither lora_A nor lora_B"),
        (
            {f"{HF_Q}.lora_magnitude_vector": np.ones(3, np.float32)},
            "lora_magnitude_vector: neither",
        ),
        (dict([halves(HF_Q).popitem()]), "lora_B.weight: there is no lora_A beside it"),
        (halves("base_model.model.model.embed_tokens"), "adapters of model.embed_tokens"),
        (
            halves("base_model.model.model.layers.0.mlp.experts.3.up_proj"),
            "experts are not supported",
        ),
        (halves("base_model.model.model.layers.7.self_attn.q_proj"), "no linear weight blk.7"),
        (halves("base_model.model.vision_tower.layers.0.self_attn.q_proj"), "not supported"),
        (halves(HF_Q) | halves("layers.1.self_attn.q_proj"), "not supported"),
        (halves(HF_Q, width=32), r"expected shape \[rank, 64\], found \[4, 32\]"),
        (
            {**halves(HF_Q), f"{HF_Q}.lora_B.weight": np.ones((64, 4, 1), np.float32)},
            r"must be a matrix, has shape \[64, 4, 1\]",
        ),
        (
            {**halves(HF_Q), f"{HF_Q}.lora_A.weight": np.full((4, 64), np.inf, np.float32)},
            "holds a value that is not finite",
        ),
    ],
)
def test_peft_tensors_that_are_refused(models, tmp_path, tensors, message):
    with pytest.raises(ModelFileError, match=message):
        read_terms(write_peft(tmp_path / "a", tensors), models["qwen2"])


def test_experts_are_refused_by_name(models, tmp_path):
    module = "base_model.model.model.layers.0.mlp"
    for tensors in (halves(f"{module}.experts.0.down_proj"), halves(f"{module}.gate", 4)):
        with pytest.raises(ModelFileError, match="not supported"):
            read_terms(write_peft(tmp_path / "a", tensors), models["qwen3moe"])


def test_files_that_are_missing(models, tmp_path):
    for name, message in (("none.gguf", "no such file"), (".", r"adapter_config\.json: no such")):
        with pytest.raises(ModelFileError, match=message):
            read_terms(tmp_path / name, models["llama"])
    folder = write_peft(tmp_path / "a", halves(HF_Q))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelFileError, match=r"adapter_model\.safetensors: no such file"):
        read_terms(folder, models["llama"])
    write_peft(folder, halves(HF_Q))
    with pytest.raises(ModelFileError, match="not a GGUF file"):
        read_terms(folder / "adapter_model.safetensors", models["llama"])


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"[" * 100_000, b"\xff", b" " * (2 << 20)])
def test_hostile_configs(models, tmp_path, data):
    folder = write_peft(tmp_path / "a", halves(HF_Q))
    (folder / "adapter_config.json").write_bytes(data)
    with pytest.raises(ModelFileError, match=r"adapter_config\.json: "):
        read_terms(folder, models["llama"])


def test_changed_bytes_are_an_error_or_an_adapter(models, tmp_path):
    """Never another exception, whatever byte of whichever file changes."""
    generator = random.Random(5)
    pairs = dict(list(random_pairs(models["llama"]).items())[:3])
    gguf = write_adapter(tmp_path / "a.gguf", pairs, "llama")
    folder = write_peft(tmp_path / "a", halves(HF_Q))
    model = load_definition(GGUFFile.open(models["llama"]))
    files = [gguf, folder / "adapter_model.safetensors", folder / "adapter_config.json"]
    outcomes = set()
    for file in files:
        whole = file.read_bytes()
        for _ in range(150):
            data = bytearray(whole)
            for _ in range(generator.randint(1, 4)):
                data[generator.randrange(min(len(data), 700))] = generator.randrange(256)
            if generator.random() < 0.2:
                del data[generator.randrange(len(data)) :]
            file.write_bytes(data)
            try:
                open_adapter(gguf if file == gguf else folder, model).read()
                outcomes.add("read")
            except ModelFileError as error:
                outcomes.add(f"refused in {len(str(error).splitlines())} line")
        file.write_bytes(whole)
    assert outcomes == {"read", "refused in 1 line"}


def test_a_file_cut_short_before_it_is_read(models, tmp_path):
    path = write_adapter(tmp_path / "a.gguf", random_pairs(models["llama"]), "llama")
    file = open_adapter(path, load_definition(GGUFFile.open(models["llama"])))
    os.truncate(path, 4096)
    with pytest.raises(ModelFileError, match="truncated while in use"):
        file.read()
    folder = write_peft(tmp_path / "a", halves(HF_Q))
    file = open_adapter(folder, load_definition(GGUFFile.open(models["llama"])))
    assert file.rank == 4
    assert file.nbytes == 4 * 4 * (64 + 64)
    os.truncate(folder / "adapter_model.safetensors", 100)
    with pytest.raises(ModelFileError, match="truncated while in use"):
        file.read()
