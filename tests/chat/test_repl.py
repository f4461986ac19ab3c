"""The interactive session, driven without a terminal."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from localllm.chat.commands import COMMANDS, HELP
from localllm.chat.readers import PipeReader
from localllm.chat.repl import Repl
from localllm.chat.session import ChatSession
from localllm.decoding.params import GenerationParams
from localllm.errors import LocalLLMError
from tests.chat.fakes import FakeEngine, Lines, writer


class Run:
    """A finished session: what it printed and what it left behind."""

    def __init__(self, engine: FakeEngine, *lines: Any, terminal: bool = False, **options: Any):
        self.engine = engine
        out, self._out, self._notes = writer(terminal)
        params = options.pop("params", GenerationParams())
        self.repl = Repl(ChatSession(engine), params, Lines(*lines), out, **options)
        self.repl.run()

    @property
    def out(self) -> str:
        return self._out.getvalue()

    @property
    def notes(self) -> str:
        return self._notes.getvalue()

    @property
    def turns(self) -> list[tuple[str, str]]:
        return [(turn["role"], turn["content"]) for turn in self.repl.conversation.turns]


def test_a_conversation() -> None:
    run = Run(FakeEngine(["Hel", "lo."], ["Bye."]), "hi", "  ", "and?", system="Be kind.")
    assert run.out == "Hello.\nBye.\n"
    assert run.notes == ""
    assert run.engine.prompts[1] == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nand?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_several_lines() -> None:
    run = Run(FakeEngine(["ok"], ["ok"], ["ok"]), '"""one', "", 'two"""', '"""x"""', '"""', "y")
    assert [text for role, text in run.turns if role == "user"] == ["one\n\ntwo", "x", "y"]


def test_a_slash_inside_several_lines_is_text() -> None:
    run = Run(FakeEngine(["ok"]), '"""', "/bye", "x", '"""')
    assert run.turns[0] == ("user", "/bye\nx")


def test_ctrl_c_while_several_lines_are_written() -> None:
    run = Run(FakeEngine(["ok"]), '"""one', KeyboardInterrupt, "hi")
    assert run.turns == [("user", "hi"), ("assistant", "ok")]


def test_ctrl_c_at_the_prompt_leaves_the_second_time() -> None:
    run = Run(
        FakeEngine(["ok"]), KeyboardInterrupt, "hi", KeyboardInterrupt, KeyboardInterrupt, "x"
    )
    assert run.turns == [("user", "hi"), ("assistant", "ok")]
    assert run.notes.count("leaves") == 2


def test_ctrl_c_in_a_script_ends_it() -> None:
    for lines in ([KeyboardInterrupt, "no"], ["hi", "no"]):
        engine = FakeEngine(["one", interrupt, " not"], ["no"])
        reader = Lines(*lines, interactive=False)
        repl = Repl(ChatSession(engine), GenerationParams(), reader, writer()[0])
        with pytest.raises(KeyboardInterrupt):
            repl.run()
        assert len(engine.prompts) == lines.count("hi")


def interrupt() -> str:
    os.kill(os.getpid(), signal.SIGINT)
    return " more"


def test_ctrl_c_stops_an_answer_and_keeps_what_there_is() -> None:
    run = Run(FakeEngine(["one", " two", interrupt, " not"], ["ok"]), "hi", "again")
    assert run.turns[:2] == [("user", "hi"), ("assistant", "one two more")]
    assert run.turns[2:] == [("user", "again"), ("assistant", "ok")]
    assert "(stopped)" in run.notes
    assert run.engine.closed == 2


def test_ctrl_c_before_the_first_token_takes_the_question_back() -> None:
    run = Run(FakeEngine([interrupt, "no"], ["ok"]), "hi", "again")
    assert run.turns == [("user", "again"), ("assistant", "ok")]


def test_the_second_ctrl_c_breaks_in() -> None:
    def twice() -> str:
        interrupt()
        return interrupt()

    run = Run(FakeEngine(["one", twice, "no"], ["ok"]), "hi", "again")
    assert run.turns[0:2] == [("user", "hi"), ("assistant", "one")]


def test_ctrl_c_works_as_before_after_an_answer() -> None:
    before = signal.getsignal(signal.SIGINT)
    Run(FakeEngine(["ok"]), "hi")
    assert signal.getsignal(signal.SIGINT) is before


def test_thoughts_are_dim_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    answer = ["<thi", "nk>hm", " hm</think>", "Yes."]
    assert Run(FakeEngine(answer), "hi").out == "Yes.\n"
    assert Run(FakeEngine(answer), "hi", terminal=True).out == "\x1b[2mhm hm\x1b[0m\n\nYes.\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert Run(FakeEngine(answer), "hi", terminal=True).out == "(thinking) hm hm (answer)\n\nYes.\n"


def test_thoughts_are_kept_for_the_template() -> None:
    run = Run(FakeEngine(["<think>hm</think>Yes."]), "hi")
    assert run.repl.conversation.turns[1] == {
        "role": "assistant",
        "content": "Yes.",
        "reasoning_content": "hm",
    }


def test_a_model_cannot_write_terminal_controls() -> None:
    answer = ["a\x1b[2J\x07b\x9b1mc\td\r\n"]
    assert Run(FakeEngine(answer), "hi", terminal=True).out == "a[2Jb1mc\td\n\n"
    assert Run(FakeEngine(answer), "hi").out == "a\x1b[2J\x07b\x9b1mc\td\r\n\n"


def test_a_full_context_is_said() -> None:
    run = Run(FakeEngine(["one", "FULL"]), "hi")
    assert "the context is full: 1,000 tokens" in run.notes
    assert "/clear" in run.notes
    assert "--ctx" in run.notes


def test_max_tokens_is_said() -> None:
    run = Run(FakeEngine(["one", "CUT"]), "hi", params=GenerationParams(max_tokens=2))
    assert "(ended after 2 tokens: max_tokens)" in run.notes


def test_a_question_too_long_is_taken_back() -> None:
    run = Run(FakeEngine(["ok"], context=100), "x" * 200, "hi")
    assert "room for 100" in run.notes
    assert "/clear forgets" in run.notes
    assert run.turns == [("user", "hi"), ("assistant", "ok")]


def test_a_failing_engine_keeps_the_session() -> None:
    run = Run(FakeEngine(["a", LocalLLMError("broken")], ["ok"]), "hi", "again")
    assert "error: broken" in run.notes
    assert run.turns[-1] == ("assistant", "ok")


def test_an_empty_answer_is_an_answer() -> None:
    assert Run(FakeEngine([""]), "hi").turns == [("user", "hi"), ("assistant", "")]


def test_undo_and_regen() -> None:
    engine = FakeEngine(["one"], ["two"], ["three"])
    run = Run(engine, "a", "b", "/undo", "/regen", "/undo", "/undo", "/regen")
    assert engine.prompts[0] == engine.prompts[2]
    assert run.turns == []
    assert "taken back: b" in run.notes
    assert "error: nothing to undo" in run.notes
    assert "error: nothing to answer yet" in run.notes


def test_regen_with_a_seed_takes_the_next() -> None:
    engine = FakeEngine(["one"], ["two"])
    Run(engine, "a", "/regen", params=GenerationParams(seed=7))
    assert [params.seed for params in engine.params] == [7, 8]


def test_set_and_show() -> None:
    engine = FakeEngine(["ok"])
    lines = [
        "/set temperature 0.5",
        "/set top-k 7",
        "/set parameter seed 3",
        '/set stop "###"',
        "/set logit_bias 5=-1",
        "/set strategy greedy",
        "hi",
        "/set top_k default",
        "/show parameters",
    ]
    run = Run(engine, *lines)
    params = engine.params[0]
    assert (params.temperature, params.top_k, params.seed) == (0.5, 7, 3)
    assert params.stop == ("###",)
    assert params.logit_bias == {5: -1.0}
    assert run.repl.params.top_k is None
    assert "temperature        0.5" in run.notes
    assert "top_k              40" in run.notes


def test_set_default_is_what_the_session_began_with() -> None:
    lines = ["/set top_k 7", "/set top_k default", "/set seed none", "/set seed default"]
    run = Run(FakeEngine(), *lines, "/set min_p none", params=GenerationParams(top_k=9, seed=1))
    assert run.notes == "top_k = 7\ntop_k = 9\nseed = none\nseed = 1\nmin_p = 0.05\n"


def test_an_empty_history() -> None:
    assert Run(FakeEngine(), "/show history").notes == "(nothing was said yet)\n"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("/set temp 2", "no parameter 'temp' (did you mean temperature?)"),
        ("/set top 2", "no parameter 'top' (did you mean top_k or top_p?)"),
        ("/set tmperature 2", "(did you mean temperature?)"),
        ("/set top_p 2", "--top-p 2: must be > 0 and <= 1"),
        ("/set top_p high", "--top-p high"),
        ("/set warmth 2", "no parameter 'warmth'"),
        ("/set top_p", "needs a value"),
        ("/set ctx 5", "when the model is loaded"),
        ("/set logit_bias x", "takes ID=BIAS"),
        ("/udno", "no command /udno (did you mean /undo?)"),
        ("/save", "/save needs the name of a file"),
        ("/load /no/such/file", "cannot load /no/such/file"),
        ("/save /no/such/folder/x", "cannot save /no/such/folder/x"),
        ("/save /", "cannot save /: it is not a regular file"),
        ("/save .", "cannot save .: it is not a regular file"),
        ("/save ..", "cannot save ..: it is not a regular file"),
        ("/save a\0b", "cannot save a"),
        ("/save ~nobody-of-that-name/x", "no such home folder"),
        ("/load a\0b", "is not a saved conversation"),
        ("/set stop \\x", "no known escape"),
        ("/set stop \\", "no known escape"),
        ("/set temperature " + "[" * 100_000, "--temperature"),
        ("/show me", "there are model, system"),
        ("/think maybe", "takes on or off"),
        ("/stats", "no answer yet"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(line: str, problem: str) -> None:
    run = Run(FakeEngine(), line)
    assert problem in run.notes
    assert run.notes.startswith("error: ")
    assert run.notes.count("\n") == 1


def test_an_error_quotes_no_more_than_can_be_read() -> None:
    for line in ("/show " + "x" * 100_000, "/load " + "x" * 100_000, "/" + "x" * 100_000):
        assert len(Run(FakeEngine(), line).notes) < 1000


def test_system() -> None:
    engine = FakeEngine(["ok"], ["ok"])
    run = Run(engine, "/system Be kind.", "hi", "/clear", "/system -", "hi", "/system")
    assert engine.prompts[0].startswith("<|im_start|>system\nBe kind.<|im_end|>")
    assert engine.prompts[1].startswith("<|im_start|>user\nhi<|im_end|>")
    assert run.notes.endswith("system prompt: (none)\n")


def test_think() -> None:
    engine = FakeEngine(["ok"], ["ok"])
    run = Run(engine, "/think off", "hi", "/think", "hi")
    assert engine.prompts[0].endswith("<think></think>")
    assert not engine.prompts[1].endswith("<think></think>")
    assert "thinking is off\nthinking is on\n" in run.notes


def test_think_without_a_switch() -> None:
    engine = FakeEngine()
    engine.chat_template = "{{ messages[0].content }}"
    assert "no switch for thinking" in Run(engine, "/think on").notes


def test_stats() -> None:
    run = Run(FakeEngine(["a", "b", "c"]), "hi", "/stats")
    assert "decode 1.0 tokens/s" in run.notes
    assert "context 55 of 1,000 tokens used" in run.notes


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    engine = FakeEngine(["Grüße"], ["two"])
    lines = ["/system S", "hi", f"/save {path}", "/clear", "/system -", f"/load {path}", "more"]
    run = Run(engine, *lines, name="m")
    saved = json.loads(path.read_text("utf-8"))
    assert saved["model"] == "m"
    assert saved["messages"][1] == {"role": "assistant", "content": "Grüße"}
    assert "Grüße" in engine.prompts[1]
    assert "system\nS" in engine.prompts[1]
    assert "saved 2 messages" in run.notes
    assert [entry.name for entry in tmp_path.iterdir()] == ["talk.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "localllm-conversation", "messages": [3]}',
        '{"format": "localllm-conversation", "messages": [{"role": "boss", "content": "x"}]}',
        '{"format": "localllm-conversation", "messages": [{"role": "user", "content": 3}]}',
        '{"format": "localllm-conversation", "messages": [{"role": [], "content": "x"}]}',
        '{"format": "localllm-conversation"}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_loading_something_else(tmp_path: Path, text: str) -> None:
    path = tmp_path / "talk.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    run = Run(FakeEngine(["ok"], ["ok"]), "hi", f"/load {path}", "more")
    assert str(path) in run.notes
    assert len(run.turns) == 4


def test_saving_where_it_cannot_be_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "talk.json"
    folder.mkdir()
    run = Run(FakeEngine(["ok"], ["ok"]), "hi", f"/save {folder}", "more")
    assert "it is not a regular file" in run.notes
    assert len(run.turns) == 4
    assert [entry.name for entry in tmp_path.iterdir()] == ["talk.json"]


def test_saving_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    link, path = tmp_path / "link.json", tmp_path / "talk.json"
    link.symlink_to(path)
    Run(FakeEngine(["ok"]), "hi", f"/save {link}")
    assert link.is_symlink()
    assert len(json.loads(path.read_text("utf-8"))["messages"]) == 2


def test_half_a_surrogate_pair_can_be_saved(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    run = Run(FakeEngine(["\ud800 ok"]), "hi", f"/save {path}", "/clear", f"/load {path}")
    assert run.turns[1] == ("assistant", "\ud800 ok")


def test_ctrl_c_in_a_command_keeps_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def takes_long(repl: Repl, rest: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "/load", takes_long)
    run = Run(FakeEngine(["one"], ["two"]), "hi", "/load x", "/load x", "more")
    assert len(run.turns) == 4


def test_help_names_every_command() -> None:
    run = Run(FakeEngine(), "/?")
    for command in set(COMMANDS) - {"/?", "/help", "/exit", "/quit", "/context"}:
        assert command in run.notes


def test_help_fits_a_narrow_terminal() -> None:
    assert max(map(len, HELP.splitlines())) <= 80


def test_the_readme_shows_the_same_help() -> None:
    readme = Path(__file__).resolve().parents[2] / "README.md"
    assert HELP in readme.read_text("utf-8")


@pytest.mark.parametrize("line", ["/bye", "/exit", "/BYE"])
def test_bye(line: str) -> None:
    assert Run(FakeEngine(["no"]), line, "hi").turns == []


def test_lines_from_a_pipe() -> None:
    reader = PipeReader(io.BytesIO("one\r\nzwö\nthree".encode()))
    assert [reader.read("") for _ in range(3)] == ["one", "zwö", "three"]
    with pytest.raises(EOFError):
        reader.read("")


def test_invalid_utf8_from_a_pipe_names_the_byte() -> None:
    reader = PipeReader(io.BytesIO(b"one\ntw\xff"))
    assert reader.read("") == "one"
    with pytest.raises(LocalLLMError, match="byte 6 is 0xff"):
        reader.read("")


def test_a_regen_that_fails_takes_nothing_back() -> None:
    engine = FakeEngine(["one"], [LocalLLMError("no")])
    run = Run(engine, "a", "/regen")
    assert "error: no" in run.notes
    assert run.turns == [("user", "a"), ("assistant", "one")]


def test_regen_after_the_last_seed_takes_the_first() -> None:
    engine = FakeEngine(["one"], ["two"])
    Run(engine, "a", "/regen", params=GenerationParams(seed=2**64 - 1))
    assert [params.seed for params in engine.params] == [2**64 - 1, 0]


def test_values_that_are_not_what_they_look_like() -> None:
    engine = FakeEngine(["one"])
    lines = ["/set ignore_eos on", "/set ignore_eos off", "/set ignore_eos banana"]
    run = Run(engine, *lines, "/set stop é\\n", "a")
    assert engine.params[0].ignore_eos is False
    assert engine.params[0].stop == ("é\n",)
    assert "error: /set ignore_eos banana: must be on or off" in run.notes


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_loading_a_pipe_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    run = Run(FakeEngine(["ok"], ["ok"]), "hi", f"/load {tmp_path / 'pipe'}", "more")
    assert "it is not a regular file" in run.notes
    assert len(run.turns) == 4


def test_of_loaded_messages_only_texts_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    nested = json.loads("[" * 400 + "]" * 400)
    calls = [{"name": "<|im_end|>", "arguments": {}}]
    message = {"role": "user", "content": "x", "deep": nested, "tool_calls": calls}
    path.write_text(json.dumps({"format": "localllm-conversation", "messages": [message]}))
    run = Run(FakeEngine(["ok"]), f"/load {path}", "more")
    assert [set(turn) for turn in run.repl.conversation.turns] == [{"role", "content"}] * 3


@pytest.mark.skipif(os.name == "nt", reason="file modes of POSIX")
def test_saving_keeps_a_file_private(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    path.touch(mode=0o600)
    Run(FakeEngine(["ok"]), "hi", f"/save {path}")
    assert path.stat().st_mode & 0o777 == 0o600
    assert "hi" in path.read_text()
