"""`eval`, `fit` and `report` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from localllm.evaluate import fit, report
from localllm.evaluate.installation import lacking
from localllm.evaluate.speed import FIGURES, SPREAD, Figures
from localllm.evaluate.synthetic import random_model
from tests.cli.conftest import Run

CHUNKS = ("--ctx", 64, "--chunks", 2)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog, and then it rests. " * 40)
    return path


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds that take no time to measure: smaller files are faster."""

    def measure(path: Path, *_: object, **__: object) -> Figures:
        size = path.stat().st_size
        figures = dict(zip(FIGURES, (1e9 / size, 1e8 / size, 0.5, 2.0 * size), strict=True))
        return figures | {SPREAD: 0.05}

    monkeypatch.setattr(report, "measure_speed", measure)
    monkeypatch.setattr(fit, "measure_speed", measure)


def test_eval(localllm: Run, model: Path, text: Path) -> None:
    result = localllm("eval", model, "--data", text, *CHUNKS)
    assert result.code == 0
    assert result.error == ""
    assert "perplexity" in result.out
    assert "KL" not in result.out
    document = json.loads(localllm("eval", model, "--data", text, *CHUNKS, "--json").out)
    assert document["perplexity"] > 1
    assert document["kl_divergence"] is None
    assert document["chunks"] == 2
    assert document["tokens_per_second"] > 0


def test_eval_against_a_base(localllm: Run, model: Path, text: Path) -> None:
    arguments = ("eval", model, "--base", model, "--data", text, *CHUNKS)
    document = json.loads(localllm(*arguments, "--json").out)
    assert {"mean", "median", "p99", "p999", "max"} <= document["kl_divergence"].keys()
    assert document["kl_divergence"]["max"] == 0
    assert document["top1_agreement"] == 1
    shown = localllm(*arguments).out
    assert "same top token" in shown
    assert "100.000 ± 0.000 %" in shown


def test_eval_of_the_shipped_texts(localllm: Run, model: Path) -> None:
    document = json.loads(localllm("eval", model, *CHUNKS, "--json").out)
    assert [one["text"] for one in document["texts"]] == ["prose", "mixed"]
    assert document["chunks"] == 4
    header = localllm("eval", model, *CHUNKS).out.splitlines()[2].split()
    assert header == ["prose", "mixed", "all"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--ctx", 4), "--ctx 4: must be >= 8"),
        (("--chunks", 0), "--chunks 0: must be >= 1"),
        (("--threads", 0), "--threads 0: must be >= 1"),
        (("--data", "gone"), "--data gone: No such file or directory"),
        (("--ctx", 8192), "tokens; 16384 are the least with --ctx 8192"),
        (("--ctx", 10**20), f"are the least with --ctx {10**20}"),
    ],
)
def test_what_eval_refuses(
    localllm: Run,
    model: Path,
    text: Path,
    flags: tuple[object, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("localllm.engine.engine.Engine.load", None)  # nothing is loaded for it
    data = () if "--data" in flags else ("--data", text)
    for command in ("eval", "report"):
        result = localllm(command, model, *data, *flags)
        assert result.code == 2
        assert result.out == ""
        assert message in result.error
        assert len(result.error.splitlines()) == 1


def test_eval_of_another_vocabulary(localllm: Run, model: Path, text: Path, tmp_path: Path) -> None:
    other = random_model(tmp_path / "other.gguf", "llama", vocab=600)
    result = localllm("eval", model, "--base", other, "--data", text, *CHUNKS)
    assert result.code == 2
    assert "has another vocabulary than" in result.error


def test_report_of_files(localllm: Run, text: Path, tmp_path: Path, speed: None) -> None:
    files = [
        random_model(tmp_path / f"m-{name}.gguf", "llama", name) for name in ("Q8_0", "F16", "Q4_0")
    ]
    picture = tmp_path / "p.svg"
    arguments = ("report", *files, "--data", text, *CHUNKS)
    document = json.loads(localllm(*arguments, "--json", "--plot", picture).out)
    assert document["base"] == "F16"
    rows = document["quantisations"]
    assert [row["quantisation"] for row in rows] == ["F16", "Q8_0", "Q4_0"]
    assert rows[0]["kl_divergence"] is None
    for row in rows[1:]:
        assert row["kl_divergence"]["mean"] > 0
        assert row["decode_tokens_per_second"] == 1e8 / row["file_bytes"]
        assert row["predicted"] is None
        assert row["error"] is None
    assert rows[0]["frontier"]
    # random weights of another type are another model: nothing comes close
    assert document["recommendation"]["quantisation"] == "F16"
    assert picture.read_text().startswith("<svg")
    shown = localllm(*arguments).out
    assert "F16 *" in shown
    assert "\nF16: the fastest that stays within" in shown


def test_report_goes_on_where_a_file_cannot_be_measured(
    localllm: Run, text: Path, tmp_path: Path, speed: None
) -> None:
    good = random_model(tmp_path / "m-F16.gguf", "llama", "F16")
    bad = random_model(tmp_path / "m-Q8_0.gguf", "llama", "Q8_0", metadata={"llama.block_count": 9})
    result = localllm("report", good, bad, "--data", text, *CHUNKS, "--json")
    assert result.code == 0
    row = json.loads(result.out)["quantisations"][1]
    assert "blk.2" in row["error"]


def test_report_refuses_a_picture_before_it_measures(localllm: Run, model: Path) -> None:
    result = localllm("report", model, "--plot", "p.png")
    assert result.code == 2
    assert "must be an .svg file" in result.error


def test_report_makes_what_is_not_there(
    localllm: Run, text: Path, tmp_path: Path, speed: None
) -> None:
    source = random_model(tmp_path / "m.gguf", "llama", "F16")
    arguments = ("report", source, "--quant", "Q8_0,Q2_K", "--data", text, *CHUNKS)
    document = json.loads(localllm(*arguments, "--json").out)
    base, fine, coarse = document["quantisations"]
    assert base["path"] == str(source)
    assert fine["path"] is None
    assert 0 < fine["kl_divergence"]["mean"] < coarse["kl_divergence"]["mean"]
    assert [path.name for path in tmp_path.glob("*.gguf")] == ["m.gguf"]


def test_fit_and_report_side_by_side(
    localllm: Run, text: Path, tmp_path: Path, speed: None
) -> None:
    variables = {"XDG_STATE_HOME": str(tmp_path / "state")}
    file = random_model(tmp_path / "m-Q8_0.gguf", "llama", "Q8_0")
    arguments = ("fit", file, "--quant", "Q8_0,q4_0,q8_0,", "--json")
    document = json.loads(localllm(*arguments, **variables).out)
    first, second = document["quantisations"]
    assert (first["quantisation"], second["quantisation"]) == ("Q8_0", "Q4_0")
    assert first["file_bytes"] > second["file_bytes"]
    assert first["fits"]
    assert first["measured"] is None
    assert document["recommendation"]["quantisation"] == "Q8_0"

    found = json.loads(
        localllm("report", file, "--quant", "", "--data", text, *CHUNKS, "--json", **variables).out
    )
    row = found["quantisations"][0]
    for name in FIGURES:
        assert row["predicted"][name] == first[name]
    again = json.loads(localllm(*arguments, **variables).out)["quantisations"][0]
    assert again["measured"] == {name: row[name] for name in FIGURES}
    shown = localllm("fit", file, "--quant", "Q8_0", **variables).out
    assert "predicted from random weights" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such-model",), "no model or file called"),
        (("qwen3-0.6b", "--quant", "Q9_Z"), "Q9_Z"),
        (("qwen3-0.6b", "--quant", ","), "--quant: names no quantisation"),
    ],
)
def test_what_fit_refuses(localllm: Run, arguments: tuple[str, ...], message: str) -> None:
    result = localllm("fit", *arguments)
    assert result.code != 0
    assert message in result.error
    assert len(result.error.splitlines()) == 1


def test_doctor_says_what_is_there_and_what_is_not(
    localllm: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = json.loads(localllm("doctor", "--json").out)
    assert document["versions"]["huggingface-hub"]
    folders = {folder["name"]: folder for folder in document["folders"]}
    assert folders["Hugging Face cache"]["free"] > 0
    assert isinstance(document["gpus"], list)
    monkeypatch.setattr("localllm.evaluate.installation._version", lambda package: None)
    assert {part.install for part in lacking()} >= {"pip install 'localllm[torch]'"}
