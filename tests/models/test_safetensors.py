"""The reader of safetensors files: the official writer's, and hostile ones."""

import json

import numpy as np
import pytest

from localllm.errors import ModelFileError
from localllm.models.safetensors import read_safetensors
from tests.models.adapting import entry, with_header


def test_types_of_safetensors(tmp_path):
    values = np.array([[1.5, -2.0, 0.25]], np.float32)
    stored = {
        "F32": values.tobytes(),
        "F16": values.astype(np.float16).tobytes(),
        "BF16": (values.view(np.uint32) >> 16).astype(np.uint16).tobytes(),
    }
    for kind, data in stored.items():
        header = {"__metadata__": {"a": "b"}, "t": entry(kind, (1, 3), 0, len(data))}
        path = tmp_path / kind
        path.write_bytes(with_header(header, data))
        np.testing.assert_array_equal(read_safetensors(path)["t"].float32(), values)


def test_safetensors_of_the_official_writer(tmp_path):
    official = pytest.importorskip("safetensors.numpy")
    values = {name: np.random.default_rng(1).random((3, 5), np.float32) for name in "ba"}
    official.save_file(values, tmp_path / "t", metadata={"format": "np"})
    found = read_safetensors(tmp_path / "t")
    assert found.keys() == values.keys()
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor.float32(), values[name])


GOOD = entry("F32", (2,), 0, 8)
BAD_SAFETENSORS = {
    "empty": (b"", "the file is empty"),
    "cut": (b"\1\0\0", "header: cut short after 3 bytes"),
    "length": (b"\xff" * 8 + b"{}", "header: 18446744073709551615 bytes"),
    "longer than the file": (b"\3" + bytes(7) + b"{}", "header: 3 bytes, in a file of 10"),
    "not JSON": (with_header(b"{nonsense"), "header: "),
    "not UTF-8": (with_header(b'{"\xff": 1}'), "header: "),
    "a list": (with_header([]), "header: must be a JSON object"),
    "deep": (with_header(b"[" * 100_000), "header: "),
    "a long number": (with_header(b'{"t": ' + b"9" * 10_000 + b"}"), "header: "),
    "twice": (with_header(b'{"t": 1, "t": 2}'), "a name stands twice"),
    "no fields": (with_header({"t": {}}), "tensor t: needs dtype, shape"),
    "no object": (with_header({"t": 3}), "tensor t: needs dtype, shape"),
    "a negative size": (with_header({"t": entry("F32", (-2,), 0, 8)}), "needs dtype"),
    "a size of text": (with_header({"t": entry("F32", ("2",), 0, 8)}), "needs dtype"),
    "a true size": (with_header({"t": entry("F32", (True,), 0, 4)}), "needs dtype"),
    "a huge size": (with_header({"t": entry("F32", (2**63,), 0, 8)}), "needs dtype"),
    "an overflow": (with_header({"t": entry("F32", (2**61, 8), 0, 0)}), "0 bytes for F32"),
    "many dimensions": (with_header({"t": entry("F32", (1,) * 9, 0, 4)}), "needs dtype"),
    "backwards": (with_header({"t": entry("F32", (2,), 8, 0)}), "needs dtype"),
    "another size": (with_header({"t": entry("F32", (3,), 0, 8)}, bytes(8)), "8 bytes for F32"),
    "beyond the end": (with_header({"t": GOOD}, bytes(7)), "its data ends at byte"),
    "unknown type": (with_header({"t": entry("Q7", (8,), 0, 8)}, bytes(8)), "type Q7 is unknown"),
    "overlap": (with_header({"t": GOOD, "u": entry("F32", (2,), 4, 12)}, bytes(12)), "overlaps"),
}


@pytest.mark.parametrize("kind", ["F8_E4M3", "I8"])
def test_types_that_are_named_but_not_read(tmp_path, kind):
    path = tmp_path / "t"
    path.write_bytes(with_header({"t": entry(kind, (8,), 0, 8)}, bytes(8)))
    tensor = read_safetensors(path)["t"]
    with pytest.raises(ModelFileError, match=f"tensor t: type {kind} is not read"):
        tensor.float32()


@pytest.mark.parametrize("case", BAD_SAFETENSORS)
def test_hostile_safetensors(tmp_path, case):
    data, message = BAD_SAFETENSORS[case]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=message) as caught:
        read_safetensors(path)
    assert "bad.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_size_of_a_file_is_no_promise(tmp_path):
    """A header that names more than there is takes no memory."""
    header = {f"t{i}": entry("F32", (1 << 30, 1 << 20), 0, 1 << 52) for i in range(100)}
    path = tmp_path / "big"
    path.write_bytes(with_header(json.dumps(header).encode()))
    with pytest.raises(ModelFileError, match="ends at byte"):
        read_safetensors(path)
