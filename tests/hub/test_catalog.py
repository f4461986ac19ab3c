"""The catalog: every entry of the real one, and every way in which one can be wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from localllm.errors import LocalLLMError
from localllm.hub.catalog import CatalogModel, load_catalog, read_catalog
from localllm.models.registry import supported_architectures

GOOD = """\
# a comment
[[model]]
alias = "a-1b"
repository = "user/repo-GGUF"
quantisation = "Q4_K_M"
architecture = "llama"
licence = "mit"
parameters = 1_235_814_400
context = 131_072
bytes = 807_694_464
layers = 16
width = 2048
heads = 32
kv_heads = 8
head_dim = 64
ffn = 8192
vocab = 128256
tied = true
"""
MODELS = list(load_catalog().values())


def read(tmp_path: Path, text: str) -> dict[str, CatalogModel]:
    path = tmp_path / "models.toml"
    path.write_text(text)
    return dict(read_catalog(path))


def test_the_catalog_is_large_enough_and_knows_every_architecture() -> None:
    assert len(MODELS) >= 25
    encoders = {"bert"}  # the catalog is of models that answer
    assert {model.architecture for model in MODELS} == set(supported_architectures()) - encoders


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.alias)
def test_an_entry_agrees_with_itself(model: CatalogModel) -> None:
    assert model.shape.parameters == pytest.approx(model.parameters, rel=1e-3)
    bits = 8 * model.bytes / model.parameters
    low, high = {"Q4_K_M": (4.8, 6.5), "Q8_0": (8.5, 8.8)}[model.quantisation]
    assert low <= bits <= high
    assert (model.shape.experts > 0) == (model.architecture == "qwen3moe" or "x7b" in model.alias)


def test_good_file(tmp_path: Path) -> None:
    catalog = read(tmp_path, GOOD)
    assert catalog["a-1b"].shape.kv_heads == 8
    assert catalog["a-1b"].shape.experts == 0


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        ("layers = 16", "layers = 17", 8, "parameters: 1,235,814,400, but the shape makes"),
        ("layers = 16", 'layers = "16"', 11, "layers: must be a whole number"),
        ("layers = 16", "layers = true", 11, "layers: must be a whole number"),
        ("layers = 16", "layers = -16", 11, "layers: is below 0"),
        ("layers = 16", "", 2, "layers: is missing"),
        ("layers = 16", "layers = 16\nsize = 3", 12, "size: unknown field"),
        ("kv_heads = 8", "kv_heads = 7", 14, "kv_heads: 7 does not divide"),
        ('"llama"', '"mamba"', 6, "architecture: 'mamba' is not one of"),
        ('"user/repo-GGUF"', '"repo"', 4, "repository: 'repo' is not of the form"),
        ('"a-1b"', '"A:1b"', 3, "alias: 'A:1b' must be lower case"),
        ('"mit"', '""', 7, "licence: is ''"),
        ("tied = true", 'tied = "yes"', 18, "tied: must be true or false"),
    ],
)
def test_faults_name_line_and_field(
    tmp_path: Path, old: str, new: str, line: int, problem: str
) -> None:
    with pytest.raises(LocalLLMError, match=re.escape(f"line {line}: {problem}")):
        read(tmp_path, GOOD.replace(old, new))


def test_an_alias_stands_once(tmp_path: Path) -> None:
    with pytest.raises(LocalLLMError, match="line 21: alias: 'a-1b' stands here twice"):
        read(tmp_path, GOOD + GOOD)


@pytest.mark.parametrize("text", ["model = 3", "[other]\nx = 1", "[[model]\n"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(LocalLLMError, match="line 1"):
        read(tmp_path, text)
