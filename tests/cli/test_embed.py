"""`localllm embed`, and an embedding model where an answering one is wanted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Run
from tests.models.encoders import CONTEXT, WIDTH, random_bert

TEXTS = ("the fox", "over the dog", "a")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("localllm._native")
    path: Path = random_bert(tmp_path_factory.mktemp("models") / "encoder.gguf")
    return path


def vectors_of(out: str) -> np.ndarray:
    return np.array([line.split() for line in out.splitlines()], np.float32)


def test_a_line_a_text(localllm: Run, process: Run, encoder: Path) -> None:
    by_argument = localllm("embed", encoder, *TEXTS)
    assert (by_argument.code, by_argument.error) == (0, "")
    vectors = vectors_of(by_argument.out)
    assert vectors.shape == (3, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    by_line = process("embed", encoder, stdin="\n".join(TEXTS).encode())
    assert (by_line.code, by_line.error) == (0, "")
    assert by_line.out == by_argument.out


def test_a_line_ends_at_its_end_only(localllm: Run, encoder: Path) -> None:
    lines = "one\x0ctwo\r\nthree\u2028four\x85five\n".encode()
    result = localllm("embed", encoder, stdin=lines)
    assert result.error == ""
    assert vectors_of(result.out).shape == (2, WIDTH)


def test_json_is_the_same_numbers(localllm: Run, encoder: Path) -> None:
    document = json.loads(localllm("embed", encoder, *TEXTS, "--json").out)
    vectors = vectors_of(localllm("embed", encoder, *TEXTS).out)
    np.testing.assert_array_equal(np.array(document["embeddings"], np.float32), vectors)
    assert document["pooling"] == "mean"
    assert document["dimensions"] == WIDTH
    assert document["normalized"]
    assert document["tokens"] == [4, 5, 3]
    assert document["model"] == "encoder"


def test_pooling_dimensions_and_raw(localllm: Run, encoder: Path) -> None:
    def ask(*flags: object) -> np.ndarray:
        return vectors_of(localllm("embed", encoder, *TEXTS, *flags).out)

    raw = ask("--raw")
    assert (abs(np.linalg.norm(raw, axis=1) - 1) > 0.01).all()
    whole = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(whole, ask(), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(ask("--raw", "--dimensions", 5), raw[:, :5])
    np.testing.assert_allclose(np.linalg.norm(ask("--dimensions", 5), axis=1), 1, rtol=1e-6)
    assert not np.allclose(ask("--pooling", "cls"), ask("--pooling", "last"))
    np.testing.assert_array_equal(ask("--pooling", "mean"), ask())


def test_many_lines_are_the_lines_alone(localllm: Run, encoder: Path) -> None:
    lines = [TEXTS[number % 3] for number in range(2500)]  # more than go together
    found = vectors_of(localllm("embed", encoder, stdin="\n".join(lines).encode()).out)
    alone = vectors_of(localllm("embed", encoder, *TEXTS).out)
    np.testing.assert_array_equal(found, alone[np.arange(2500) % 3])


def test_a_model_that_answers_embeds_too(localllm: Run, model: Path) -> None:
    assert len(vectors_of(localllm("embed", model, "hello").out)) == 1


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "message"),
    [
        (("a", "--pooling", "max"), "", 2, "--pooling max: must be one of mean, cls, last"),
        (("a", "--dimensions", 0), "", 2, "--dimensions 0: must be >= 1 and <= 48"),
        (("a", "--dimensions", 49), "", 2, "--dimensions 49: must be >= 1 and <= 48"),
        (("a", " "), "", 2, "text 2: is empty"),
        ((), "a\n\nb\n", 2, "line 2: is empty"),
        ((), "", 2, "there is no text"),
        (("a", "a " * 95), "", 1, f"text 2: is 97 tokens long; the context holds {CONTEXT}"),
        (("a", "--ctx", 97), "", 2, f"--ctx 97: this model has {CONTEXT} positions"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    localllm: Run, encoder: Path, arguments: tuple[object, ...], stdin: str, code: int, message: str
) -> None:
    result = localllm("embed", encoder, *arguments, stdin=stdin.encode())
    assert result.code == code
    assert message in result.error
    assert result.error.count("\n") == 1
    assert result.out == ""


@pytest.mark.parametrize("arguments", [("run", "hello"), ("chat",), ("bench",)])
def test_an_answer_is_refused_in_one_line(
    localllm: Run, encoder: Path, arguments: tuple[str, ...]
) -> None:
    command, *rest = arguments
    result = localllm(command, encoder, *rest)
    assert result.code == 2
    assert "encoder.gguf: an embedding model (bert): it generates no text" in result.error
    assert result.error.count("\n") == 1


def test_show_describes_it(localllm: Run, encoder: Path) -> None:
    document = json.loads(localllm("show", encoder, "--json").out)
    assert (document["architecture"], document["width"]) == ("bert", WIDTH)
