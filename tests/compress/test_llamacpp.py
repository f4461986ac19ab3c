"""The quantisers against llama.cpp's: the same types for the same tensors, and the same bytes."""

import re
from pathlib import Path

import numpy as np
import pytest

from localllm.compress.mixes import MIXES, mix_named, plan_types
from localllm.compress.quantize import quantize_file
from localllm.evaluate.synthetic import random_model
from localllm.gguf import GGUFFile, quant_type
from localllm.hub.names import resolve
from tests.compress import peer
from tests.compress.values import DRAWS, TYPES, quantized

pytestmark = pytest.mark.peer

SMALL = {"width": 256, "ffn": 256, "vocab": 512}
MODELS = {
    # three query heads for each of two key heads; layers in all eighths
    "deep": ("qwen2", {"layers": 24, "heads": 6, "kv_heads": 2, "head_dim": 32, **SMALL}),
    "grouped": ("llama", {"layers": 9, "heads": 8, "kv_heads": 2, "tied": True, **SMALL}),
    "fused": ("phi3", {"layers": 9, **SMALL}),
    "eight experts": ("llama-moe", {"layers": 9, **SMALL}),
    "experts": ("qwen3moe", {"layers": 9, "experts": 5, **SMALL}),
    "odd rows": ("llama", {"layers": 9, "width": 96, "ffn": 40, "head_dim": 24, "vocab": 512}),
}


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_rows(type_name: str, weighted: bool) -> None:
    random = np.random.default_rng(5)
    importance = random.standard_normal(512).astype(np.float32) ** 2 if weighted else None
    for draw in DRAWS.values():
        values = draw(random, 37, 512)
        expected = peer.quantize_rows(type_name, values, importance)
        found = quantized(type_name, values, importance)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("model", "weighted", "mix"),
    [
        ("deep", False, "Q4_K_M"),
        ("deep", True, "Q4_0"),
        ("grouped", False, "Q2_K"),
        ("grouped", True, "IQ4_XS"),
        ("fused", False, "Q3_K_M"),
        ("fused", True, "Q5_K_M"),
        ("eight experts", False, "Q4_K_S"),
        ("experts", False, "MXFP4"),
        ("experts", True, "Q3_K_L"),
        ("odd rows", False, "Q6_K"),
        ("odd rows", True, "Q5_0"),
    ],
)
def test_files(model: str, weighted: bool, mix: str, tmp_path: Path) -> None:
    _compare(*_source(model, weighted, tmp_path), mix_named(mix))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_every_mix(model: str, weighted: bool, tmp_path: Path) -> None:
    source, importance = _source(model, weighted, tmp_path)
    for mix in MIXES:
        _compare(source, importance, mix)


@pytest.mark.slow
def test_the_bundled_model(tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.symlink_to(resolve(None).path)
    for mix in MIXES:
        _compare(source, None, mix)


def test_overrides_and_a_quantised_source(tmp_path: Path) -> None:
    arch, shape = MODELS["deep"]
    source = random_model(tmp_path / "model.gguf", arch, "Q8_0", **shape)
    overrides = {r"blk\.[0-3]\.attn_v": "Q8_0", "ffn_(up|gate)": "IQ4_XS", "token_embd": "Q2_K"}
    _compare(source, None, mix_named("Q4_K_M"), overrides)


def _source(model: str, weighted: bool, folder: Path) -> tuple[Path, dict | None]:
    arch, shape = MODELS[model]
    source = random_model(folder / "model.gguf", arch, "BF16" if weighted else "F16", **shape)
    return source, _importance(GGUFFile.open(source)) if weighted else None


def _compare(source, importance, mix, overrides=None) -> None:
    expected, found = source.with_name("expected.gguf"), source.with_name("found.gguf")
    peer.quantize_file(source, expected, mix.file_type, importance, overrides)
    file = GGUFFile.open(source)
    patterns = [
        (re.compile(pattern), quant_type(name)) for pattern, name in (overrides or {}).items()
    ]
    plan = plan_types(file, mix, patterns, weighted=importance is not None)
    quantize_file(file, found, plan, importance=importance, threads=2)
    theirs, ours = GGUFFile.open(expected), GGUFFile.open(found)
    assert {name: tensor.type.name for name, tensor in ours.tensors.items()} == {
        name: theirs.tensors[name].type.name for name in ours.tensors
    }, mix.name
    for name, tensor in ours.tensors.items():
        same = np.array_equal(tensor.data, theirs.tensors[name].data)
        assert same, f"{mix.name}: {name} as {tensor.type}"
    for key in ("general.file_type", "general.quantization_version"):
        assert ours.metadata[key] == theirs.metadata[key]
    assert ours.metadata.keys() == theirs.metadata.keys()


def _importance(file: GGUFFile) -> dict[str, np.ndarray]:
    """Of all matrices but the first layer's, one row an expert."""
    random = np.random.default_rng(7)
    return {
        name: random.uniform(0.01, 4, tensor.shape[:-2] + tensor.shape[-1:]).astype(np.float32)
        for name, tensor in file.tensors.items()
        if len(tensor.shape) > 1 and not name.startswith(("blk.0", "token_embd"))
    }
