"""Importance matrices: what is measured, against outside sums; and the files, sound and hostile."""

import re
import shutil
import struct
import subprocess

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from localllm.compress.calibration import CALIBRATION_TEXT, collect
from localllm.compress.imatrix import read_imatrix, write_imatrix
from localllm.engine.engine import Engine
from localllm.errors import LocalLLMError, ModelFileError
from localllm.evaluate.synthetic import ARCHITECTURES, random_model
from localllm.evaluate.texts import Text, cut
from localllm.gguf import GGUFFile, write_gguf
from localllm.models import load_definition
from localllm.ops import eager
from localllm.ops.native import InputSquares

pytest.importorskip("localllm._native")

VOCAB, CHUNK, CHUNKS = 320, 100, 4


class Linears(TorchFunctionMode):
    """Sums the squared inputs of every linear, by where its weight lies."""

    def __init__(self):
        super().__init__()
        self.sums = {}
        self.rows = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.linear:
            x, weight = args[:2]
            x, place = x.flatten(0, -2), weight.data_ptr()
            self.sums[place] = self.sums.get(place, 0) + x.double().square().sum(0).numpy()
            self.rows[place] = self.rows.get(place, 0) + len(x)
        return function(*args, **(kwargs or {}))


class HalfCache(eager.EagerCache):
    """Keys and values are rounded, as the core keeps them."""

    def append(self, sequence, layer, k, v):
        return super().append(sequence, layer, k.half().float(), v.half().float())


def random_chunks(count=CHUNKS):
    return np.random.default_rng(0).integers(0, VOCAB, (count, CHUNK)).tolist()


def engine_of(path, **options):
    options = {"context": CHUNK, "texts": 2, "threads": 2} | options
    return Engine.load(path, **options)


def sums_of(path, **options):
    return collect(engine_of(path, **options), random_chunks())


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_sums_are_those_of_the_eager_reference(arch, tmp_path):
    path = random_model(tmp_path / "model.gguf", arch, "F32", width=64, vocab=VOCAB)
    found = sums_of(path)
    store = eager.WeightStore()
    with Linears() as seen, torch.no_grad():
        tokens = torch.tensor(random_chunks()).flatten()
        cache = HalfCache(CHUNKS)
        model = load_definition(GGUFFile.open(path), CHUNK)
        eager.run(model, tokens, store, lengths=[CHUNK] * CHUNKS, cache=cache)
    linear = {name for name, tensor in store.tensors.items() if tensor.ndim > 1}
    assert set(found) == linear - {"token_embd.weight", "output.weight"}
    for name, squares in found.items():
        weights = store.tensors[name].view(-1, *store.tensors[name].shape[-2:])
        for weight, sums, rows in zip(weights, squares.sums, squares.rows, strict=True):
            place = weight.data_ptr()
            assert rows == seen.rows.get(place, 0)
            expected = seen.sums.get(place, np.zeros(len(sums)))
            assert np.abs(sums - expected).sum() <= 1e-4 * expected.sum(), name
            np.testing.assert_allclose(sums, expected, rtol=2e-3)


@pytest.mark.peer
def test_the_sums_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    path = random_model(tmp_path / "model.gguf", "llama", "F32", width=64, vocab=VOCAB)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32
    )
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.down_proj": "ffn_down",
    }
    with Linears() as seen, torch.no_grad():
        model(torch.tensor(random_chunks()))
    found = sums_of(path)
    for layer, block in enumerate(model.model.layers):
        for theirs, ours in names.items():
            sums = found[f"blk.{layer}.{ours}.weight"].sums[0]
            expected = seen.sums[block.get_submodule(theirs).weight.data_ptr()]
            # whose keys and values are not rounded
            assert np.abs(sums - expected).sum() <= 5e-4 * expected.sum()


def test_the_sums_depend_neither_on_threads_nor_on_steps(tmp_path):
    path = random_model(tmp_path / "model.gguf", "qwen3moe", "Q8_0", vocab=VOCAB)
    one, many = sums_of(path, threads=1, texts=1), sums_of(path, threads=3, texts=4)
    for name, squares in one.items():
        np.testing.assert_array_equal(squares.rows, many[name].rows)
        np.testing.assert_allclose(squares.sums, many[name].sums, rtol=1e-12)


def test_collecting_again_begins_from_zero(tmp_path):
    engine = engine_of(random_model(tmp_path / "model.gguf", "qwen2", "Q8_0", vocab=VOCAB))
    first, again = (collect(engine, random_chunks()) for _ in range(2))
    for name, squares in first.items():
        np.testing.assert_array_equal(squares.sums, again[name].sums)
        assert squares.rows.tolist() == again[name].rows.tolist() == [CHUNKS * CHUNK]


def test_progress_reaches_the_end(tmp_path):
    engine = engine_of(random_model(tmp_path / "model.gguf", "llama", vocab=VOCAB))
    said = []
    collect(engine, random_chunks(), lambda done, total: said.append((done, total)))
    assert said[-1] == (CHUNKS * CHUNK, CHUNKS * CHUNK)
    assert said == sorted(set(said))


def test_numbers_that_overflow_are_an_error(tmp_path):
    path = random_model(tmp_path / "model.gguf", "llama", "F32", vocab=VOCAB, layers=1)
    file = GGUFFile.open(path)
    tensors = {
        name: tensor.data.view("<f4").reshape(tensor.shape).copy()
        for name, tensor in file.tensors.items()
    }
    tensors["blk.0.ffn_gate.weight"] *= np.float32(1e30)
    write_gguf(tmp_path / "large.gguf", file.metadata, tensors)
    with pytest.raises(LocalLLMError, match=r"blk\.0\.ffn_down\.weight.*not finite"):
        sums_of(tmp_path / "large.gguf")


def test_the_calibration_text_comes_along():
    text = CALIBRATION_TEXT.read_text(encoding="utf-8")
    assert 100_000 < len(text.encode()) < 200_000
    for part in ("def ", "#include", "<|assistant|>", "Bahnhof", "巷子", "مكتبة", "SELECT"):
        assert part in text


SQUARES = {
    "blk.0.attn_q.weight": InputSquares(np.array([[2.0, 4.0, 0.0]]), np.array([4])),
    "blk.0.ffn_up_exps.weight": InputSquares(np.array([[3.0, 9.0], [0.0, 0.0]]), np.array([3, 0])),
}


def written(path, squares=SQUARES):
    write_imatrix(path, squares, chunks=2, chunk_size=512, datasets=["a.txt"])
    return path


def test_a_file_reads_as_it_was_written(tmp_path):
    path = written(tmp_path / "imatrix.gguf")
    means = read_imatrix(path)
    assert means["blk.0.attn_q.weight"].tolist() == [0.5, 1.0, 0.0]
    # an expert without rows counts every column the same
    assert means["blk.0.ffn_up_exps.weight"].tolist() == [[1.0, 3.0], [1.0, 1.0]]
    assert {array.dtype.name for array in means.values()} == {"float32"}
    file = GGUFFile.open(path)
    assert file.get("general.type", str) == "imatrix"
    assert file.get("imatrix.chunk_count", int) == 2
    assert file.get("imatrix.chunk_size", int) == 512
    assert list(file.get("imatrix.datasets", list)) == [b"a.txt"]
    assert {name: tensor.shape for name, tensor in file.tensors.items()} == {
        "blk.0.attn_q.weight.in_sum2": (3,),
        "blk.0.attn_q.weight.counts": (1,),
        "blk.0.ffn_up_exps.weight.in_sum2": (2, 2),
        "blk.0.ffn_up_exps.weight.counts": (2, 1),
    }


def legacy(*entries, tail=b""):
    data = struct.pack("<i", len(entries))
    for name, calls, values in entries:
        data += struct.pack("<i", len(name)) + name + struct.pack("<ii", calls, len(values))
        data += np.array(values, "<f4").tobytes()
    return data + tail


def test_older_files_are_read(tmp_path):
    path = tmp_path / "imatrix.dat"
    tail = struct.pack("<ii", 7, 5) + b"a.txt"
    path.write_bytes(legacy((b"a", 4, [2.0, 8.0]), (b"b.weight", 0, [3.0]), tail=tail))
    means = read_imatrix(path)
    assert {name: mean.tolist() for name, mean in means.items()} == {"a": [0.5, 2], "b.weight": [3]}


GOOD = {
    "w.in_sum2": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32),
    "w.counts": np.array([[1.0], [2.0]], np.float32),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w.counts": None}, "no counts"),
        ({"w.in_sum2": None}, "no sums"),
        ({"w.counts": np.ones(3, np.float32)}, "4 sums do not go with 3 counts"),
        ({"w.in_sum2": np.array([1, np.nan], np.float32)}, "value 1 is nan"),
        ({"w.in_sum2": np.array([1, np.inf], np.float32)}, "value 1 is inf"),
        ({"w.in_sum2": np.array([-1, 1], np.float32)}, "value 0 is -1"),
        ({"w.counts": np.array([2, -2], np.float32)}, "value 1 is -2"),
        ({"w.counts": np.array([np.nan, 1], np.float32)}, "value 0 is nan"),
        ({"w.counts": np.ones(2, np.float16)}, "F16"),
        ({"w.in_sum2": None, "w.counts": None, "other": np.ones(2, np.float32)}, "holds no import"),
    ],
)
def test_wrong_tensors_are_one_line(change, message, tmp_path):
    path = tmp_path / "imatrix.gguf"
    tensors = {name: value for name, value in (GOOD | change).items() if value is not None}
    write_gguf(path, {"general.architecture": "imatrix"}, tensors)
    with pytest.raises(ModelFileError, match=message) as caught:
        read_imatrix(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


NAN = np.array([np.nan], "<f4")
WHOLE = legacy((b"name", 4, [2.0, 8.0]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"no importance matrix, but a text",
        struct.pack("<i", 0),
        struct.pack("<i", -3) + bytes(100),
        struct.pack("<i", 2**31 - 1) + bytes(100),
        struct.pack("<ii", 1, -1) + bytes(100),
        struct.pack("<ii", 1, 2**31 - 1) + bytes(100),
        struct.pack("<ii", 1, 4) + b"name" + struct.pack("<ii", 1, 2**30) + bytes(100),
        struct.pack("<ii", 1, 4) + b"name" + struct.pack("<ii", 1, -5) + bytes(100),
        legacy((b"\xff\xfe", 1, [1.0])),
        legacy((b"same", 1, [1.0]), (b"same", 1, [1.0])),
        legacy((b"name", 1, NAN)),
        legacy((b"name", 1, [-1.0])),
        *(WHOLE[:size] for size in range(len(WHOLE))),
    ],
)
def test_broken_older_files_are_one_line(data, tmp_path):
    path = tmp_path / "imatrix.dat"
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        read_imatrix(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gguf_cut_short_is_one_line(tmp_path):
    whole = written(tmp_path / "imatrix.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    for size in range(0, len(whole) - 32, 7):  # less what pads the end
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFileError):
            read_imatrix(path)


def program(name):
    """An outside program; the test is skipped where it is absent."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on the PATH")
    return found


TEXT = " ".join(f"{word} {number}" for number in range(600) for word in ("one", "Two", "three."))


@pytest.mark.peer
@pytest.mark.parametrize("arch", ["llama", "qwen3moe"])
def test_llama_imatrix_measures_the_same(arch, tmp_path):
    model = random_model(tmp_path / "model.gguf", arch, "F32")
    (tmp_path / "text.txt").write_text(TEXT)
    arguments = ["-f", tmp_path / "text.txt", "-c", "128", "--chunks", "8", "-t", "2", "--no-ppl"]
    for out, form in (("theirs.gguf", "gguf"), ("theirs.dat", "dat")):
        output = ["-o", tmp_path / out, "--output-format", form]
        command = [program("llama-imatrix"), "-m", model, *arguments, *output]
        subprocess.run(command, check=True, capture_output=True)
    engine = engine_of(model, context=128)
    chunks = cut(engine.tokenizer, Text("text", TEXT), 128, 8).tolist()
    squares = collect(engine, chunks)
    write_imatrix(tmp_path / "ours.gguf", squares, chunks=8, chunk_size=128, datasets=["text.txt"])
    ours, theirs, older = (
        read_imatrix(tmp_path / name) for name in ("ours.gguf", "theirs.gguf", "theirs.dat")
    )
    assert ours.keys() == theirs.keys() == older.keys()
    layouts = [
        {name: tensor.shape for name, tensor in GGUFFile.open(tmp_path / name).tensors.items()}
        for name in ("ours.gguf", "theirs.gguf")
    ]
    assert layouts[0] == layouts[1]
    for name, means in ours.items():
        assert means.shape == theirs[name].shape
        # they sum in float32
        assert np.median(np.abs(means / theirs[name] - 1)) < 1e-4
        np.testing.assert_allclose(means, theirs[name], rtol=1e-2)
        np.testing.assert_allclose(older[name], theirs[name].reshape(-1), rtol=1e-5)


@pytest.mark.peer
def test_llama_quantize_takes_our_file(tmp_path):
    model = random_model(tmp_path / "model.gguf", "qwen3moe", "F16", vocab=VOCAB)
    path = written(tmp_path / "imatrix.gguf", sums_of(model))
    command = [program("llama-quantize"), "--imatrix", path, model, tmp_path / "out.gguf", "Q4_K"]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    said = result.stdout + result.stderr
    assert f"have {len(read_imatrix(path))} importance matrix entries" in said
    missed = set(re.findall(r"did not find weights for (\S+)", said))
    assert missed <= {"token_embd.weight", "output.weight"}
    metadata = GGUFFile.open(tmp_path / "out.gguf").metadata
    assert metadata["quantize.imatrix.entries_count"] == len(read_imatrix(path))
    assert metadata["quantize.imatrix.chunks_count"] == 2
