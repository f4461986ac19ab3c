"""Whole files: what is kept, what is said, and what is left behind when it goes wrong."""

import json
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from localllm import _native
from localllm.compress.mixes import MIXES, mix_named, plan_types
from localllm.compress.quantize import quantize_file
from localllm.errors import LocalLLMError, ModelFileError, UsageError
from localllm.evaluate.synthetic import random_model
from localllm.gguf import GGUFFile, dequantize, write_gguf
from tests.cli.conftest import CODE, Run, environment, localllm

__all__ = ["environment", "localllm"]

TENSORS = {
    "token_embd.weight": (40, 256),
    "blk.0.attn_v.weight": (16, 256),
    "blk.0.ffn_down.weight": (256, 96),
    "blk.0.ffn_up_exps.weight": (3, 20, 256),
    "output_norm.weight": (256,),
}
TYPED = {
    "general.architecture": "llama",
    "llama.block_count": np.uint32(1),
    "general.sampling.top_k": np.int32(40),
    "general.sampling.temp": np.float32(0.7),
    "precise": np.float64(0.1),
    "long": np.uint64(7),
    "byte": np.int8(-3),
    "yes": True,
    "text": "größe",
    "tokenizer.ggml.tokens": ["a", "b"],
    "numbers": np.array([1, 2], np.int16),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    tensors = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in TENSORS.items()
    }
    write_gguf(tmp_path / "model-F32.gguf", TYPED, tensors)
    return tmp_path / "model-F32.gguf"


def quantize(source: Path, target: Path, name: str, **options):
    file, mix = GGUFFile.open(source), mix_named(name)
    return quantize_file(file, target, plan_types(file, mix), **options)


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.name)
def test_metadata_names_order_and_what_is_not_quantised_stay(mix, source, tmp_path) -> None:
    report = quantize(source, tmp_path / "out.gguf", mix.name)
    before, after = GGUFFile.open(source), GGUFFile.open(tmp_path / "out.gguf")
    assert list(after.tensors) == list(before.tensors)
    for name, tensor in after.tensors.items():
        assert tensor.shape == before.tensors[name].shape
    np.testing.assert_array_equal(
        after.tensors["output_norm.weight"].data, before.tensors["output_norm.weight"].data
    )
    kept = after.exact_metadata()
    assert kept.pop("general.file_type") == mix.file_type
    assert kept.pop("general.quantization_version") == 2
    for key, value in before.exact_metadata().items():
        found = kept.pop(key)
        assert type(found) is type(value)
        assert list(found) == list(value) if hasattr(value, "__len__") else found == value
    assert not kept
    assert report.bytes == (tmp_path / "out.gguf").stat().st_size
    stored = sum(tensor.nbytes for tensor in after.tensors.values())
    weights = sum(int(np.prod(shape)) for shape in TENSORS.values())
    assert report.bits_per_weight == pytest.approx(8 * stored / weights)
    assert sum(count.bytes for count in report.after.values()) == stored


def test_the_report_tells_the_error(source, tmp_path) -> None:
    report = quantize(source, tmp_path / "out.gguf", "Q4_0")
    before, after = GGUFFile.open(source), GGUFFile.open(tmp_path / "out.gguf")
    squares = errors = 0.0
    for name, tensor in after.tensors.items():
        values = dequantize(before.tensors[name].data, before.tensors[name].type, tensor.shape)
        if tensor.type.name != "F32":
            stored = dequantize(tensor.data, tensor.type, tensor.shape)
            squares += float((values.astype(np.float64) ** 2).sum())
            errors += float(((stored - values).astype(np.float64) ** 2).sum())
    assert report.relative_error == pytest.approx((errors / squares) ** 0.5, rel=1e-4)
    assert report.after["F32"].relative_error is None


def test_each_expert_has_its_own_importance(source, tmp_path) -> None:
    name = "blk.0.ffn_up_exps.weight"
    random = np.random.default_rng(1)
    importance = {name: np.exp(2 * random.standard_normal((3, 256))).astype(np.float32)}
    quantize(source, tmp_path / "each.gguf", "Q4_K_S", importance=importance)
    flat = {name: importance[name].reshape(-1)}  # as older files have it
    quantize(source, tmp_path / "flat.gguf", "Q4_K_S", importance=flat)
    first = {name: np.repeat(importance[name][:1], 3, axis=0)}
    quantize(source, tmp_path / "first.gguf", "Q4_K_S", importance=first)
    each, flat, first = (
        GGUFFile.open(tmp_path / f"{kind}.gguf").tensors[name].data.reshape(3, -1)
        for kind in ("each", "flat", "first")
    )
    np.testing.assert_array_equal(each, flat)
    np.testing.assert_array_equal(each[0], first[0])
    assert (each[1:] != first[1:]).any(axis=1).all()


def test_importance_of_another_model_is_refused(source, tmp_path) -> None:
    importance = {"blk.0.attn_v.weight": np.ones(128, np.float32)}
    with pytest.raises(ModelFileError, match=r"blk.0.attn_v.weight: .* has 128 .* it 256"):
        quantize(source, tmp_path / "out.gguf", "Q4_K_M", importance=importance)
    assert not (tmp_path / "out.gguf").exists()


def test_what_has_no_importance_is_noted(source, tmp_path) -> None:
    importance = {"blk.0.attn_v.weight": np.ones(256, np.float32)}
    report = quantize(source, tmp_path / "out.gguf", "Q4_K_M", importance=importance)
    assert any("lacks 2, which are rounded without: " in note for note in report.notes)


def test_a_type_that_no_tensor_gets_is_noted(tmp_path) -> None:
    source = random_model(tmp_path / "m.gguf", "llama", "F16")
    report = quantize(source, tmp_path / "out.gguf", "MXFP4")
    assert report.notes == ("no tensor is fit for MXFP4: most are stored as Q8_0",)


def test_shards_become_one_file(tmp_path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama", split_max_tensors=2)
    for name, shape in TENSORS.items():
        writer.add_tensor(name, np.full(shape, 0.5, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shard = tmp_path / "model-00002-of-00003.gguf"
    quantize(shard, tmp_path / "out.gguf", "Q8_0")
    made = GGUFFile.open(tmp_path / "out.gguf")
    assert made.tensors.keys() == TENSORS.keys()
    assert not [key for key in made.metadata if key.startswith("split.")]
    for number in (1, 2, 3):
        with pytest.raises(UsageError, match="is the source itself"):
            quantize(shard, tmp_path / f"model-0000{number}-of-00003.gguf", "Q8_0")


def test_memory_stays_below_one_tensor_and_some_rows(tmp_path) -> None:
    shape = {"width": 512, "ffn": 8192, "layers": 2}
    source = random_model(tmp_path / "m.gguf", "llama", "F16", **shape)
    quantize(source, tmp_path / "warm.gguf", "Q8_0")
    largest = max(tensor.nbytes for tensor in GGUFFile.open(source).tensors.values())
    tracemalloc.start()
    quantize(source, tmp_path / "out.gguf", "Q8_0")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * largest


@pytest.mark.parametrize(("value", "problem"), [(np.nan, "is nan"), (1e30, "is 1e+30, too large")])
def test_the_weight_that_is_wrong_is_named(value, problem, tmp_path) -> None:
    experts = np.ones((2, 5, 256), np.float32)
    experts[1, 3, 17] = value
    tensors = {"blk.0.ffn_up_exps.weight": experts}
    write_gguf(tmp_path / "m.gguf", {"general.architecture": "llama"}, tensors)
    with pytest.raises(ModelFileError) as caught:
        quantize(tmp_path / "m.gguf", tmp_path / "out.gguf", "Q4_K_M")
    assert f"tensor blk.0.ffn_up_exps.weight: value [1, 3, 17] {problem}" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_too_small_a_disk_is_told_first(source, tmp_path, monkeypatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(LocalLLMError, match=r"5\d.* kB are needed, 1 kB are free"):
        quantize(source, tmp_path / "out.gguf", "Q8_0")


def test_a_disk_that_fills_ends_in_one_line(source, tmp_path, environment) -> None:
    before = sorted(tmp_path.iterdir())

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    done = subprocess.run(
        [sys.executable, "-c", CODE, "quantize", source, "Q8_0"],
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}/model-Q8_0.gguf: cannot be written: ")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_interrupted_it_leaves_nothing_behind(localllm: Run, source, tmp_path, monkeypatch) -> None:
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        assert list(tmp_path.glob(".model-Q4_0.gguf.*.part"))
        raise KeyboardInterrupt

    monkeypatch.setattr(_native, "quantize", interrupted)
    result = localllm("quantize", source, "q4_0")
    assert (result.code, len(calls)) == (130, 1)
    assert [path.name for path in tmp_path.iterdir() if "Q4_0" in path.name] == []


def test_json(localllm: Run, source, tmp_path) -> None:
    result = localllm("quantize", source, "int8", "-o", tmp_path / "x.gguf", "--json")
    assert result.code == 0
    document = json.loads(result.out)
    assert document["output"] == str(tmp_path / "x.gguf")
    assert document["bytes"] == (tmp_path / "x.gguf").stat().st_size
    assert 8.5 <= document["bits_per_weight"] < 8.7  # the norm is F32
    assert document["after"]["Q8_0"]["tensors"] == 4
    assert 0 < document["relative_error"] < 0.01


def test_it_is_named_after_model_and_type(localllm: Run, source, tmp_path) -> None:
    result = localllm("quantize", source, "int4")
    assert result.out.startswith(f"{tmp_path}/model-Q4_K_M.gguf: ")
    assert "note: rows that are not whole blocks had to be stored otherwise: 1 × Q6_K as Q8_0" in (
        result.error
    )
    again = localllm("quantize", source, "int4")
    assert (again.code, again.out) == (2, "")
    assert "model-Q4_K_M.gguf: is there already (--force replaces it)" in again.error
    assert localllm("quantize", source, "int4", "--force").code == 0
    third = localllm("quantize", tmp_path / "model-Q4_K_M.gguf", "Q3_K_M")
    assert third.out.startswith(f"{tmp_path}/model-Q3_K_M.gguf: ")
    assert "tensors were quantised before (Q6_K, Q8_0, Q4_K)" in third.error
    assert localllm("quantize", "tiny-chat", "Q8_0").out.startswith("tiny-chat-Q8_0.gguf: ")


def test_an_importance_matrix_from_a_file(localllm: Run, source, tmp_path) -> None:
    name = "blk.0.attn_v.weight"
    means = np.exp(2 * np.random.default_rng(3).standard_normal(256)).astype(np.float32)
    tensors = {f"{name}.in_sum2": means * 4, f"{name}.counts": np.array([4], np.float32)}
    keys = {
        "general.architecture": "imatrix",
        "general.type": "imatrix",
        "imatrix.datasets": ["a text"],
        "imatrix.chunk_count": 1,
        "imatrix.chunk_size": 4,
    }
    write_gguf(tmp_path / "i.gguf", keys, tensors)
    flags = ("--imatrix", tmp_path / "i.gguf", "-o", "x.gguf")
    result = localllm("quantize", source, "Q4_K_S", *flags)
    assert result.code == 0, result.error
    quantize(source, tmp_path / "y.gguf", "Q4_K_S", importance={name: means})
    made, expected = GGUFFile.open(tmp_path / "x.gguf"), GGUFFile.open(tmp_path / "y.gguf")
    np.testing.assert_array_equal(made.tensors[name].data, expected.tensors[name].data)
    assert made.metadata["quantize.imatrix.file"] == str(tmp_path / "i.gguf")
    assert made.metadata["quantize.imatrix.entries_count"] == 1
    missing = localllm("quantize", source, "Q4_K_S", "--imatrix", "none.gguf", "-o", "z.gguf")
    assert (missing.code, missing.error) == (1, "error: none.gguf: no such file\n")


def test_types_by_pattern(localllm: Run, source, tmp_path) -> None:
    patterns = ("attn_v=q8_0", "attn|embd=f16", "norm=q8_0")
    flags = [flag for pattern in patterns for flag in ("--tensor-type", pattern)]
    result = localllm("quantize", source, "Q4_0", *flags, "-o", "x.gguf")
    assert result.code == 0
    assert "note: --tensor-type norm: finds none of the tensors that are quant" in result.error
    assert result.error.count("--tensor-type") == 1
    types = {n: t.type.name for n, t in GGUFFile.open(tmp_path / "x.gguf").tensors.items()}
    assert types == {
        "token_embd.weight": "F16",
        "blk.0.attn_v.weight": "Q8_0",
        "blk.0.ffn_down.weight": "Q4_0",
        "blk.0.ffn_up_exps.weight": "Q4_0",
        "output_norm.weight": "F32",
    }


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["SOURCE", "Q9"], 2, "no type called 'Q9' (there are int8, int4, Q8_0, "),
        (["SOURCE", "Q8_0", "-o", "SOURCE", "--force"], 2, "is what is read here"),
        (["SOURCE", "Q8_0", "-o", "SOURCE"], 2, "is what is read here"),
        (["SOURCE", "Q8_0", "-o", "LINK", "--force"], 2, "is what is read here"),
        (["SOURCE", "Q8_0", "-o", "FOLDER"], 2, "is there, and no regular file"),
        (["SOURCE", "Q8_0", "-o", "FOLDER/none/x.gguf"], 2, "there is no folder"),
        (["SOURCE", "Q8_0", "--threads", "0"], 2, "threads"),
        (["SOURCE", "Q8_0", "--tensor-type", "x"], 2, "--tensor-type x: must be PATTERN=TYPE"),
        (["SOURCE", "Q8_0", "--tensor-type", "=Q8_0"], 2, "must be PATTERN=TYPE"),
        (["SOURCE", "Q8_0", "--tensor-type", "x=Q9"], 2, "tensor type 'Q9' is unknown"),
        (["SOURCE", "Q8_0", "--tensor-type", "x=IQ1_S"], 2, "IQ1_S cannot be made here"),
        (["SOURCE", "Q8_0", "--tensor-type", "(=Q8_0"], 2, "--tensor-type (=Q8_0: "),
        (["none.gguf", "Q8_0"], 1, "no such file: none.gguf"),
        (["TEXT", "Q8_0"], 1, "not a GGUF file"),
        (["SOURCE"], 2, "TYPE"),
    ],
)
def test_one_line(localllm: Run, source, tmp_path, arguments, code, problem) -> None:
    (tmp_path / "text.gguf").write_text("not a model")
    (tmp_path / "link.gguf").hardlink_to(source)
    places = {
        "SOURCE": str(source),
        "LINK": str(tmp_path / "link.gguf"),
        "TEXT": str(tmp_path / "text.gguf"),
    }
    before, bytes_before = sorted(tmp_path.iterdir()), source.read_bytes()
    arguments = [places.get(part, part.replace("FOLDER", str(tmp_path))) for part in arguments]
    result = localllm("quantize", *arguments)
    assert problem in result.error
    assert (result.code, result.out) == (code, "")
    assert len(result.error.splitlines()) == 1
    assert source.read_bytes() == bytes_before
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "stdin"] == before
