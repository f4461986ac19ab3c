"""Hostile files: one clear line that names file and field, and no memory taken on trust."""

import os
import random
import struct
import tracemalloc

import numpy as np
import pytest

from localllm.errors import ModelFileError
from localllm.evaluate.synthetic.vocabularies import spm_vocabulary
from localllm.gguf import GGUFFile, StringArray, dequantize, write_gguf
from localllm.gguf.reader import _read_file
from tests.gguf.build import (
    ARRAY,
    BOOL,
    FLOAT32,
    INT32,
    STRING,
    UINT8,
    UINT32,
    array,
    gguf,
    key,
    string,
    tensor,
    u32,
    u64,
)

HUGE = (2**63, 2**64 - 1, 2**40, 2**32)


def nested(depth):
    value = array(UINT8, [b"\1"])
    for _ in range(depth):
        value = array(ARRAY, [value])
    return key("deep", ARRAY, value)


def one(kind=0, dims=(4,), offset=0, name="t", data=b"\0" * 16, keys=()):
    return gguf(keys, [tensor(name, dims, kind, offset)], data)


FAULTS = {
    # the header
    "magic": (b"GGUX" + gguf()[4:], "not a GGUF file: it begins with b'GGUX'"),
    "header cut": (gguf()[:3], "header: cut short after 3 bytes"),
    "version cut": (gguf()[:6], "version: needs 4 bytes"),
    "counts cut": (gguf()[:20], "metadata count: needs 8 bytes"),
    "version 1": (gguf(version=1), "version: GGUF version 1 is not supported"),
    "version 0": (gguf(version=0), "version: GGUF version 0 is unknown"),
    "version 4": (gguf(version=4), "version: GGUF version 4 is unknown"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version: the file is big-endian"),
    **{
        f"tensor count {count}": (gguf(tensor_count=count), r"tensor count: needs \d+ bytes")
        for count in HUGE
    },
    **{
        f"key count {count}": (gguf(key_count=count), r"metadata count: needs \d+ bytes")
        for count in HUGE
    },
    "more keys counted": (
        gguf([key("a", UINT8, b"\1")], key_count=2, alignment=128),
        "metadata key 1: the name is empty",
    ),
    "key count beyond all use": (
        gguf(data=bytes(1 << 20), key_count=70000),
        "metadata count: 70000; at most 65536",
    ),
    "tensor count beyond all use": (
        gguf(data=bytes(7 << 20), tensor_count=270000),
        "tensor count: 270000; at most 262144",
    ),
    # metadata
    "key twice": (gguf([key("a", UINT8, b"\1")] * 2), "a: the metadata key stands twice"),
    "key not UTF-8": (gguf([key(b"\xff\xfe", UINT8, b"\1")]), "key 0: .*not valid UTF-8"),
    "key empty": (gguf([key("", UINT8, b"\1")]), "key 0: the name is empty"),
    "key too long": (
        gguf([key("k" * 70000, UINT8, b"\1")]),
        "key 0: a string of 70000 bytes; at most 65535",
    ),
    **{
        f"key length {length}": (
            gguf([string("a", length) + u32(UINT8) + b"\1"]),
            rf"metadata key 0: needs {length} bytes",
        )
        for length in HUGE
    },
    "value type": (gguf([key("a", 13, bytes(8))]), "a: unknown value type 13"),
    "value cut": (gguf([key("a", UINT32, b"\1")], alignment=1), "a: needs 4 bytes at offset 37"),
    "bool": (gguf([key("a", BOOL, b"\2")]), "a: 2 is neither true"),
    "bools": (gguf([key("a", ARRAY, array(BOOL, [b"\0\1\2"], 3))]), "a: an element is neither"),
    **{
        f"string length {length}": (
            gguf([key("name", STRING, string("abc", length))]),
            f"name: needs {length} bytes",
        )
        for length in HUGE
    },
    **{
        f"array of {kind} length {length}": (
            gguf([key("list", ARRAY, array(kind, [bytes(40)], length))]),
            r"list: needs \d+ bytes",
        )
        for length in HUGE
        for kind in (UINT8, FLOAT32, STRING, ARRAY)
    },
    "array element type": (gguf([key("a", ARRAY, array(99, []))]), "a: unknown array element type"),
    "array cut": (
        gguf([key("a", ARRAY, array(INT32, [u32(1)], 100))]),
        "a: needs 400 bytes at offset",
    ),
    "array beyond all use": (
        gguf([key("a", ARRAY, array(UINT8, [], (1 << 24) + 1))], data=bytes((1 << 24) + 64)),
        "a: 16777217 elements; at most",
    ),
    "strings cut": (
        gguf([key("tokens", ARRAY, array(STRING, [string("a"), string("b", 10**6)]))]),
        "tokens: its 2 strings run past the end",
    ),
    "string lengths wrap": (
        gguf([key("tokens", ARRAY, array(STRING, [string("a", 2**64 - 8), string("b")]))]),
        "tokens: its 2 strings run past the end",
    ),
    "nested too deep": (gguf([nested(8)]), "deep: arrays are nested more than 8 deep"),
    "nested a thousand deep": (gguf([nested(1000)]), "deep: arrays are nested more than 8"),
    "nested too many": (
        gguf([key("a", ARRAY, array(ARRAY, [], 300000))], data=bytes(4 << 20)),
        "a: more than 262144 nested arrays",
    ),
    **{
        f"alignment {value}": (
            one(keys=[key("general.alignment", UINT32, u32(value))]),
            f"general.alignment: {value} is not a sane power of two",
        )
        for value in (0, 3, 48, 2**31, 2**32 - 1)
    },
    "alignment of another type": (
        one(keys=[key("general.alignment", STRING, string("32"))]),
        "general.alignment: must be a 32-bit unsigned number, found value type 8",
    ),
    "architecture of another type": (
        one(keys=[key("general.architecture", UINT32, u32(1))]),
        "general.architecture: must be a string",
    ),
    "split count of another type": (
        one(keys=[key("split.count", STRING, string("2"))]),
        "split.count: expected int, found str",
    ),
    # tensors
    "tensor twice": (
        gguf([], [tensor("t", [4], 0, 0), tensor("t", [4], 0, 32)], bytes(64)),
        "tensor t: the name stands twice",
    ),
    "tensor name not UTF-8": (one(name=b"\xc3("), "tensor name 0: .*not valid UTF-8"),
    "tensor name too long": (one(name="n" * 65536), "tensor name 0: a string of 65536 bytes"),
    "tensor name of another line": (
        one(name="a\nb", offset=4096),
        r"tensor a\\nb: its data ends at byte \d+",
    ),
    "five dimensions": (one(dims=(1,) * 5), "tensor t: 5 dimensions; at most 4"),
    "dimension count": (
        gguf([], [string("t") + u32(2**32 - 1)], tensor_count=1, data=bytes(64)),
        "tensor t: 4294967295 dimensions",
    ),
    "dimension zero": (one(dims=(4, 0)), r"tensor t: impossible shape \[0, 4\]"),
    "dimension overflow": (one(dims=(2**63,)), "tensor t: impossible shape"),
    "product overflow": (one(dims=(2**32, 2**32)), "tensor t: impossible shape"),
    "product wraps to 4": (one(dims=(2**62 + 1, 4)), "tensor t: impossible shape"),
    "bytes overflow": (one(dims=(2**62,)), "tensor t: its data ends at byte 18446744073709551"),
    "type": (one(kind=1000), "tensor t: tensor type 1000 is unknown"),
    "row not whole blocks": (
        one(kind=2, dims=(33, 32)),
        "tensor t: rows of 33 elements are not whole Q4_0 blocks of 32",
    ),
    "offset not aligned": (one(offset=8), "tensor t: data offset 8 is not a multiple of 32"),
    "offset outside": (one(offset=1 << 20), "tensor t: its data ends at byte 1048656"),
    "offset wraps": (one(offset=2**64 - 32), "tensor t: its data ends at byte 184467440737095"),
    "data cut": (one(data=bytes(15)), r"tensor t: its data ends at byte \d+ of a file of \d+"),
    "data absent": (one(data=b""), "tensor t: its data ends at"),
    "overlap": (
        gguf([], [tensor("a", [16], 0, 0), tensor("b", [4], 0, 32)], bytes(64)),
        "tensor b: its data overlaps that of tensor a",
    ),
    "table cut": (gguf([], [tensor("t", [4], 0, 0)[:-4]], alignment=1), "tensor t: needs 8 bytes"),
    # other files
    "safetensors": (u64(640) + b'{"__metadata__":{}}', "looks like a safetensors file"),
    "zip": (b"PK\x03\x04" + bytes(100), "looks like a zip archive or PyTorch checkpoint"),
    "pickle": (b"\x80\x02}q\0." + bytes(20), "looks like a Python pickle"),
    "ggml": (b"lmgg" + bytes(100), "looks like a ggml file from before GGUF"),
    "ggjt": (b"tjgg" + bytes(100), "looks like a ggml file from before GGUF"),
    "web page": (b"<!doctype html><html>", "looks like a web page"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", "looks like a git-lfs pointer"),
    "json": (b' {"error": "not found"}', "looks like a JSON file"),
    "text": (b"Once upon a time", "not a GGUF file: it begins with b'Once'$"),
    "one byte": (b"x", "not a GGUF file"),
    "empty": (b"", "the file is empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named(tmp_path, fault):
    content, complaint = FAULTS[fault]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ModelFileError, match=complaint) as caught:
        GGUFFile.open(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert peak < 2 << 20, "memory was taken on the word of the file"


def test_good_neighbours_of_the_faults_are_read(tmp_path):
    path = tmp_path / "good.gguf"
    for content in (gguf(), one(), one(kind=2, dims=(32, 2), data=bytes(36)), gguf([nested(7)])):
        path.write_bytes(content)
        GGUFFile.open(path)


def test_not_a_file(tmp_path):
    with pytest.raises(ModelFileError, match=r"absent.gguf: no such file"):
        GGUFFile.open(tmp_path / "absent.gguf")
    with pytest.raises(ModelFileError, match=r"is a directory"):
        GGUFFile.open(tmp_path)
    with pytest.raises(ModelFileError, match=r"cannot be read: Not a directory"):
        GGUFFile.open(__file__ + "/x.gguf")
    with pytest.raises(ModelFileError, match=r"cannot be read: embedded null"):
        GGUFFile.open("a\0b")
    with pytest.raises(ModelFileError, match=r"cannot be read: File name too long"):
        GGUFFile.open("x" * 5000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_named_pipe_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):
        GGUFFile.open(tmp_path / "pipe")


# Ten thousand mutations


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small file with something of everything, and where its 32- and 64-bit fields may lie."""
    path = tmp_path_factory.mktemp("base") / "base.gguf"
    vocabulary = spm_vocabulary(360)
    tokens = vocabulary["tokenizer.ggml.tokens"][250:290]
    metadata = {
        "general.architecture": "llama",
        "general.alignment": np.uint32(32),
        "llama.block_count": 2,
        "llama.rope.freq_base": 10000.0,
        "llama.float64": np.float64(0.5),
        "llama.small": np.int8(-3),
        "flag": True,
        "flags": [True, False],
        "nested": [[1, 2], [3, 4], [5]],
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": vocabulary["tokenizer.ggml.scores"][:40],
        "tokenizer.ggml.token_type": vocabulary["tokenizer.ggml.token_type"][:40],
        "split.count": np.uint16(1),
    }
    generator = np.random.default_rng(0)
    tensors = {
        "token_embd.weight": generator.standard_normal((4, 32)).astype(np.float32),
        "blk.0.attn_norm.weight": np.ones(32, np.float16),
    }
    for index, (name, size) in enumerate([("Q4_0", 18), ("Q8_0", 34), ("MXFP4", 17)]):
        data = generator.integers(0, 256, (2, size), dtype=np.uint8)
        tensors[f"blk.{index}.ffn_up.weight"] = (data, quant(name), (2, 32))
    write_gguf(path, metadata, tensors)
    return path.read_bytes()


def quant(name):
    from localllm.gguf import quant_type

    return quant_type(name)


INTERESTING = (
    0,
    1,
    2,
    7,
    8,
    9,
    31,
    33,
    255,
    2**16,
    2**24,
    2**31,
    2**32 - 1,
    2**40,
    2**63,
    2**64 - 1,
)


def mutate(base, dice):
    content = bytearray(base)
    for _ in range(dice.choice((1, 1, 1, 2, 5, 20))):
        place = dice.randrange(len(content))
        kind = dice.randrange(6)
        if kind == 0:
            content[place] ^= 1 << dice.randrange(8)
        elif kind == 1:
            content[place] = dice.randrange(256)
        elif kind == 2:
            value = dice.choice(INTERESTING).to_bytes(8, "little")
            width = dice.choice((1, 2, 4, 8))
            content[place : place + width] = value[:width]
        elif kind == 3:
            del content[place : place + dice.choice((1, 4, 8, 40))]
        elif kind == 4:
            content[place:place] = content[place : place + dice.choice((1, 4, 8, 40))]
        else:
            content = content[: place + 1]
        content = content or bytearray(b"G")
    return bytes(content)


def use(file):
    """Touches all that a reader of the file would."""
    for value in file.metadata.values():
        if isinstance(value, StringArray):
            assert len(value.tolist()) == len(value)
    for found in file.tensors.values():
        assert found.data.size == found.nbytes
        if found.type.runnable:
            dequantize(found.data, found.type, found.shape)


def outcome(path, content):
    """Whether `content` was read; anything but a ModelFileError of one line gets out."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    try:
        use(_read_file(path))
    except ModelFileError as error:
        message = str(error)
        assert message.startswith(str(path)), message
        assert "\n" not in message, message
        assert len(message) < len(str(path)) + 300, message
        return False
    return True


def test_ten_thousand_mutations(base, tmp_path):
    dice = random.Random(2026)
    path = tmp_path / "mutated.gguf"
    assert outcome(path, base)
    read = sum(outcome(path, mutate(base, dice)) for _ in range(10_000))
    assert 500 < read < 9_500, "the mutations are all fatal or all harmless: they test little"


def test_every_truncation(base, tmp_path):
    path = tmp_path / "cut.gguf"
    last = max(len(base.rstrip(b"\0")), len(base) - 31)
    assert not any(outcome(path, base[:size]) for size in range(1, last - 32))


def test_every_field_set_to_a_huge_length(base, tmp_path):
    path = tmp_path / "huge.gguf"
    for value in (2**63, 2**64 - 1, 2**32 - 1):
        for place in range(8, min(len(base), 1500)):
            outcome(path, base[:place] + u64(value) + base[place + 8 :])
