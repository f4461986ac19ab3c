"""What the commands print."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from localllm import __version__
from localllm.cli import app
from localllm.cli.doctor import _rates
from localllm.engine.machine import default_threads
from localllm.evaluate.machine_rates import Barrier, DotRate, MachineRates, MemoryRate
from tests.cli.conftest import Run
from tests.models.adapting import random_pairs, write_adapter


def test_help_names_every_command(process: Run, localllm: Run) -> None:
    result = process("--help")
    assert result.code == 0
    assert result.error == ""
    for name in app.COMMANDS:
        assert f"\n  {name} " in result.out
    assert localllm("-h").out == localllm("--help").out


def test_the_same_help_with_other_arguments(localllm: Run) -> None:
    assert localllm("--help", "chat").out == localllm("--help").out


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert app.COMMANDS[name] in text
    assert ("--json" in text) == (name not in ("chat", "serve"))
    assert "--debug" in text


def test_the_package_is_the_command() -> None:
    command = [sys.executable, "-m", "localllm", "--version"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"localllm {__version__}\n", "")


def test_version(localllm: Run) -> None:
    assert localllm("--version").out.startswith("localllm 0.")


def test_run_prints_the_answer_and_nothing_else(
    process: Run, localllm: Run, model: Path, endless: list[str]
) -> None:
    flags = ("--max-tokens", 8, "--seed", 1, *endless)
    result = process("run", model, "hello", *flags)
    assert result.code == 0
    document = json.loads(localllm("run", model, "hello", *flags, "--json").out)
    assert result.out.removesuffix("\n") == document["text"].removesuffix("\n")
    assert result.error == "note: the answer was cut after 8 tokens: --max-tokens\n"


def test_run_json(localllm: Run, model: Path, endless: list[str]) -> None:
    flags = ["--max-tokens", "8", "--temperature", "0", "--json", *endless]
    arguments = ["run", model, "hello", *flags]
    document = json.loads(localllm(*arguments).out)
    assert len(document["token_ids"]) == 8
    assert document["finish_reason"] == "length"
    usage = document["usage"]
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8
    timings = document["timings"]
    for part in ("prefill", "decode", "load"):
        assert timings[f"{part}_seconds"] > 0
    assert timings["decode_tokens_per_second"] > 0
    assert json.loads(localllm(*arguments).out)["token_ids"] == document["token_ids"]
    assert (
        json.loads(localllm(*arguments, "--no-kv-cache").out)["token_ids"] == document["token_ids"]
    )


def test_run_takes_the_prompt_from_stdin_too(localllm: Run, model: Path) -> None:
    flags = ("--max-tokens", 4, "--seed", 1, "--raw", "--json")

    def prompt_tokens(*arguments: object, stdin: bytes = b"") -> int:
        out = localllm("run", model, *arguments, *flags, stdin=stdin).out
        return int(json.loads(out)["usage"]["prompt_tokens"])

    alone = prompt_tokens("ab")
    assert prompt_tokens(stdin=b"ab") == alone
    assert prompt_tokens("-", stdin=b"ab") == alone
    assert prompt_tokens("ab", stdin=b"cd") == prompt_tokens("ab\n\ncd") > alone


def test_run_with_an_adapter(localllm: Run, model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a.gguf", random_pairs(model), "qwen3")
    flags = ["--raw", "--temperature", "0", "--max-tokens", "8"]
    plain = localllm("run", model, "Hello", *flags)
    adapted = localllm("run", model, "Hello", *flags, "--adapter", adapter)
    assert adapted.code == 0
    assert adapted.out != plain.out
    other = write_adapter(tmp_path / "b.gguf", random_pairs(model), "llama")
    refused = localllm("run", model, "Hello", *flags, "--adapter", other)
    assert refused.code == 1
    assert "b.gguf: general.architecture: 'llama', expected 'qwen3'" in refused.error
    assert len(refused.error.splitlines()) == 1


def test_run_says_that_the_context_is_full(localllm: Run, model: Path, endless: list[str]) -> None:
    result = localllm("run", model, "hello", "--seed", 1, *endless)
    assert "the context of 256 tokens is full" in result.error
    assert result.code == 0


@pytest.mark.parametrize("arguments", [["run", "hi"], ["run", "hi", "--json"], ["chat"]])
def test_what_the_engine_has_to_say_is_said(
    process: Run, model: Path, arguments: list[str]
) -> None:
    name, *rest = arguments
    result = process(name, model, *rest, "--ctx", 300, "--max-tokens", 2)
    assert result.error.startswith("note: --ctx 300 is more than the 256 tokens")
    assert "--ctx" not in result.out


def test_tokenize(localllm: Run, model: Path) -> None:
    text = "the fox <|im_end|> 😀"
    plain = json.loads(localllm("tokenize", model, text, "--json").out)
    piped = json.loads(localllm("tokenize", model, "--stdin", "--json", stdin=text.encode()).out)
    assert plain == piped
    assert len(plain["ids"]) == len(plain["pieces"])
    special = json.loads(localllm("tokenize", model, text, "--parse-special", "--json").out)
    assert "<|im_end|>" in special["pieces"]
    assert "<|im_end|>" not in plain["pieces"]
    assert len(localllm("tokenize", model, text).out.splitlines()) == len(plain["ids"])


def test_show(localllm: Run, model: Path) -> None:
    text = localllm("show", model, "--tensors").out
    assert "qwen3" in text
    assert "blk.0.attn_q.weight" in text
    document = json.loads(localllm("show", model, "--json").out)
    assert document["architecture"] == "qwen3"
    assert document["quantisation"] == "Q8_0"
    assert document["context"] == 256
    assert document["chat_template"]
    assert "tensors" not in document
    assert json.loads(localllm("show", model, "--tensors", "--json").out)["tensors"]


def test_list(process: Run, tmp_path: Path) -> None:
    folder = tmp_path / "models--a--b" / "snapshots" / "1"
    folder.mkdir(parents=True)
    (folder / "m-Q8_0.gguf").write_bytes(b"GGUF")
    # in processes of their own: huggingface_hub reads its variables once
    cache = {"HF_HUB_CACHE": str(tmp_path)}
    text = process("list", **cache).out
    assert "a/b:Q8_0" in text
    assert "llama-3.2-1b" in text
    assert "llama-3.2-1b" not in process("list", "--here", **cache).out
    document = json.loads(process("list", "--json", **cache).out)
    assert document["local"][0]["bytes"] == 4
    assert len(document["catalog"]) >= 25


def test_doctor(localllm: Run) -> None:
    text = localllm("doctor")
    assert "kernels" in text.out
    assert re.search(r"memory read +\d+\.\d GB/s on 1 thread \(", text.out)
    assert re.search(r"dot products +int8 \d", text.out)
    assert text.error == ""
    document = json.loads(localllm("doctor", "--json").out)
    assert document["memory_total"] > document["memory_available"] > 0
    assert document["cores"] == default_threads()
    rates = document["rates"]
    assert rates["threads"] == document["cores"]
    assert rates["memory"][0]["best"] >= rates["memory"][0]["median"] > 0
    assert rates["dots"][0]["rate"] > 0


def test_doctor_names_int8_products_first() -> None:
    kinds = [("bf16", "avx512bf16", 3e12), ("float32", "avx2", 1e12), ("int8", "avx2", 2e12)]
    dots = tuple(DotRate(isa, type, 256, rate) for type, isa, rate in kinds)
    memory = (MemoryRate(1, 1, False, False, 1e9, 1e9),)
    rates = MachineRates(1, memory, 0, 0, dots, (Barrier(1, 0.0),))
    assert [text for _, text in _rates(rates)][1:] == [
        "int8 2.000, float32 1.000 Top/s a core (avx2, 256 bits)",
        "bf16 3.000 Top/s a core (avx512bf16, 256 bits)",
    ]


def test_chat_from_a_pipe(process: Run, model: Path) -> None:
    lines = b'/set max_tokens 4\nhello\n"""one\ntwo"""\n/undo\n/show history\n'
    result = process("chat", model, "--seed", 1, stdin=lines)
    assert result.code == 0
    assert "max_tokens = 4" in result.error
    assert "taken back: one" in result.error
    assert "user: hello" in result.error
    assert ">>>" not in result.out
    assert "lists commands" not in result.error


def test_settings_order(localllm: Run, model: Path, endless: list[str], tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("max_tokens = 5\nkv-type = 'int8'\nstop = ['zzz']\n")
    arguments = ["run", model, "hello", "--seed", "1", "--json", *endless]

    def count(*more: object, **variables: str) -> int:
        out = localllm(*arguments, *more, LOCALLLM_CONFIG=str(config), **variables).out
        return len(json.loads(out)["token_ids"])

    assert count() == 5
    assert count(LOCALLLM_MAX_TOKENS="4") == 4
    assert count("--max-tokens", 3, LOCALLLM_MAX_TOKENS="4") == 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("max_tokns = 5", "unknown setting 'max_tokns' (did you mean max_tokens?)"),
        ("max_tokens = 'many'", "max_tokens must be a whole number, not 'many'"),
        ("max_tokens = ", "config.toml"),
        ("top_p = 2", "--top-p 2.0"),
    ],
)
def test_a_wrong_config_is_named(
    localllm: Run, model: Path, tmp_path: Path, text: str, problem: str
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    result = localllm("run", model, "hello", LOCALLLM_CONFIG=str(config))
    assert result.code == 2
    assert problem in result.error
    assert result.error.count("\n") == 1


def test_a_wrong_variable_is_named(localllm: Run, model: Path) -> None:
    result = localllm("run", model, "hello", LOCALLLM_TOP_K="many")
    assert result.code == 2
    assert "LOCALLLM_TOP_K must be a whole number, not 'many'" in result.error
