"""`localllm bench` as a user runs it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cli.conftest import Run

QUICK = ("--prefill", 8, "--decode", 2, "--repetitions", 1, "--threads", 1)


def test_the_table(localllm: Run, model: Path) -> None:
    result = localllm("bench", model, *QUICK, "--batch", "1,2", "--plot", "-")
    assert (result.code, result.error) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].startswith("random-Q8_0, ")
    assert lines[1].startswith("1 thread, ")
    assert lines[1].endswith(" kernels, KV cache f16")
    assert [line.split("  ")[0] for line in lines[5:8]] == [
        "prefill 8",
        "decode 2",
        "decode 2, batch 2",
    ]
    assert "decode, tokens/s (longer is better)" in lines


def test_json_and_a_picture(localllm: Run, model: Path, tmp_path: Path) -> None:
    picture = tmp_path / "bars.svg"
    result = localllm("bench", model, *QUICK, "--json", "--plot", picture)
    assert (result.code, result.error) == (0, "")
    report = json.loads(result.out)
    assert report["prefill_tokens_per_second"] > 0
    assert picture.read_text(encoding="utf-8").startswith("<svg ")


def test_a_name_that_is_no_text(localllm: Run, model: Path, tmp_path: Path) -> None:
    link = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\x1b[31m\n\xff.gguf"))
    try:
        link.symlink_to(model)
    except OSError:
        pytest.skip("names are text here")
    result = localllm("bench", link, *QUICK, "--plot", "bars.svg")
    assert (result.code, result.error) == (0, "")
    assert result.out.startswith("a[31m \\udcff, ")
    root = ElementTree.parse(tmp_path / "bars.svg").getroot()
    assert root.findtext("{http://www.w3.org/2000/svg}text") == "a[31m \\udcff"


def test_a_picture_that_cannot_be_written(
    localllm: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "bars.svg").write_text("before")
    monkeypatch.setattr(Path, "replace", fail)
    result = localllm("bench", model, *QUICK, "--plot", "bars.svg")
    assert result.code == 1
    assert result.error == ("error: --plot bars.svg: cannot be written: No space left on device\n")
    assert result.out
    assert (tmp_path / "bars.svg").read_text() == "before"
    assert not list(tmp_path.glob("*.part"))


def test_settings(localllm: Run, model: Path, tmp_path: Path) -> None:
    """Those of the environment and of the file count here too; flags come first."""
    config = tmp_path / "config.toml"
    config.write_text("threads = 2\nkv-type = 'int8'\n")
    arguments = ("bench", model, "--prefill", 4, "--decode", 1, "--repetitions", 1, "--json")

    def settings(*flags: object, **variables: str) -> tuple[int, str]:
        result = localllm(*arguments, *flags, LOCALLLM_CONFIG=str(config), **variables)
        report = json.loads(result.out)
        return report["threads"], report["kv_type"]

    assert settings() == (2, "int8")
    assert settings(LOCALLLM_THREADS="1") == (1, "int8")
    assert settings("--kv-type", "f16", LOCALLLM_THREADS="3", LOCALLLM_KV_TYPE="int8") == (3, "f16")


def test_synthetic(localllm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import localllm.evaluate.bench as bench
    from localllm.evaluate.synthetic import random_model

    def small_model(path: Path, entry: object, quantisation: str) -> Path:
        return random_model(path, "llama", quantisation)

    monkeypatch.setattr(bench, "catalog_model", small_model)
    arguments = ("bench", "--synthetic", "qwen3-0.6b", "--quant", "Q8_0", *QUICK)
    result = localllm(*arguments)
    assert (result.code, result.error) == (0, "")
    assert result.out.startswith("qwen3-0.6b Q8_0 (random weights), ")
    report = json.loads(localllm(*arguments, "--startup", "--json").out)
    assert [row["start"] for row in report["startup"]] == ["first", "second"]
    assert (report["model"], report["quantisation"]) == ("qwen3-0.6b", "Q8_0")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--plot", "bars.png"], "--plot bars.png: must be an .svg file"),
        (["--plot", "none/bars.svg"], "--plot none/bars.svg: there is no folder none"),
        (["--plot", "/dev/full/bars.svg"], "--plot /dev/full/bars.svg: there is no folder"),
        (["--plot", "-", "--json"], "--plot - and --json both write to stdout"),
        (["--quant", "Q8_0"], "--quant Q8_0: "),
        (["--kv-type", "f8"], "--kv-type f8"),
        (["--threads", "0"], "--threads 0"),
    ],
)
def test_what_cannot_be(localllm: Run, model: Path, arguments: list[str], problem: str) -> None:
    result = localllm("bench", model, *arguments)
    assert (result.code, result.out) == (2, "")
    assert result.error.startswith(f"error: {problem}")
