"""The benchmark: its report's shape, its limits; no timing is asserted."""

import json
import sys
from statistics import median
from xml.etree import ElementTree

import numpy as np
import pytest

from localllm.engine.pages import PAGE_SIZE
from localllm.engine.sequence import Stats
from localllm.errors import LocalLLMError, ModelFileError, UsageError
from localllm.evaluate import bench, contestants, copying
from localllm.evaluate.bench import BenchPlan, Work, _measure, benchmark, benchmark_synthetic
from localllm.evaluate.charts import svg_chart, text_chart
from localllm.evaluate.contestants import LlamaCpp, Localllm
from localllm.evaluate.copying import copying_task, measure_copying
from localllm.evaluate.startup import measure_startup
from localllm.evaluate.synthetic import models, random_model
from localllm.evaluate.tables import tables
from localllm.gguf import GGUFFile
from localllm.hub.catalog import load_catalog
from localllm.hub.names import resolve
from localllm.units import rate


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("bench") / "model.gguf", "llama", "Q4_K_M")


def small(batches=(1,), depths=(0,), **more):
    return BenchPlan(40, 3, batches, depths, repetitions=2, threads=1, **more)


def test_report(path):
    report = benchmark(path, small(batches=(1, 3), depths=(0, 70)))
    assert report["prefill_tokens_per_second"] > 0
    assert report["decode_tokens_per_second"] > 0
    assert [(row["test"], row["batch"], row["depth"]) for row in report["results"]] == [
        ("prefill", 1, 0),
        ("decode", 1, 0),
        ("decode", 3, 0),
        ("decode", 1, 70),
        ("decode", 3, 70),
    ]
    for row in report["results"]:
        found = row["contestants"]["localllm"]
        assert found["least"] <= row["tokens_per_second"] <= found["most"]
        assert len(found["measured"]) == 2
        assert row["tokens_per_second"] == median(found["measured"])
        assert "ratio" not in row
    assert report["file_bytes"] == path.stat().st_size
    for absent in ("startup", "copying", "versus", "versus_version"):
        assert report[absent] is None


def test_what_is_asked_for_twice_is_measured_once():
    works = small(batches=(2, 1, 2), depths=(1, 1)).works()
    assert [(work.kind, work.batch, work.depth) for work in works] == [
        ("prefill", 1, 0),
        ("decode", 2, 1),
        ("decode", 1, 1),
    ]


@pytest.mark.peer
@pytest.mark.parametrize("kv_type", ["f32", "f16", "int8"])
def test_beside_the_peer(path, kv_type):
    llama_cpp = pytest.importorskip("llama_cpp")
    report = benchmark(path, small(batches=(2,), versus="llama.cpp", kv_type=kv_type))
    assert report["versus_version"] == llama_cpp.__version__
    for row in report["results"]:
        theirs = row["contestants"]["llama.cpp"]["median"]
        assert row["ratio"] == pytest.approx(row["tokens_per_second"] / theirs)
        assert list(row["contestants"]) == ["localllm", "llama.cpp"]


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        ("raise OSError('libllama.so: no such file')", "libllama.so: no such file"),
        ("__version__ = '0.1'", "module 'llama_cpp' has no attribute 'GGML_TYPE_F16'"),
    ],
)
def test_a_peer_that_is_broken(tmp_path, monkeypatch, module, problem):
    (tmp_path / "llama_cpp.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    monkeypatch.setattr(bench, "silent_llama_cpp", contestants.silent_llama_cpp.__wrapped__)
    monkeypatch.setattr(bench, "catalog_model", None)  # nothing is made
    with pytest.raises(LocalLLMError) as caught:
        benchmark_synthetic("qwen3-0.6b", "Q8_0", small(versus="llama.cpp"))
    assert caught.value.message.endswith(f"llama-cpp-python cannot be used: {problem}")
    sys.modules.pop("llama_cpp", None)


@pytest.mark.peer
def test_more_sequences_than_the_peer_holds(path):
    llama_cpp = pytest.importorskip("llama_cpp")
    most = llama_cpp.llama_max_parallel_sequences()
    with pytest.raises(UsageError, match=rf"--batch {most + 1}: .* at most {most} sequences"):
        LlamaCpp(path, (most + 1) * PAGE_SIZE, most + 1, 1, "f16")


def test_too_little_memory(path, monkeypatch):
    monkeypatch.setattr(contestants, "available_memory", lambda: 1 << 20)
    with pytest.raises(LocalLLMError, match=r"not enough memory: .* 1\.05 MB are") as caught:
        benchmark(path, small())
    assert caught.value.hint == "fewer sequences, a smaller --depth or a smaller model need less"


@pytest.mark.parametrize("names", [("no-such-model", "Q4_K_M"), ("llama-3.2-1b", "Q9")])
def test_unknown_names(names):
    with pytest.raises(UsageError):
        benchmark_synthetic(*names, small())


def test_unknown_peer():
    with pytest.raises(UsageError, match=r"--vs ollama: the peer must be llama\.cpp"):
        small(versus="ollama")


@pytest.mark.parametrize(
    ("impossible", "problem"),
    [({"kv_type": "f8"}, "--kv-type f8"), ({"threads": 0}, "--threads 0")],
)
def test_impossible_plans(impossible, problem):
    with pytest.raises(UsageError, match=problem):
        BenchPlan(40, 3, (1,), (0,), 1, **impossible)


class Recorder:
    """A contestant that writes down what it is asked for."""

    def __init__(self, name, log):
        self.name, self.log, self.load_seconds, self.past = name, log, 0.0, 0

    def rewind(self, depth):
        assert depth <= self.past
        self.past = depth

    def step(self, tokens):
        self.log.append((self.name, *tokens.shape, self.past))
        self.past += tokens.shape[1]

    def close(self):
        pass


def test_contestants_take_turns_and_the_cache_is_filled_once():
    log = []
    contestants = [Recorder(name, log) for name in "ab"]
    rates = _measure(contestants, [Work("decode", 1, 3, 50)], 3, 99, lambda text: None)
    assert [len(found) for found in rates[Work("decode", 1, 3, 50)]] == [3, 3]
    warm_up, fill, turns = log[:4], log[4:6], log[6:]
    assert [name for name, *_ in warm_up] == ["a", "a", "b", "b"]
    assert fill == [("a", 3, 50, 0), ("b", 3, 50, 0)]
    assert turns == [(name, 3, 1, 50) for name in "abbaab"]


def test_a_rewound_sequence_goes_on_from_there(path):
    contestant = Localllm(path, 2 * PAGE_SIZE, 1, "f16", None)
    outputs = []
    contestant.runner.step, compute = (
        lambda batch: outputs.append(compute(batch)),
        contestant.runner.step,
    )
    tokens = np.arange(7, dtype=np.int32)[None]
    contestant.step(tokens)
    contestant.rewind(3)
    contestant.step(tokens[:, 3:])
    np.testing.assert_array_equal(outputs[0], outputs[1])


def test_a_file_that_is_cut_short_meanwhile(tmp_path):
    path = random_model(tmp_path / "model.gguf", "llama", "Q8_0")
    contestant = Localllm(path, PAGE_SIZE, 1, "f16", None)
    with path.open("r+b") as file:
        file.truncate(4096)
    with pytest.raises(ModelFileError, match="was truncated while in use"):
        contestant.step(np.zeros((1, 1), np.int32))


@pytest.mark.parametrize("peer", [None, pytest.param("llama.cpp", marks=pytest.mark.peer)])
def test_startup(path, peer):
    if peer:
        pytest.importorskip("llama_cpp")
    rows = measure_startup(path, path.stat().st_size, 1, "int8", 1, peer, lambda text: None)
    names = [("localllm", "first"), ("localllm", "second"), ("llama.cpp", "every")]
    assert [(row["contestant"], row["start"]) for row in rows] == names[: 3 if peer else 2]
    for row in rows:
        assert 0 < row["first_token_seconds"]["median"] <= row["exit_seconds"]["median"]
        assert row["peak_memory_bytes"] > 10e6  # an interpreter with numpy
        ratio = row["peak_memory_bytes"] / path.stat().st_size
        assert row["peak_memory_to_file"] == pytest.approx(ratio)
        assert not row["kept"]  # too small


def test_a_start_imports_nothing_from_the_current_folder(path, tmp_path, monkeypatch):
    for name in ("numpy", "pathlib", "localllm"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('from the current folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *sys.path])
    assert measure_startup(path, 1, 1, "f16", 1, None, lambda text: None)


def test_a_start_that_fails_says_why(tmp_path):
    with pytest.raises(LocalLLMError, match=r"^start-up of localllm: \S*none\.gguf: no such file"):
        measure_startup(tmp_path / "none.gguf", 1, 1, "f16", 1, None, lambda text: None)


def test_the_second_start_finds_what_the_first_one_kept(tmp_path):
    path = random_model(tmp_path / "m.gguf", "llama", "Q8_0", width=1024, ffn=4096, layers=4)
    first, second = measure_startup(path, 1, 1, "f16", 1, None, lambda text: None)
    assert first["kept"]
    assert second["kept"]


def test_copying():
    path = resolve(None).path
    task = copying_task(GGUFFile.open(path))
    found = measure_copying(path, task, 1, "f16", 1, None, lambda text: None)
    assert found["same_tokens"]
    assert found["tokens"] == 256
    assert found["accepted_tokens"] > found["tokens"] / 2
    assert found["accepted_tokens"] <= found["drafted_tokens"]


def test_the_led_sampler_takes_the_answer_and_notes_the_models_choice():
    sampler = copying._Led([2, 0], vocab_size=3)
    rows = np.array([[0, 9, 1], [0, 1, 9]], np.float32)
    assert [sampler.sample(row) for row in rows] == [2, 0]
    assert sampler.chosen == [1, 2]


def test_a_model_that_drafts_would_change_is_found_out(monkeypatch):
    stats = Stats(generated_tokens=3, decode_seconds=1.0)
    monkeypatch.setattr(copying, "_copy", lambda *given, drafts: ([1, 2 + drafts], stats))
    path = resolve(None).path
    task = copying_task(GGUFFile.open(path))
    found = measure_copying(path, task, 1, "f16", 1, None, lambda text: None)
    assert not found["same_tokens"]


def test_copying_needs_room(tmp_path):
    path = random_model(tmp_path / "model.gguf", "llama", "Q8_0", context=256)
    with pytest.raises(LocalLLMError, match=r"--copy: .* the context of model\.gguf holds 256"):
        benchmark(path, small(copying=True))


def long_report():
    """A report with everything in it, and long numbers."""

    def found(value):
        return {"median": value, "least": 0.9 * value, "most": 1.1 * value, "measured": [value] * 3}

    start = {
        "contestant": "localllm",
        "start": "first",
        "first_token_seconds": found(12.3),
        "exit_seconds": found(12.6),
        "peak_memory_bytes": 2e9,
        "peak_memory_to_file": 1.5,
        "kept": True,
    }
    return {
        "file_bytes": 800_000_000,
        "threads": 2,
        "isa": "avx512",
        "kv_type": "int8",
        "versus": "llama.cpp",
        "repetitions": 3,
        "results": [
            {
                "test": work.kind,
                "label": str(work),
                "contestants": {"localllm": found(value), "llama.cpp": found(value / 2)},
                "ratio": 2.0,
            }
            for work, value in [
                (Work("prefill", 512, 1, 0), 999.4),
                (Work("decode", 64, 16, 4096), 123.4),
            ]
        ],
        "startup": [start, start | {"contestant": "llama.cpp", "start": "every", "kept": False}],
        "copying": {
            "tokens": 256,
            "with_drafts": found(100.0),
            "without_drafts": found(40.0),
            "ratio": 2.5,
            "drafted_tokens": 300,
            "accepted_tokens": 200,
            "same_tokens": True,
        },
    }


def test_tables_fit_a_narrow_terminal():
    text = "\n\n".join(tables(long_report(), "some-model"))
    assert max(map(len, text.splitlines())) <= 80
    assert "decode 64, batch 16, depth 4096    123 (111-136)  61.7 (55.5-67.9)  2.00x" in text
    assert "localllm, first start   12.3 (11.1-13.5)    12.60         2 GB    1.50x" in text
    assert "ratio                  2.50x" in text


@pytest.mark.parametrize(
    ("value", "shown"), [(0.5, "0.50"), (9.996, "10.0"), (99.96, "100"), (98765.4, "98,765")]
)
def test_rate(value, shown):
    assert rate(value) == shown


def test_bars_in_the_terminal():
    lines = text_chart(long_report(), 80, "#").splitlines()
    assert max(map(len, lines)) <= 80
    first = lines.index("prefill, tokens/s (longer is better)") + 1
    ours, theirs = (line.count("#") for line in lines[first : first + 2])
    assert ours == pytest.approx(2 * theirs, abs=1)


def test_bars_in_a_picture():
    root = ElementTree.fromstring(svg_chart(long_report(), "a <model> & more"))
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "a <model> & more"
    assert "decode 64, batch 16, depth 4096  llama.cpp" in texts
    bars = list(root.iter("{http://www.w3.org/2000/svg}rect"))[1:]
    assert len(bars) == 4 + 2 + 2 + 2
    width, height = int(root.get("width")), int(root.get("height"))
    for bar in bars:
        assert int(bar.get("x")) + int(bar.get("width")) < width
        assert int(bar.get("y")) + int(bar.get("height")) < height
    assert int(bars[0].get("width")) == pytest.approx(2 * int(bars[1].get("width")), abs=1)


def test_a_report_is_json(path):
    report = benchmark(path, small())
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize("name", sorted(load_catalog()))
def test_every_catalog_shape_can_be_made(name, monkeypatch):
    written = {}
    monkeypatch.setattr(models, "_vocabulary", lambda shape: {})
    monkeypatch.setattr(models, "write_gguf", lambda path, content, made: written.update(made))
    for quantisation in ("Q4_K_M", "Q8_0", "Q2_K", "IQ4_XS"):
        models.catalog_model("unused", load_catalog()[name], quantisation)
        assert all(made.shape[-1] % made.type.block_size == 0 for made in written.values())
    assert written["blk.0.attn_output.weight"].type.name in ("IQ4_XS", "IQ4_NL")
