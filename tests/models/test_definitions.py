"""Configurations, bound tensors and the errors of files that contradict themselves."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.errors import ModelFileError
from localllm.evaluate.synthetic import ARCHITECTURES, random_model
from localllm.gguf import GGUFFile, StringArray, TensorInfo, quant_type
from localllm.models import architectures, load_definition, supported_architectures
from localllm.models.config import RopeConfig, read_config
from localllm.models.rope import make_rope
from localllm.ops import eager
from localllm.ops.tracer import trace
from tests.models.memory import changed, memory_file, stored

SUPPORTED = ("bert", "gemma3", "llama", "phi3", "qwen2", "qwen3", "qwen3moe")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A random file of every architecture."""
    folder = tmp_path_factory.mktemp("files")
    return {
        arch: GGUFFile.open(
            random_model(folder / f"{arch}.gguf", arch, width=64, rope_factors=arch == "phi3")
        )
        for arch in ARCHITECTURES
    }


def tensor(name, *shape, quant="F32"):
    kind = quant_type(quant)
    return TensorInfo(name, kind, shape, np.ones(kind.nbytes(int(np.prod(shape))), np.uint8))


def error(file, context=None):
    """The one line that loading the file ends in."""
    with pytest.raises(ModelFileError) as caught:
        load_definition(file, context)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("changed.gguf: ")


def test_supported_architectures():
    assert supported_architectures() == SUPPORTED


def test_an_architecture_file_stays_short():
    for path in Path(architectures.__path__[0]).glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 150, path.name


def test_definitions_and_programs_need_no_torch():
    code = (
        "import sys, localllm.models, localllm.ops.tracer, localllm.ops.native; print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "torch" not in loaded.stdout.split()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_program_uses_every_tensor_and_folds_what_it_can(files, arch):
    listing = str(trace(load_definition(files[arch]), ["logits"]))
    used = set(re.findall(r"[\w.]+\.(?:weight|bias)", listing))
    assert used == {name for name in files[arch].tensors if not name.startswith("rope_")}
    # norms after attention and MLP, and experts, stand between a linear and its add
    adds = {"gemma3": 12, "llama-moe": 2, "qwen3moe": 2}.get(arch, 0)
    assert listing.count(" = add(") == adds


def test_config_of_a_plain_file(files):
    config = read_config(files["qwen3moe"])
    assert (config.arch, config.layers) == ("qwen3moe", 2)
    assert config.name == files["qwen3moe"].metadata["general.name"]
    assert (config.width, config.heads, config.kv_heads, config.head_dim) == (64, 4, 2, 32)
    assert (config.vocab, config.context_length, config.eps) == (512, 1024, pytest.approx(1e-6))
    assert config.experts is not None
    assert (config.experts.count, config.experts.used, config.experts.ffn) == (8, 2, 64)
    assert config.rope == RopeConfig(32, 1e6, "linear", 1.0, 1024)


def test_numbers_given_once_a_layer_must_agree(files):
    key = "llama.attention.head_count_kv"
    same = changed(files["llama"], metadata={key: np.array([2, 2], np.int32)})
    assert load_definition(same).config.kv_heads == 2
    differ = changed(files["llama"], metadata={key: np.array([2, 4], np.int32)})
    assert error(differ) == f"{key}: layers that differ in this are not supported"
    short = changed(files["llama"], metadata={key: np.array([2], np.int32)})
    assert error(short) == f"{key}: 1 values for 2 layers"
    text = changed(files["llama"], metadata={key: np.array([2.0, 2.0], np.float32)})
    assert error(text) == f"{key}: layers that differ in this are not supported"


BAD_METADATA = [
    ("block_count", None, "missing from the file's metadata"),
    ("block_count", 0, "0 is not within 1 and 4096"),
    ("block_count", 5000, "5000 is not within 1 and 4096"),
    ("block_count", "2", "expected int, found str"),
    ("embedding_length", 1 << 40, f"{1 << 40} is not within 1 and 16777216"),
    ("embedding_length", -1, "-1 is not within 1 and 16777216"),
    ("attention.head_count", 0, "0 is not within 1 and 16777216"),
    ("attention.head_count_kv", 3, "3 does not divide 4 heads"),
    ("attention.key_length", 24, "heads of 24 are not supported (16 to 512 in 16s are)"),
    ("attention.value_length", 32, "32, but keys are 16 wide: not supported"),
    ("attention.layer_norm_rms_epsilon", float("nan"), "nan is not a finite number from 0 to 1"),
    ("attention.layer_norm_rms_epsilon", -1.0, "-1.0 is not a finite number from 0 to 1"),
    ("rope.dimension_count", 7, "7 is odd"),
    ("rope.dimension_count", 18, "18 is not within 2 and 16"),
    ("rope.freq_base", float("inf"), "inf is not a finite number from 1.001 to inf"),
    ("rope.freq_base", 1.0, "1.0 is not a finite number from 1.001 to inf"),
    ("rope.scaling.factor", 1e-30, "1e-30 is too small"),
    (
        "rope.scaling.type",
        "su",
        "'su' is not supported (none, linear, yarn, longrope are)",
    ),
]


@pytest.mark.parametrize(("key", "value", "message"), BAD_METADATA)
def test_bad_metadata_is_one_line_naming_the_key(files, key, value, message):
    file = changed(files["llama"], metadata={f"llama.{key}": value})
    assert error(file) == f"llama.{key}: {message}"


ODD = [None, 0, 1, 2, 3, -1, 1 << 31, 1 << 63, 0.0, 1e-30, 1e30, -1.0, float("nan"), float("inf")]
ODD += [
    "",
    "yarn",
    "longrope",
    "none",
    True,
    [],
    np.zeros(0),
    np.ones(6, bool),
    np.zeros(6, np.int8),
]
KEYS = [
    "block_count",
    "embedding_length",
    "attention.head_count",
    "attention.head_count_kv",
    "context_length",
    "attention.key_length",
    "attention.value_length",
    "feed_forward_length",
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "final_logit_softcapping",
    "vocab_size",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.freq_base_swa",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scale_linear",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(ARCHITECTURES),
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(ODD), max_size=4),
)
def test_any_metadata_loads_or_ends_in_one_line(files, arch, odd):
    general = files[arch].get("general.architecture", str)
    file = changed(files[arch], metadata={f"{general}.{key}": odd[key] for key in odd})
    try:
        model = load_definition(file)
    except ModelFileError:
        return
    assert np.isfinite(rope_of(model).inverse_frequencies).all()
    assert trace(model).instructions


def test_bad_expert_metadata(files):
    def with_keys(**keys):
        keys = {f"llama.{key}": value for key, value in keys.items()}
        return changed(files["llama-moe"], metadata=keys)

    assert error(with_keys(expert_used_count=9)) == "llama.expert_used_count: 9 of 8 experts"
    assert error(with_keys(expert_used_count=0)) == (
        "llama.expert_used_count: 0 is not within 1 and 16777216"
    )
    none = changed(files["qwen3moe"], metadata={"qwen3moe.expert_count": None})
    assert error(none) == "qwen3moe.expert_count: there must be experts"


def test_unknown_architectures_are_named_with_what_is_supported(files):
    supported = ", ".join(SUPPORTED)
    for arch, shown in (("mamba", "'mamba'"), ("../config", "'../config'"), ("a\nb", r"'a\nb'")):
        found = error(changed(files["llama"], metadata={"general.architecture": arch}))
        assert shown.strip("'") in found
        assert found.startswith("general.architecture: ")
        assert found.endswith(f" is not supported (supported: {supported})")
    none = changed(files["llama"], metadata={"general.architecture": None})
    assert error(none) == "general.architecture: missing from the file's metadata"


def test_missing_tensors(files):
    for arch, name in (
        ("llama", "token_embd.weight"),
        ("llama", "output_norm.weight"),
        ("llama", "blk.1.attn_k.weight"),
        ("qwen3", "blk.0.attn_q_norm.weight"),
        ("gemma3", "blk.3.post_ffw_norm.weight"),
        ("llama-moe", "blk.0.ffn_gate_inp.weight"),
    ):
        file = changed(files[arch], tensors={name: None})
        general = file.get("general.architecture", str)
        assert error(file) == f"tensor {name}: missing from the file (architecture {general})"


def test_shapes_that_disagree_with_the_config(files):
    for arch, name, shape, found in (
        ("llama", "token_embd.weight", [512, 64], (511, 64)),
        ("llama", "output.weight", [512, 64], (64, 512)),
        ("llama", "blk.0.attn_norm.weight", [64], (32,)),
        ("llama", "blk.1.attn_k.weight", [32, 64], (64, 64)),
        ("qwen2", "blk.1.attn_k.bias", [32], (64,)),
        ("phi3", "blk.0.attn_qkv.weight", [128, 64], (192, 64)),
        ("phi3", "blk.0.ffn_up.weight", [256, 64], (128, 64)),
        ("phi3", "rope_factors_long.weight", [8], (16,)),
        ("qwen3moe", "blk.0.ffn_down_exps.weight", [8, 64, 64], (8, 64, 32)),
    ):
        file = changed(files[arch], tensors={name: tensor(name, *found)})
        expected = f"tensor {name}: expected shape {shape}, found {list(found)}"
        assert error(file) == expected


def test_types_that_cannot_be_run_are_named(files):
    name = "blk.0.ffn_norm.weight"
    file = changed(files["llama"], tensors={name: tensor(name, 64, quant="I32")})
    assert error(file) == f"tensor {name}: type I32 cannot be run"
    file = changed(files["llama"], tensors={name: tensor(name, 64, quant="Q4_0")})
    assert error(file) == f"tensor {name}: a vector of type Q4_0 cannot be run"


def test_a_tensor_without_use_is_not_left_out_silently(files):
    for name in ("blk.0.attn_sinks.weight", "blk.7.attn_q.weight"):
        file = changed(files["llama"], tensors={name: tensor(name, 64)})
        assert error(file) == f"tensor {name}: architecture llama has no use for it"
    for name in ("rope_freqs.weight", "blk.0.attn_rot_embd.weight"):
        file = changed(files["qwen3"], tensors={name: tensor(name, 16)})
        assert load_definition(file)


def test_rope_factors_must_be_numbers(files):
    name = "rope_freqs.weight"
    for bad in (0.0, float("nan"), float("inf")):
        info = TensorInfo(name, quant_type("F32"), (8,), stored(np.full(8, bad)))
        file = changed(files["llama"], tensors={name: info})
        assert error(file) == f"tensor {name}: holds zero or infinity"


def test_the_vocabulary_is_that_of_the_tokenizer(files):
    tokens = files["llama"].metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, StringArray)
    assert read_config(files["llama"]).vocab == len(tokens)
    file = changed(
        files["llama"], metadata={"tokenizer.ggml.tokens": None, "llama.vocab_size": 500}
    )
    assert error(file) == "tensor token_embd.weight: expected shape [500, 64], found [512, 64]"


def rope_of(model):
    return model.layers[0].attention.rope


def test_the_context_chooses_the_factors_of_phi3(files):
    ramp = np.linspace(0, 1, 8)
    plain = 10000.0 ** (-np.arange(8) / 8)
    short, long = plain / (1 + 0.5 * ramp), plain / (1 + 7 * ramp**2)
    for context, expected in ((256, short), (257, long), (None, long)):
        rope = rope_of(load_definition(files["phi3"], context))
        np.testing.assert_allclose(rope.inverse_frequencies, expected, rtol=1e-6)
        assert rope.scale == pytest.approx(1.19)


def test_gemma3_layers_are_local_or_global(files):
    def layers(**keys):
        keys = {f"gemma3.attention.{key}": value for key, value in keys.items()}
        model = load_definition(changed(files["gemma3"], metadata=keys))
        found = [layer.attention for layer in model.layers]
        bases = {True: 10000.0, False: 1e6}
        for attention in found:
            local = attention.spec.window is not None
            second = float(attention.rope.inverse_frequencies[1])
            assert second == pytest.approx(bases[local] ** (-2 / 32))
        return "".join("g" if one.spec.window is None else "l" for one in found)

    assert layers() == "lllllg"
    assert layers(sliding_window_pattern=2) == "lglglg"
    assert layers(sliding_window_pattern=0) == "llllll"
    assert layers(sliding_window_pattern=np.array([0, 1, 1, 0, 0, 1], bool)) == "gllggl"
    assert layers(sliding_window=None) == "gggggg"
    file = changed(
        files["gemma3"],
        metadata={"gemma3.attention.sliding_window_pattern": np.array([True])},
    )
    assert error(file) == "gemma3.attention.sliding_window_pattern: 1 values for 6 layers"


def test_rope_scalings():
    plain = make_rope(RopeConfig(16, 10000.0), interleaved=True).inverse_frequencies
    linear = RopeConfig(16, 10000.0, "linear", 4.0, 128)
    np.testing.assert_allclose(
        make_rope(linear, interleaved=True).inverse_frequencies, plain / 4, rtol=1e-6
    )
    yarn = make_rope(replace(linear, scaling="yarn"), interleaved=True)
    ratio = yarn.inverse_frequencies / plain
    assert ratio[0] == pytest.approx(1)  # fast pairs stay, slow ones stretch
    assert ratio[-1] == pytest.approx(0.25)
    assert (np.diff(ratio) <= 1e-7).all()
    assert yarn.scale == pytest.approx(1 + 0.1 * np.log(4))


def test_a_fused_projection_is_its_parts(files):
    """Rows of `attn_qkv`, bias and all, mean what three tensors mean."""
    file = files["qwen2"]
    fused, parts = dict.fromkeys([]), {}
    for layer in range(2):
        for kind in ("weight", "bias"):
            names = [f"blk.{layer}.attn_{part}.{kind}" for part in "qkv"]
            fused |= dict.fromkeys(names)
            values = [file.tensors[name].data.view(np.float32) for name in names]
            shapes = [file.tensors[name].shape for name in names]
            stacked = np.concatenate([v.reshape(s) for v, s in zip(values, shapes, strict=True)])
            parts[f"blk.{layer}.attn_qkv.{kind}"] = stacked
    more = memory_file({}, parts).tensors
    tokens = torch.arange(20)
    one = eager.run(load_definition(changed(file, tensors=fused | dict(more))), tokens)
    two = eager.run(load_definition(file), tokens)
    assert torch.equal(one["logits"], two["logits"])
