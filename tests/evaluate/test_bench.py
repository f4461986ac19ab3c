"""The benchmark: its report's shape, its limits; no timing is asserted."""

import pytest

from localllm.errors import UsageError
from localllm.evaluate.bench import BenchPlan, benchmark, benchmark_synthetic
from localllm.evaluate.synthetic import random_model


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("bench") / "model.gguf", "llama", "Q4_K_M")


def small(batches=(1,), depths=(0,), versus=None):
    return BenchPlan(40, 3, batches, depths, repetitions=2, threads=2, versus=versus)


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
        assert row["slowest"] <= row["tokens_per_second"] <= row["fastest"]


@pytest.mark.peer
def test_beside_the_peer(path):
    pytest.importorskip("llama_cpp")
    for row in benchmark(path, small(batches=(2,), versus="llama.cpp"))["results"]:
        assert row["ratio"] == pytest.approx(row["tokens_per_second"] / row["llama.cpp"])


@pytest.mark.parametrize("names", [("no-such-model", "Q4_K_M"), ("llama-3.2-1b", "Q9")])
def test_unknown_names(names):
    with pytest.raises(UsageError):
        benchmark_synthetic(*names, small())


def test_unknown_peer():
    with pytest.raises(UsageError, match=r"--vs ollama: the peer must be llama\.cpp"):
        small(versus="ollama")
