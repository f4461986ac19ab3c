"""Which tensor gets which type; test_llamacpp.py compares with what llama.cpp chooses."""

import re
from pathlib import Path

import pytest

from localllm.compress.mixes import MIXES, mix_named, plan_types
from localllm.errors import UsageError
from localllm.evaluate.synthetic import random_model
from localllm.gguf import GGUFFile, quant_type
from localllm.hub.facts import describe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GGUFFile:
    path = tmp_path_factory.mktemp("mixes") / "model.gguf"
    shape = {"layers": 16, "width": 256, "ffn": 256, "heads": 8, "kv_heads": 4}
    return GGUFFile.open(random_model(path, "llama", "F16", **shape))


def layers_of(model: GGUFFile, part: str, mix: str, type_name: str, weighted: bool = False) -> str:
    """The layers whose `part` gets a type, in one text."""
    types = plan_types(model, mix_named(mix), weighted=weighted).types
    return " ".join(
        match[1]
        for name, found in types.items()
        if (match := re.match(rf"blk\.(\d+)\.{part}\.weight", name)) and found.name == type_name
    )


MORE_BITS = "0 1 4 7 10 13 14 15"  # the first eighth, the last, and each third between
ALL = " ".join(map(str, range(16)))


@pytest.mark.parametrize(
    ("part", "mix", "type_name", "weighted", "layers"),
    [
        ("attn_v", "Q4_K_M", "Q6_K", False, MORE_BITS),
        ("ffn_down", "Q4_K_M", "Q6_K", False, MORE_BITS),
        ("ffn_down", "Q5_K_M", "Q6_K", True, MORE_BITS),
        ("attn_output", "Q4_K_M", "Q4_K", False, ALL),
        ("attn_v", "Q4_K_S", "Q5_K", False, "0 1 2 3"),
        ("ffn_down", "Q4_K_S", "Q5_K", False, "0 1"),
        ("attn_v", "Q3_K_M", "Q5_K", False, "0 1"),
        ("ffn_down", "Q3_K_M", "Q5_K", False, "0"),
        ("attn_output", "Q3_K_L", "Q5_K", False, ALL),
        ("attn_v", "Q2_K", "Q3_K", False, ALL),
        ("ffn_down", "IQ4_XS", "Q5_K", False, "0 1"),
        ("ffn_down", "IQ4_XS", "Q5_K", True, ""),
        ("ffn_down", "Q4_0", "Q4_1", True, "0 1"),
        ("ffn_down", "Q4_0", "Q4_1", False, ""),
        ("ffn_down", "Q5_0", "Q5_1", True, "0 1"),
        ("ffn_up", "Q6_K", "Q6_K", False, ALL),
        ("ffn_up", "MXFP4", "Q8_0", False, ALL),
    ],
)
def test_layers(model, part, mix, type_name, weighted, layers) -> None:
    assert layers_of(model, part, mix, type_name, weighted) == layers


def test_output_and_norms(model) -> None:
    for mix in MIXES:
        types = plan_types(model, mix).types
        assert types["output_norm.weight"].name == types["blk.3.attn_norm.weight"].name == "F32"
        expected = {"MXFP4": "Q8_0"}.get(mix.name, "Q6_K")
        if mix.name in ("F32", "F16", "BF16", "Q8_0"):
            expected = mix.name
        assert types["output.weight"].name == expected


def test_rows_that_are_no_whole_blocks(tmp_path: Path) -> None:
    shape = {"layers": 1, "width": 96, "ffn": 40, "head_dim": 24}
    file = GGUFFile.open(random_model(tmp_path / "m.gguf", "llama", "F16", **shape))
    expected = {"Q4_K_S": "Q5_0", "Q5_K_S": "Q5_1", "Q6_K": "Q8_0", "Q3_K_S": "Q4_0"}
    for name, fallback in expected.items():
        plan = plan_types(file, mix_named(name))
        assert plan.types["blk.0.ffn_up.weight"].name == fallback
        assert plan.types["blk.0.ffn_down.weight"].name == "F16"  # rows of 40 are no blocks at all
        assert plan.fallbacks["blk.0.ffn_up.weight"] == name[:4]


def test_the_first_pattern_that_finds_counts(model) -> None:
    patterns = [
        (re.compile(pattern), quant_type(name))
        for pattern, name in ((r"blk\.2\.", "Q8_0"), ("ffn", "Q2_K"), ("norm", "Q8_0"))
    ]
    types = plan_types(model, mix_named("Q4_0"), patterns).types
    assert types["blk.2.ffn_up.weight"].name == "Q8_0"
    assert types["blk.3.ffn_up.weight"].name == "Q2_K"
    assert types["blk.3.attn_q.weight"].name == "Q4_0"
    assert types["blk.3.attn_norm.weight"].name == "F32"


@pytest.mark.parametrize(
    ("name", "found"),
    [("int8", "Q8_0"), ("INT4", "Q4_K_M"), ("q4_k", "Q4_K_M"), ("iq4-xs", "IQ4_XS")],
)
def test_names(name: str, found: str) -> None:
    assert mix_named(name).name == found


@pytest.mark.parametrize("name", ["", "Q4", "IQ2_XXS", "int2", "Q4_K_M "])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError, match="no type called"):
        mix_named(name)


def test_the_file_type_is_the_one_that_is_shown(model, tmp_path) -> None:
    for mix in MIXES:
        metadata = {**model.metadata, "general.file_type": mix.file_type}
        assert describe(GGUFFile(model.path, 3, metadata, model.tensors)).quantisation == mix.name
