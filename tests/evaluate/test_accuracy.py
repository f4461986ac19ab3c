"""Perplexity and KL divergence, against float64 arithmetic and llama-perplexity."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from localllm.engine.engine import Engine
from localllm.errors import UsageError
from localllm.evaluate.accuracy import EvalPlan, evaluate, summary
from localllm.evaluate.scoring import SCORE, scored
from localllm.evaluate.synthetic import random_model
from localllm.evaluate.texts import Text, cut, read_text, shipped_texts
from localllm.gguf import GGUFFile, dequantize, write_gguf
from localllm.tokenize import load_tokenizer

pytest.importorskip("localllm._native")

TEXT = Text("a text", "The quick brown fox was there, and it was 12 o'clock. " * 150)


def nothing(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model in F32, and the same weights rounded to F16."""
    folder = tmp_path_factory.mktemp("models")
    return (
        random_model(folder / "base.gguf", "llama", "F32"),
        random_model(folder / "coarse.gguf", "llama", "F16"),
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    exact = logits.astype(np.float64)
    exact -= exact.max(-1, keepdims=True)
    return exact - np.log(np.exp(exact).sum(-1, keepdims=True))


def rows_of(path: Path, chunks: np.ndarray) -> np.ndarray:
    """Log-probabilities [chunks, length, vocab], each chunk read alone by the engine itself."""
    engine = Engine.load(path, context=chunks.shape[1] + 1, threads=1)
    return np.stack([log_softmax(np.concatenate(list(engine.logits(c)))) for c in chunks])


@pytest.mark.parametrize("length", [24, 512, 700])
def test_the_figures_are_those_of_exact_arithmetic(models: tuple[Path, Path], length: int) -> None:
    base, coarse = models
    plan = EvalPlan(context=length, chunks=3, threads=2)
    report = evaluate(coarse, base, [TEXT], plan, nothing)

    chunks = cut(load_tokenizer(GGUFFile.open(base)), TEXT, length, 3)
    at = list(range(length // 2, length - 1))  # the second half, but for the last
    after = chunks[:, length // 2 + 1 :]
    p, q = (rows_of(path, chunks)[:, at] for path in models)
    mine, theirs = (
        -np.take_along_axis(rows, after[..., None].astype(np.int64), -1)[..., 0] for rows in (q, p)
    )
    divergence = (np.exp(p) * (p - q)).sum(-1)

    assert report["tokens"] == len(chunks) * (length - 1 - length // 2)
    assert report["perplexity"] == pytest.approx(math.exp(mine.mean()), rel=1e-6)
    assert report["base_perplexity"] == pytest.approx(math.exp(theirs.mean()), rel=1e-6)
    found = report["kl_divergence"]
    assert divergence.mean() > 1e-9
    for name, value in (
        ("mean", divergence.mean()),
        ("median", np.median(divergence)),
        ("p99", np.percentile(divergence, 99)),
        ("p999", np.percentile(divergence, 99.9)),
        ("max", divergence.max()),
    ):
        assert found[name] == pytest.approx(value, rel=2e-3, abs=2e-8), name
    same = (p.argmax(-1) == q.argmax(-1)).mean()
    assert report["top1_agreement"] == pytest.approx(same)
    delta = math.sqrt(((np.exp(-mine) - np.exp(-theirs)) ** 2).mean())
    assert report["rms_delta_p"] == pytest.approx(delta, rel=1e-4)


def test_a_model_is_no_distance_from_itself(models: tuple[Path, Path]) -> None:
    report = evaluate(models[0], models[0], [TEXT], EvalPlan(128, 2), nothing)
    assert report["kl_divergence"]["max"] == 0
    assert report["top1_agreement"] == 1
    assert report["perplexity_ratio"] == 1
    assert report["rms_delta_p"] == 0


def test_several_texts_are_one_and_each_alone(models: tuple[Path, Path]) -> None:
    other = Text("another", TEXT.content[::-1])
    plan = EvalPlan(64, 2)
    both = evaluate(models[1], models[0], [TEXT, other], plan, nothing)
    alone = [evaluate(models[1], models[0], [text], plan, nothing) for text in (TEXT, other)]
    for found, one in zip(both["texts"], alone, strict=True):
        assert found["perplexity"] == one["perplexity"]
        assert found["kl_divergence"] == one["kl_divergence"]
    assert both["tokens"] == sum(one["tokens"] for one in alone)
    means = [math.log(one["perplexity"]) for one in alone]
    assert math.log(both["perplexity"]) == pytest.approx(sum(means) / 2)


def test_a_summary_by_hand() -> None:
    scores = np.array([(1.0, 2.0, 0.1, True), (3.0, 2.0, 0.3, False), (2.0, 2.0, 0.2, True)], SCORE)
    found = summary(scores)
    assert found["perplexity"] == pytest.approx(math.exp(2))
    deviation = math.sqrt(2 / 3)
    assert found["perplexity_error"] == pytest.approx(math.exp(2) * deviation / math.sqrt(2))
    assert found["perplexity_ratio"] == pytest.approx(1)
    assert found["kl_divergence"]["median"] == pytest.approx(0.2)
    assert found["kl_divergence"]["p99"] == pytest.approx(0.298)
    assert found["kl_divergence"]["error"] == pytest.approx(0.1 * deviation / math.sqrt(2))
    assert found["top1_agreement_error"] == pytest.approx(math.sqrt(2 / 9 / 2))
    alone = scores.copy()
    alone["base_surprise"] = np.nan
    assert summary(alone)["kl_divergence"] is None


def test_chunks_follow_each_other_and_begin_with_bos(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(GGUFFile.open(random_model(tmp_path / "m.gguf", "llama")))
    plain = tokenizer.encode(TEXT.content.removesuffix("\n"))
    chunks = cut(tokenizer, TEXT, 40)
    assert len(chunks) == len(plain) // 40
    assert (chunks[:, 0] == tokenizer.bos_id).all()
    assert chunks[:, 1:].tolist() == [plain[i + 1 : i + 40] for i in range(0, chunks.size, 40)]
    without = load_tokenizer(GGUFFile.open(random_model(tmp_path / "q.gguf", "qwen2")))
    assert not without.add_bos
    ids = without.encode(TEXT.content)
    assert cut(without, TEXT, 40, 2).tolist() == [ids[:40], ids[40:80]]
    assert cut(without, TEXT, len(ids), least=1).tolist() == [ids]


def test_only_the_second_half_is_scored() -> None:
    assert (scored(512).start, len(scored(512))) == (256, 255)
    assert list(scored(7)) == [3, 4, 5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b"abc\xff", "not UTF-8: byte 3 is 0xff"),
    ],
)
def test_a_text_that_is_none(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_text(path)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("pipe", "regular"), (".", "regular"), ("gone", "No such file")):
        with pytest.raises(UsageError, match=message):
            read_text(tmp_path / name)


def test_a_text_of_less_than_two_chunks(models: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match=r"short: \d+ tokens; 1024 are the least with --ctx 512"):
        evaluate(models[0], None, [Text("short", TEXT.content[:900])], EvalPlan(), nothing)


def test_different_vocabularies(models: tuple[Path, Path], tmp_path: Path) -> None:
    larger = random_model(tmp_path / "larger.gguf", "llama", vocab=600)
    other = random_model(tmp_path / "other.gguf", "qwen2")
    for base in (larger, other):
        with pytest.raises(UsageError, match="another vocabulary"):
            evaluate(models[0], base, [TEXT], EvalPlan(64, 1), nothing)


def test_impossible_plans() -> None:
    for arguments in ({"context": 7}, {"chunks": 0}):
        with pytest.raises(UsageError, match="must be >= "):
            EvalPlan(**arguments)


def test_the_shipped_texts_are_long_enough_and_plain() -> None:
    texts = shipped_texts()
    assert [text.name for text in texts] == ["prose", "mixed"]
    for text in texts:
        assert 40_000 < len(text.content) < 200_000
        assert "\r" not in text.content


def noisy(path: Path, source: Path) -> Path:
    """A copy of a model in F32, its matrices changed by 5 %."""
    random = np.random.default_rng(0)
    file = GGUFFile.open(source)
    tensors = {}
    for name, tensor in file.tensors.items():
        values = dequantize(tensor.data, tensor.type, tensor.shape)
        if len(tensor.shape) > 1:
            values *= 1 + np.float32(0.05) * random.standard_normal(values.shape, np.float32)
        tensors[name] = values
    write_gguf(path, file.metadata, tensors)
    return path


@pytest.mark.peer
@pytest.mark.parametrize("arch", ["llama", "qwen3"])
def test_llama_perplexity_finds_the_same(arch: str, tmp_path: Path) -> None:
    peer = shutil.which("llama-perplexity")
    if peer is None:
        pytest.skip("llama-perplexity is not in the PATH")
    base = random_model(tmp_path / "base.gguf", arch)
    model = noisy(tmp_path / "model.gguf", base)
    text, kept = tmp_path / "text", tmp_path / "logits"
    text.write_text(TEXT.content + "\n")

    def run(*arguments: object, until: str = "") -> str:
        command = [peer, "-c", "128", "--chunks", "8", "-t", "2", *map(str, arguments)]
        libraries = os.environ | {"LD_LIBRARY_PATH": str(Path(peer).resolve().parent)}
        for _ in range(20):  # at times it ends before the end of its log is written
            done = subprocess.run(
                command,
                check=True,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=libraries,
            )
            if until in done.stdout:
                break
        return done.stdout

    run("-m", base, "-f", text, "--kl-divergence-base", kept)
    compared = ("--kl-divergence-base", kept, "--kl-divergence")
    printed = run("-m", model, *compared, until="Same top p:")

    def figure(pattern: str) -> float:
        match = re.search(pattern + r" *: +([\d.]+)", printed)
        assert match, pattern
        return float(match[1])

    found = evaluate(model, base, [read_text(text)], EvalPlan(128, 8), nothing)
    assert found["perplexity"] == pytest.approx(figure(r"Mean PPL\(Q\)"), rel=2e-3)
    assert found["kl_divergence"]["mean"] == pytest.approx(figure("Mean +KLD"), rel=3e-2)
    assert found["kl_divergence"]["p99"] == pytest.approx(figure("99.0% +KLD"), rel=3e-2)
    assert 100 * found["top1_agreement"] == pytest.approx(figure("Same top p"), abs=0.5)
    assert 100 * found["rms_delta_p"] == pytest.approx(figure("RMS Δp"), rel=3e-2, abs=2e-3)
