"""What is written is read back the same, and a failed write leaves nothing behind."""

import weakref
from functools import partial

import numpy as np
import pytest

from localllm.gguf import GGUFFile, MadeTensor, dequantize, quant_type, write_gguf
from localllm.gguf.types import RUNNABLE_TYPES

METADATA = {
    "general.architecture": "llama",
    "small": 5,
    "negative": -5,
    "large": 2**40,
    "low": -(2**40),
    "real": 0.1,
    "double": np.float64(0.1),
    "byte": np.uint8(7),
    "yes": True,
    "text": "größe",
    "words": ["a", b"\xff\x00", ""],
    "numbers": [1, -2, 3],
    "big numbers": [1, 2**40],
    "mixed": [1, 2.5],
    "flags": [True, False],
    "typed": np.array([1, 2], np.uint16),
    "nested": [[1, 2], [3]],
}


def plain(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    return [plain(part) for part in value] if isinstance(value, list) else value


def test_metadata_comes_back(tmp_path):
    path = tmp_path / "m.gguf"
    write_gguf(path, METADATA, {})
    metadata = GGUFFile.open(path).metadata
    assert list(metadata) == list(METADATA)
    words = metadata["words"].tolist()
    assert words == [b"a", b"\xff\x00", b""]
    for key in METADATA.keys() - {"words", "real", "typed"}:
        assert plain(metadata[key]) == plain(METADATA[key]), key
    assert metadata["real"] == np.float32(0.1)
    assert metadata["typed"].dtype == np.uint16
    assert metadata["big numbers"].dtype == np.int64


def test_metadata_of_a_file_can_be_written_again(tmp_path, vocabs):
    file = GGUFFile.open(vocabs / "ggml-vocab-llama-spm.gguf")
    write_gguf(tmp_path / "copy.gguf", file.metadata, {})
    copy = GGUFFile.open(tmp_path / "copy.gguf")
    assert list(copy.metadata) == list(file.metadata)
    for key, value in file.metadata.items():
        assert plain(copy.metadata[key]) == plain(value), key
        assert getattr(copy.metadata[key], "dtype", None) == getattr(value, "dtype", None)


@pytest.mark.parametrize("quant", RUNNABLE_TYPES, ids=str)
def test_stored_bytes_come_back(tmp_path, quant):
    shape = (3, 2, 256)
    random = np.random.default_rng(0)
    data = random.integers(0, 256, quant.nbytes(3 * 2 * 256), dtype=np.uint8)
    write_gguf(tmp_path / "t.gguf", {"general.architecture": "x"}, {"t": (data, quant, shape)})
    found = GGUFFile.open(tmp_path / "t.gguf").tensors["t"]
    assert (found.type, found.shape) == (quant, shape)
    np.testing.assert_array_equal(found.data, data)


def test_plain_arrays_are_stored_as_they_are(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    tensors = {"a": values, "b": values.T, "c": values.astype(np.float16)}
    write_gguf(tmp_path / "t.gguf", {"general.architecture": "x"}, tensors)
    for name, found in GGUFFile.open(tmp_path / "t.gguf").tensors.items():
        np.testing.assert_array_equal(
            dequantize(found.data, found.type, found.shape), tensors[name].astype(np.float32)
        )


def test_alignment_is_kept(tmp_path):
    tensors = {"a": np.ones(3, np.float32), "b": np.full(3, 2, np.float32)}
    metadata = {"general.architecture": "x", "general.alignment": 128}
    write_gguf(tmp_path / "t.gguf", metadata, tensors)
    found = GGUFFile.open(tmp_path / "t.gguf").tensors["b"]
    assert dequantize(found.data, found.type, found.shape).tolist() == [2, 2, 2]
    assert found.data.ctypes.data % 128 == 0


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")
    with pytest.raises(TypeError, match="key: a set cannot be written"):
        write_gguf(path, {"general.architecture": "x", "key": {1}}, {})
    with pytest.raises(TypeError, match="key: its elements are not of one kind"):
        write_gguf(path, {"general.architecture": "x", "key": [1, "a"]}, {})
    with pytest.raises(UnicodeEncodeError):  # only found out when half the file is written
        write_gguf(path, {"general.architecture": "x", "key": "\ud800"}, {"t": np.ones(4)})
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.gguf"]
    assert path.read_bytes() == b"old"


def test_bytes_that_do_not_fit_the_shape_are_refused(tmp_path):
    with pytest.raises(ValueError, match="17 bytes, not what Q4_0"):
        write_gguf(
            tmp_path / "m.gguf",
            {"general.architecture": "x"},
            {"t": (np.zeros(17, np.uint8), quant_type("Q4_0"), (1, 32))},
        )
    assert not list(tmp_path.iterdir())


def test_tensors_are_made_one_at_a_time(tmp_path):
    path = tmp_path / "m.gguf"
    alive = []
    seen = []

    def make(value):
        seen.append(sum(one() is not None for one in alive))
        data = np.full(64, value, np.float32)
        alive.append(weakref.ref(data))
        return data

    tensors = {
        f"t{value}": MadeTensor(quant_type("F32"), (4, 16), partial(make, value))
        for value in range(5)
    }
    write_gguf(path, METADATA, tensors)
    assert max(seen) <= 1
    found = GGUFFile.open(path).tensors
    assert [float(t.data.view(np.float32).mean()) for t in found.values()] == [0, 1, 2, 3, 4]
    assert {t.shape for t in found.values()} == {(4, 16)}
