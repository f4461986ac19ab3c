"""Reading what others write: all value types, tensors, split files, real vocabularies."""

import logging
import os

import gguf
import numpy as np
import pytest

from localllm.errors import ModelFileError
from localllm.evaluate.synthetic import ARCHITECTURES, random_model
from localllm.gguf import GGUFFile, StringArray, dequantize
from tests.gguf import build

SCALARS = {
    "uint8": 200,
    "int8": -100,
    "uint16": 60000,
    "int16": -30000,
    "uint32": 4_000_000_000,
    "int32": -2_000_000_000,
    "uint64": 2**64 - 1,
    "int64": -(2**63),
    "float32": 0.1,
    "float64": 0.1,
    "bool": True,
    "string": "größe ▁\n",
}


@pytest.fixture
def written(tmp_path):
    """A file of the gguf package with a value of every type."""
    path = tmp_path / "all.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in SCALARS.items():
        getattr(writer, f"add_{name}")(f"scalar.{name}", value)
        kind = gguf.GGUFValueType[name.upper()]
        writer.add_key_value(f"array.{name}", [value] * 3, gguf.GGUFValueType.ARRAY, kind)
    writer.add_array("array.strings", ["", "a", "▁the", "x" * 1000])
    writer.add_array("nested", [[1, 2], [3]])
    writer.add_array("nested.strings", [["a", "b"], ["c"]])
    writer.add_tensor("one", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("two", np.arange(8, dtype=np.float16).reshape(2, 2, 2))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_every_scalar_type(written):
    file = GGUFFile.open(written)
    assert file.version == 3
    assert file.metadata["general.architecture"] == "llama"
    for name, value in SCALARS.items():
        found = file.metadata[f"scalar.{name}"]
        assert type(found) is type(value)
        assert found == (np.float32(value) if name == "float32" else value)


def test_every_array_type(written):
    file = GGUFFile.open(written)
    for name, value in SCALARS.items():
        found = file.metadata[f"array.{name}"]
        if name == "string":
            assert found.tolist() == [value.encode()] * 3
            continue
        assert found.dtype == np.dtype(name)
        assert found.tolist() == [np.dtype(name).type(value)] * 3
        assert not found.flags.writeable
    first, second = file.metadata["nested"]
    assert first.tolist() == [1, 2]
    assert second.tolist() == [3]
    assert [part.tolist() for part in file.metadata["nested.strings"]] == [[b"a", b"b"], [b"c"]]


def test_string_arrays_are_lazy_sequences(written):
    strings = GGUFFile.open(written).metadata["array.strings"]
    assert isinstance(strings, StringArray)
    expected = [b"", b"a", "▁the".encode(), b"x" * 1000]
    assert len(strings) == 4
    assert strings[1] == b"a"
    assert strings[-1] == b"x" * 1000
    assert list(strings) == strings.tolist() == expected
    assert strings[1:3].tolist() == expected[1:3]
    assert strings[::-2].tolist() == expected[::-2]
    assert strings[4:].tolist() == []
    assert b"a" in strings
    assert strings.index("▁the".encode()) == 2
    with pytest.raises(IndexError):
        strings[4]


def test_tensors_are_views_of_the_file(written):
    file = GGUFFile.open(written)
    assert list(file.tensors) == ["one", "two"]
    one, two = file.tensors.values()
    assert (one.type.name, one.shape, one.nbytes) == ("F32", (2, 3), 24)
    assert (two.type.name, two.shape, two.nbytes) == ("F16", (2, 2, 2), 16)
    assert one.data.dtype == np.uint8
    assert not one.data.flags.writeable
    assert not one.data.flags.owndata
    del file  # the mapping outlives the object that made it
    assert dequantize(one.data, one.type, one.shape).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert dequantize(two.data, two.type, two.shape).ravel().tolist() == list(range(8))


@pytest.mark.parametrize(("size", "how"), [(0, "truncated"), (100, "truncated"), (9999, "changed")])
def test_a_file_that_changes_while_it_is_open(written, size, how):
    file = GGUFFile.open(written)
    file.require_unchanged()
    os.truncate(written, size)
    with pytest.raises(ModelFileError, match=rf"all\.gguf: the file was {how} while in use"):
        file.require_unchanged()
    # what was read of the mapping now would end the process
    assert file.metadata["array.strings"].tolist()[:2] == [b"", b"a"]
    assert file.metadata["array.int32"].tolist() == [SCALARS["int32"]] * 3


def test_version_2_is_read(tmp_path):
    path = tmp_path / "v2.gguf"
    path.write_bytes(build.gguf([build.key("a", build.UINT8, b"\x07")], version=2))
    file = GGUFFile.open(path)
    assert (file.version, dict(file.metadata), dict(file.tensors)) == (2, {"a": 7}, {})


def test_alignment_of_the_file_counts(tmp_path):
    path = tmp_path / "aligned.gguf"
    keys = [build.key("general.alignment", build.UINT32, build.u32(256))]
    tensors = [build.tensor("a", [2], 0, 0), build.tensor("b", [1], 0, 256)]
    data = np.array([1, 2], np.float32).tobytes().ljust(256, b"\0") + b"\0\0\x40\x40"
    path.write_bytes(build.gguf(keys, tensors, data, alignment=256))
    values = [dequantize(t.data, t.type, t.shape).tolist() for t in open_tensors(path)]
    assert values == [[1, 2], [3]]


def open_tensors(path):
    return GGUFFile.open(path).tensors.values()


def test_empty_arrays_and_strings_are_values(tmp_path):
    path = tmp_path / "empty.gguf"
    keys = [
        build.key("numbers", build.ARRAY, build.array(build.INT32, [])),
        build.key("strings", build.ARRAY, build.array(build.STRING, [])),
        build.key("arrays", build.ARRAY, build.array(build.ARRAY, [])),
        build.key("string", build.STRING, build.string("")),
    ]
    path.write_bytes(build.gguf(keys))
    metadata = GGUFFile.open(path).metadata
    assert metadata["numbers"].tolist() == metadata["strings"].tolist() == metadata["arrays"] == []
    assert metadata["string"] == ""


def test_invalid_utf8_in_a_value_does_not_bar_the_file(tmp_path):
    path = tmp_path / "text.gguf"
    path.write_bytes(build.gguf([build.key("a", build.STRING, build.string(b"x\xffy"))]))
    assert GGUFFile.open(path).metadata["a"] == "x\ufffdy"


def test_typed_metadata(written):
    file = GGUFFile.open(written)
    assert file.get("scalar.int8", int) == -100
    assert file.get("scalar.int8", float) == -100.0
    assert isinstance(file.get("scalar.int8", float), float)
    assert file.get("scalar.bool", bool) is True
    assert file.get("scalar.string", str) == SCALARS["string"]
    assert file.get("array.int8", list).tolist() == [-100] * 3
    assert file.get("array.strings", list)[1] == b"a"
    assert file.get("absent", int, None) is None
    assert file.get("absent", float, 2.5) == 2.5


@pytest.mark.parametrize(
    ("key", "kind", "complaint"),
    [
        ("absent", int, "absent: missing"),
        ("scalar.string", int, "scalar.string: expected int, found str"),
        ("scalar.float32", int, "expected int, found float"),
        ("scalar.bool", int, "expected int, found bool"),
        ("scalar.bool", float, "expected float, found bool"),
        ("scalar.uint8", bool, "expected bool, found int"),
        ("array.int8", int, "expected int, found an array of int8"),
        ("array.strings", str, "expected str, found an array of strings"),
        ("scalar.uint8", list, "expected list, found int"),
    ],
)
def test_metadata_of_another_kind_is_named(written, key, kind, complaint):
    with pytest.raises(ModelFileError, match=complaint) as caught:
        GGUFFile.open(written).get(key, kind)
    assert str(written) in str(caught.value)


# Split files


@pytest.fixture
def shards(tmp_path, caplog):
    """A model of five tensors in three files, by the gguf package's own split writer."""
    caplog.set_level(logging.ERROR)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama", split_max_tensors=2)
    writer.add_uint32("llama.block_count", 1)
    for index in range(5):
        writer.add_tensor(f"t{index}", np.full((2, 32), index, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [tmp_path / f"model-{number:05}-of-00003.gguf" for number in (1, 2, 3)]


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_any_shard_opens_the_whole(shards, opened):
    file = GGUFFile.open(shards[opened])
    assert file.path == shards[opened]
    assert [shard.path for shard in file.shards] == shards
    assert file.nbytes == sum(shard.stat().st_size for shard in shards)
    assert file.metadata["llama.block_count"] == 1
    assert list(file.tensors) == ["t0", "t1", "t2", "t3", "t4"]
    for index, tensor in enumerate(file.tensors.values()):
        assert (dequantize(tensor.data, tensor.type, tensor.shape) == index).all()


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_missing_shard_is_named(shards, missing):
    shards[missing].unlink()
    with pytest.raises(ModelFileError, match=rf"{shards[missing].name}: shard \d of 3 is missing"):
        GGUFFile.open(shards[missing - 1])


def test_shard_under_a_name_of_its_own(shards):
    alone = shards[1].rename(shards[1].with_name("part.gguf"))
    with pytest.raises(ModelFileError, match=r"part.gguf: split.count: a shard of 3"):
        GGUFFile.open(alone)


def test_shard_in_the_place_of_another(shards):
    shards[2].write_bytes(shards[1].read_bytes())
    with pytest.raises(ModelFileError, match=r"00003-of-00003.gguf: split.no: 1, expected 2"):
        GGUFFile.open(shards[0])


def test_name_and_count_disagree(shards):
    renamed = shards[0].rename(shards[0].with_name("model-00001-of-00004.gguf"))
    with pytest.raises(ModelFileError, match=r"split.count: 3, but the name says 4"):
        GGUFFile.open(renamed)


def shard(index, count, tensors, total):
    keys = [
        build.key("split.no", build.UINT16, index.to_bytes(2, "little")),
        build.key("split.count", build.UINT16, count.to_bytes(2, "little")),
        build.key("split.tensors.count", build.INT32, build.u32(total)),
    ]
    table = [build.tensor(name, [1], 0, 32 * place) for place, name in enumerate(tensors)]
    return build.gguf(keys, table, bytes(32 * len(tensors)))


@pytest.mark.parametrize(
    ("second", "total", "complaint"),
    [
        (["a"], 2, "tensor a: also in an earlier shard"),
        (["b"], 3, "split.tensors.count: 3, but the shards hold 2"),
    ],
)
def test_shards_that_do_not_add_up(tmp_path, second, total, complaint):
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(shard(0, 2, ["a"], total))
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(shard(1, 2, second, total))
    with pytest.raises(ModelFileError, match=complaint):
        GGUFFile.open(tmp_path / "m-00001-of-00002.gguf")


# Whole files


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_random_models_read_as_the_gguf_package_reads_them(tmp_path, arch):
    path = random_model(tmp_path / "model.gguf", arch, "Q4_K_M")
    file = GGUFFile.open(path)
    reference = gguf.GGUFReader(path)
    assert [t.name for t in reference.tensors] == list(file.tensors)
    for expected in reference.tensors:
        found = file.tensors[expected.name]
        assert found.type.id == expected.tensor_type
        assert list(found.shape) == expected.shape.tolist()[::-1]
        np.testing.assert_array_equal(found.data, expected.data.reshape(-1).view(np.uint8))
    ours = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"} | set(file.metadata)
    assert set(reference.fields) == ours


def test_large_vocabulary_is_found_without_being_decoded(vocabs):
    file = GGUFFile.open(vocabs / "ggml-vocab-llama-bpe.gguf")
    tokens = file.get("tokenizer.ggml.tokens", list)
    merges = file.get("tokenizer.ggml.merges", list)
    assert isinstance(tokens, StringArray)
    assert isinstance(merges, StringArray)
    assert (len(tokens), len(merges)) == (128256, 280147)
    assert tokens[0] == b"!"
    assert tokens[128000] == b"<|begin_of_text|>"
    everything = tokens.tolist()
    assert everything[77777] == tokens[77777]
    assert len(set(everything)) == 128256
    assert len(file.get("tokenizer.ggml.token_type", list)) == 128256
