"""Bad input: one clear line on stderr, an honest exit code, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from localllm.cli import app
from localllm.errors import LocalLLMError, UsageError
from tests.cli.conftest import CODE, Run


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["run", "./none.gguf", "hi"], 1, "no such file: ./none.gguf"),
        (["chat", "./none.gguf"], 1, "no such file: ./none.gguf"),
        (["show", "/"], 1, "/ is a directory, not a GGUF file"),
        (["run", "lama-3.2-1b", "hi"], 1, "did you mean llama-3.2-1b"),
        (["run", "llama-3.2-1b", "hi"], 1, "llama-3.2-1b is not here"),
        (["run", "a/b:Q4_K_M", "hi"], 1, "a/b:Q4_K_M is not here"),
        (["run"], 2, "MODEL"),
        (["run", "MODEL"], 2, "the prompt is empty"),
        (["run", "MODEL", "  "], 2, "the prompt is empty"),
        (["run", "MODEL", "hi", "--top-p", "2"], 2, "--top-p 2.0: must be > 0 and <= 1"),
        (["run", "MODEL", "hi", "--top-p", "x"], 2, "--top-p"),
        (["run", "MODEL", "hi", "--temperature", "-1"], 2, "--temperature"),
        (["run", "MODEL", "hi", "--max-tokens", "0"], 2, "--max-tokens"),
        (["run", "MODEL", "hi", "--strategy", "magic"], 2, "--strategy magic"),
        (["run", "MODEL", "hi", "--sampler-order", "x"], 2, "--sampler-order x"),
        (["run", "MODEL", "hi", "--repeat-penalty", "1e300"], 2, "--repeat-penalty 1e+300: must"),
        (["run", "MODEL", "hi", "--repeat-penalty", "1e-300"], 2, "--repeat-penalty 1e-300: must"),
        (["run", "MODEL", "hi", "--logit-bias", "x=1"], 2, "--logit-bias 'x=1'"),
        (["run", "MODEL", "hi", "--logit-bias", "99999=1"], 2, "--logit-bias"),
        (["run", "MODEL", "hi", "--kv-type", "f8"], 2, "--kv-type f8"),
        (["run", "MODEL", "hi", "--ctx", "0"], 2, "--ctx"),
        (["run", "MODEL", "hi", "--threads", "0"], 2, "--threads"),
        (["run", "MODEL", "hi", "--warmth", "1"], 2, "--warmth"),
        (["run", "MODEL", "word " * 2000], 1, "the context holds 256"),
        (["chat", "MODEL", "--json"], 2, "No such option: --json"),
        (["tokenize", "MODEL"], 2, "give either TEXT or --stdin"),
        (["tokenize", "MODEL", "x", "--stdin"], 2, "give either TEXT or --stdin"),
        (["bench"], 2, "give either MODEL or --synthetic"),
        (["bench", "MODEL", "--batch", "1,x"], 2, "--batch 1,x"),
        (["chta"], 2, "did you mean chat?"),
        (["--colour"], 2, "--colour"),
    ],
)
def test_one_line(
    localllm: Run, model: Path, arguments: list[str], code: int, problem: str
) -> None:
    arguments = [str(model) if argument == "MODEL" else argument for argument in arguments]
    result = localllm(*arguments)
    assert problem in result.error
    assert result.code == code
    assert result.error.startswith("error: ")
    assert result.error.count("\n") == 1
    assert result.out == ""


def test_a_setting_for_kernels_that_are_not_there(process: Run, model: Path) -> None:
    for arguments in (
        ["run", model, "hi"],
        ["doctor"],
        ["bench", model],
        ["bench", "--synthetic", "qwen3-0.6b"],
    ):
        result = process(*arguments, LOCALLLM_ISA="nonsense")
        assert result.code == 2
        assert result.error.startswith("error: LOCALLLM_ISA=nonsense")
        assert result.error.count("\n") == 1


def test_a_home_that_is_no_folder(localllm: Run, model: Path) -> None:
    result = localllm("chat", model, HOME="/dev/null", XDG_CONFIG_HOME="", XDG_STATE_HOME="")
    assert (result.code, result.error) == (0, "")


def test_a_home_of_nobody(localllm: Run) -> None:
    result = localllm("show", "~nobody-of-that-name/x.gguf")
    assert result.code == 1
    assert result.error.startswith("error: no such file: ~nobody-of-that-name/x.gguf")


@pytest.mark.parametrize("text", ["seed = " + "1" * 5000, "a = " + "[" * 3000])
def test_a_config_beyond_the_parser(localllm: Run, model: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    result = localllm("run", model, "hi", LOCALLLM_CONFIG=str(path))
    assert result.code == 2
    assert result.error.startswith(f"error: {path}: ")
    assert result.error.count("\n") == 1


def test_a_config_that_is_no_file(localllm: Run, model: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    if hasattr(os, "mkfifo"):
        os.mkfifo(fifo)
    else:
        fifo.mkdir()
    for path, problem in [
        (tmp_path / "none.toml", "LOCALLLM_CONFIG: no such file: "),
        (fifo, f"{fifo}: not a regular file"),
        (tmp_path, f"{tmp_path}: not a regular file"),
    ]:
        result = localllm("run", model, "hi", LOCALLLM_CONFIG=str(path))
        assert result.code == 2
        assert result.error.startswith(f"error: {problem}")
        assert result.error.count("\n") == 1


def test_an_empty_config(localllm: Run, model: Path) -> None:
    result = localllm("run", model, "hi", "--max-tokens", 1, LOCALLLM_CONFIG=os.devnull)
    assert result.code == 0


def test_an_error_holds_no_terminal_controls(localllm: Run) -> None:
    result = localllm("show", "./\x1b[31mred\x07.gguf")
    assert result.error.startswith("error: no such file: ./[31mred.gguf")


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "./" + "x" * 100_000],
        ["show", "./" + "no such file " * 10_000],
        ["run", "./none.gguf", "hi", "--strategy", "x" * 100_000],
        ["run", "./none.gguf", "hi", "--top-k", "9" * 100_000],
        ["x" * 100_000],
    ],
)
def test_an_error_quotes_no_more_than_can_be_read(localllm: Run, arguments: list[str]) -> None:
    result = localllm(*arguments)
    assert result.error.startswith("error: ")
    assert result.error.count("\n") == 1
    assert len(result.error) < 1000


@pytest.mark.skipif(sys.platform == "win32", reason="shell of POSIX")
@pytest.mark.parametrize(
    ("arguments", "redirection", "code"),
    [
        ("list", "<&-", 0),
        ("list", ">&-", 0),
        ("list", "2>&-", 0),
        ("list", "<&- >&- 2>&-", 0),
        ("show ./none.gguf", "2>&-", 1),
        ("run tiny-chat", "<&-", 2),
        ("tokenize tiny-chat --stdin", "<&-", 0),
    ],
)
def test_closed_streams(
    environment: dict[str, str], arguments: str, redirection: str, code: int
) -> None:
    command = f'"{sys.executable}" -c "{CODE}" {arguments} {redirection}'
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, timeout=120)
    assert done.returncode == code
    assert b"bug" not in done.stderr
    assert done.stderr.count(b"\n") <= 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [["list"], ["--help"], ["--version"]])
def test_no_room_for_the_output(environment: dict[str, str], arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", CODE, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment,
            timeout=120,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: the output cannot be written: ")
    assert done.stderr.count(b"\n") == 1


def test_an_output_that_is_not_unicode(process: Run, model: Path, tmp_path: Path) -> None:
    link = tmp_path / "caf\u00e9.gguf"
    link.symlink_to(model)
    result = process("show", link, PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C.UTF-8")
    assert result.code == 0
    assert "caf\\xe9.gguf" in result.out


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes")
def test_json_of_a_name_that_is_no_text(process: Run, model: Path, tmp_path: Path) -> None:
    link = tmp_path / os.fsdecode(b"caf\xe9.gguf")
    link.symlink_to(model)
    result = process("show", link, "--json", LC_ALL="C")  # where Python would print any byte
    assert result.code == 0
    assert json.loads(result.out)["path"] == str(link)


def test_not_a_gguf(localllm: Run, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    for content in (b"", b"GGU", b"text, not a model\n", b"GGUF\3\0\0\0" + b"\xff" * 16):
        path.write_bytes(content)
        result = localllm("run", path, "hi")
        assert result.code == 1
        assert result.error.startswith("error: ")
        assert str(path) in result.error
        assert result.error.count("\n") == 1


@pytest.mark.parametrize("command", [["run", "MODEL"], ["tokenize", "MODEL", "--stdin"]])
def test_invalid_utf8_names_the_byte(localllm: Run, model: Path, command: list[str]) -> None:
    arguments = [str(model) if argument == "MODEL" else argument for argument in command]
    result = localllm(*arguments, stdin="naïve ".encode() + b"\xff\xfe")
    assert result.code == 1
    assert "byte 7 is 0xff" in result.error
    assert result.error.count("\n") == 1


def test_a_bug_is_called_a_bug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localllm.cli.doctor._facts", lambda: 1 // 0)
    monkeypatch.delenv("LOCALLLM_DEBUG", raising=False)
    assert app.run(["doctor"]) == 1
    error = capsys.readouterr().err
    assert "ZeroDivisionError" in error
    assert "a bug in localllm" in error
    assert "--debug" in error
    assert error.count("\n") == 1


def test_debug_shows_the_traceback(process: Run) -> None:
    result = process("show", "./none.gguf", "--debug")
    assert "Traceback" in result.error
    assert result.code == 1


def test_in_a_process_of_its_own(process: Run, model: Path) -> None:
    for arguments, stdin, code, problem in [
        (["run", "./none.gguf", "hi"], b"", 1, "error: no such file: ./none.gguf"),
        (["run", str(model), "hi", "--top-p", "2"], b"", 2, "error: --top-p 2.0: must be > 0"),
        (["run", str(model)], b"\xff", 1, "error: stdin is not valid UTF-8: byte 0 is 0xff"),
        (["chta"], b"", 2, "error: no command 'chta' (did you mean chat?)"),
    ]:
        result = process(*arguments, stdin=stdin)
        assert result.code == code
        assert result.error.startswith(problem)
        assert result.error.count("\n") == 1
        assert result.out == ""


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (LocalLLMError("a\nb", "c"), 1, "error: a b (c)\n"),
        (UsageError("a"), 2, "error: a\n"),
        (MemoryError(), 1, "error: out of memory"),
        (PermissionError(13, "Permission denied", "x.gguf"), 1, "error: x.gguf: Permission denied"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_exit_codes(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    text: str,
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.delenv("LOCALLLM_DEBUG", raising=False)
    monkeypatch.setattr("localllm.cli.app._close_stdout", lambda: None)
    monkeypatch.setattr("localllm.cli.doctor._facts", fail)
    assert app.run(["doctor"]) == code
    assert capsys.readouterr().err.startswith(text)


INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

import localllm.cli  # an editable install imports modules of its own to find the package
modules = set(sys.modules)
sys.meta_path.insert(0, Interrupts())
from localllm.cli.app import main
early = {name.partition(".")[0] for name in set(sys.modules) - modules} - {"localllm"}
assert early <= {"__future__", "errno", "gc"}, early  # what Ctrl+C could not be caught in
main(sys.argv[2:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    "module",
    [
        *("typer", "localllm.errors", "localllm.cli.root", "localllm.cli.settings"),
        *("localllm.cli.run", "numpy", "localllm._native", "localllm.engine.engine", "jinja2"),
    ],
)
def test_ctrl_c_while_modules_are_imported(
    environment: dict[str, str], model: Path, module: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, module, "run", str(model), "hi"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


ENDED = """
import os, signal, sys
from pathlib import Path
import localllm.evaluate.bench as bench
from localllm.cli.app import main

def end(path, entry, quantisation):
    path.write_bytes(b"weights")
    print(path, flush=True)
    for number in signal.SIGTERM, signal.SIGHUP:
        os.kill(os.getpid(), number)

bench.catalog_model = end
main(["bench", "--synthetic", "qwen3-0.6b"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_what_is_ended_cleans_up(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDED], capture_output=True, env=environment, timeout=120
    )
    assert (done.returncode, done.stderr) == (128 + 15, b"")
    assert not Path(os.fsdecode(done.stdout.strip())).parent.exists()


def test_a_closed_pipe_is_quiet(environment: dict[str, str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", CODE, "list"], stdout=write, stderr=subprocess.PIPE, env=environment
    )
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == 1
