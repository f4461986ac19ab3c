"""A chat in a real terminal."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import CODE

pexpect = pytest.importorskip("pexpect")

CTRL_C, CTRL_D = "\x03", "\x04"


@pytest.fixture
def chat(environment: dict[str, str], model: Path, endless: list[str]) -> Iterator[Any]:
    child = pexpect.spawn(
        sys.executable,
        ["-c", CODE, "chat", str(model), "--seed", "1", "--ctx", "4096", *endless],
        env=environment | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
        encoding="utf-8",
        codec_errors="replace",
        timeout=60,
        dimensions=(40, 100),
    )
    child.expect("parameters, Q8_0")
    child.expect("lists commands")
    child.expect(">>>")
    yield child
    child.close(force=True)


def say(chat: Any, line: str) -> None:
    chat.send(line + "\r")


def test_a_session(chat: Any) -> None:
    say(chat, "/set max_tokens 5")
    chat.expect("max_tokens = 5")
    say(chat, '"""one')
    chat.expect(r"\.\.\.")
    say(chat, 'two"""')
    chat.expect("ended after 5 tokens")
    say(chat, "/stats")
    chat.expect("of 4,096 tokens used")
    say(chat, "/undo")
    chat.expect("taken back: one")
    say(chat, "/bye")
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0


def test_ctrl_c_stops_the_answer_and_keeps_the_session(chat: Any) -> None:
    say(chat, "hello")
    chat.expect("hello.*2004l")  # the line is read; what follows is the answer
    chat.expect(r"\w\w\w")
    chat.send(CTRL_C)
    chat.expect(r"\(stopped\)")
    chat.expect(">>>")
    chat.send(CTRL_C)
    chat.expect("Ctrl.C again")
    say(chat, "/show history")
    chat.expect("history: hello|user: hello")
    chat.send(CTRL_D)
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0


def test_ctrl_c_twice_leaves(chat: Any) -> None:
    chat.send(CTRL_C)
    chat.expect("Ctrl.C again")
    chat.send(CTRL_C)
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0


def test_ctrl_c_in_a_script_is_not_success(environment: dict[str, str], model: Path) -> None:
    chat = subprocess.Popen(
        [sys.executable, "-c", CODE, "chat", str(model)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert chat.stdin is not None
    assert chat.stderr is not None
    chat.stdin.write(b"/system\n")
    chat.stdin.flush()
    while b"(none)" not in chat.stderr.readline():
        pass
    chat.send_signal(signal.SIGINT)
    _, notes = chat.communicate(timeout=60)
    assert chat.returncode == 130
    assert notes == b""


def test_completion(chat: Any) -> None:
    chat.send("/sta\t")
    chat.expect("/sta.*ts")
    chat.send("\r")
    chat.expect("error: no answer yet")
    chat.send(CTRL_D)
    chat.expect(pexpect.EOF)


def test_a_prompt_is_needed(environment: dict[str, str], model: Path) -> None:
    child = pexpect.spawn(
        sys.executable, ["-c", CODE, "run", str(model)], env=environment, timeout=60
    )
    child.expect("error: there is no prompt")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 2


def test_doctor_says_what_it_waits_for(environment: dict[str, str]) -> None:
    child = pexpect.spawn(
        sys.executable,
        ["-c", CODE, "doctor"],
        env=environment,
        encoding="utf-8",
        timeout=60,
    )
    child.expect("measuring memory and cores")
    child.expect(r"\r +\r.*version")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
