"""The `/commands` of a chat."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localllm.decoding.params import GenerationParams
from localllm.errors import LocalLLMError, UsageError

if TYPE_CHECKING:
    from localllm.chat.repl import Repl

Command = Callable[["Repl", str], None]

HELP = '''\
/set [NAME VALUE]   show the parameters, or change one; VALUE default undoes it
/system [TEXT]      show or set the system prompt ("/system -" removes it)
/think [on|off]     ask a reasoning model to think, or not to
/regen              answer the last question again
/undo               take back the last question and its answer
/clear              forget the conversation
/save FILE          write the conversation to a file; /load FILE reads it back
/show [WHAT]        model, system, parameters, template or history
/stats              speed of the last answer, and how full the context is
/bye                leave (also Ctrl+D)
"""                 begins and ends a message of several lines
Ctrl+C              stops an answer'''


def set_parameter(repl: Repl, rest: str) -> None:
    """`/set [parameter] NAME VALUE`; `default` is as the session began, `none` is no wish."""
    words = rest.removeprefix("parameter ").split(None, 1)
    if not words:
        return show_parameters(repl)
    name = words[0].replace("-", "_")
    if name == "system":
        return set_system(repl, words[1] if len(words) > 1 else "")
    names = [field.name for field in dataclasses.fields(GenerationParams)]
    if name in ("ctx", "threads", "kv_type", "device", "kv_cache", "draft", "packed_cache"):
        raise UsageError(f"{words[0]} is set when the model is loaded", "leave and use its flag")
    if name not in names:
        close = [known for known in names if known.startswith(name)]
        close = close or difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names)}"
        raise UsageError(f"no parameter {words[0]!r}", hint)
    if len(words) < 2:
        raise UsageError(f"/set {words[0]} needs a value")
    if words[1].lower() == "default":
        value = getattr(repl.first_params, name)
    elif words[1].lower() == "none":
        value = getattr(GenerationParams(), name)
    else:
        value = _value(name, words[1])
    repl.params = dataclasses.replace(repl.params, **{name: value})
    repl.writer.note(f"{name} = {_shown(getattr(repl.params.resolved(), name))}")


def set_system(repl: Repl, rest: str) -> None:
    """`/system [TEXT]`."""
    if rest:
        repl.conversation.system = None if rest == "-" else rest.strip('"')
    repl.writer.note(f"system prompt: {repl.conversation.system or '(none)'}")


def think(repl: Repl, rest: str) -> None:
    """`/think [on|off]`; alone it turns it over."""
    if not repl.session.can_think:
        raise UsageError("this model's chat template has no switch for thinking")
    choices = {"on": True, "off": False, "": not repl.session.think}
    if rest.lower() not in choices:
        raise UsageError("/think takes on or off")
    repl.session.think = choices[rest.lower()]
    repl.writer.note(f"thinking is {'on' if repl.session.think else 'off'}")


def regenerate(repl: Repl, rest: str) -> None:
    """`/regen`: with a fixed seed the next seed is used, or the answer would be the same."""
    conversation, before = repl.conversation, list(repl.conversation.turns)
    text = conversation.undo()
    if text is None:
        raise UsageError("nothing to answer yet")
    if repl.params.seed is not None:
        repl.params = dataclasses.replace(repl.params, seed=(repl.params.seed + 1) % 2**64)
    kept = len(conversation.turns)
    try:
        repl.ask(text)
    finally:
        if len(conversation.turns) == kept:  # there is no other answer
            conversation.turns[:] = before


def undo(repl: Repl, rest: str) -> None:
    """`/undo`."""
    text = repl.conversation.undo()
    if text is None:
        raise UsageError("nothing to undo")
    first = text.splitlines()[0] if text else ""
    repl.writer.note(f"taken back: {first[:60]}{'…' if len(first) > 60 or text != first else ''}")


def clear(repl: Repl, rest: str) -> None:
    """`/clear`."""
    repl.conversation.clear()
    repl.writer.note("the conversation is forgotten")


def save(repl: Repl, rest: str) -> None:
    """`/save FILE`."""
    path = _path(rest, "/save")
    repl.conversation.save(path, repl.name)
    repl.writer.note(f"saved {len(repl.conversation.turns)} messages to {path}")


def load(repl: Repl, rest: str) -> None:
    """`/load FILE`."""
    path = _path(rest, "/load")
    repl.conversation = type(repl.conversation).load(path)
    repl.writer.note(f"loaded {len(repl.conversation.turns)} messages from {path}")


def show(repl: Repl, rest: str) -> None:
    """`/show [model|system|parameters|template|history]`."""
    template = repl.session.template
    parts: dict[str, Callable[[], None]] = {
        "model": lambda: repl.writer.note(repl.facts),
        "system": lambda: set_system(repl, ""),
        "parameters": lambda: show_parameters(repl),
        "template": lambda: repl.writer.note(template.source if template else "(none)"),
        "history": lambda: _show_history(repl),
    }
    if rest and rest not in parts:
        raise UsageError(f"/show {rest}?", f"there are {', '.join(parts)}")
    for part in [rest] if rest else ["model", "system", "parameters"]:
        parts[part]()


def show_parameters(repl: Repl) -> None:
    """All parameters, presets filled in."""
    resolved = repl.params.resolved()
    pairs = ((f.name, getattr(resolved, f.name)) for f in dataclasses.fields(resolved))
    repl.writer.note("\n".join(f"{name:<18} {_shown(value)}" for name, value in pairs))


def stats(repl: Repl, rest: str) -> None:
    """`/stats`."""
    figures = repl.session.engine.last_stats
    if not figures.prompt_tokens:
        raise UsageError("no answer yet")
    used = figures.prompt_tokens + figures.generated_tokens
    drafts = f"; {figures.accepted_tokens} of {figures.drafted_tokens} drafted tokens were right"
    repl.writer.note(
        f"prompt {figures.prompt_tokens} tokens, {figures.cached_tokens} of them from the cache; "
        f"prefill {_rate(figures.prefill_tokens_per_second)}\n"
        f"answer {figures.generated_tokens} tokens; "
        f"decode {_rate(figures.decode_tokens_per_second)}"
        f"{drafts if figures.drafted_tokens else ''}\n"
        f"context {used:,} of {repl.session.engine.context:,} tokens used"
    )


def leave(repl: Repl, rest: str) -> None:
    """`/bye`."""
    raise EOFError


def show_help(repl: Repl, rest: str) -> None:
    """`/?`."""
    repl.writer.note(HELP)


COMMANDS: dict[str, Command] = {
    "/?": show_help,
    "/bye": leave,
    "/clear": clear,
    "/context": stats,
    "/exit": leave,
    "/help": show_help,
    "/load": load,
    "/quit": leave,
    "/regen": regenerate,
    "/save": save,
    "/set": set_parameter,
    "/show": show,
    "/stats": stats,
    "/system": set_system,
    "/think": think,
    "/undo": undo,
}


def run_command(repl: Repl, line: str) -> None:
    """Run one `/command`; what the user did wrong is said in one line."""
    word, _, rest = line.partition(" ")
    command = COMMANDS.get(word.lower())
    try:
        if command is None:
            close = difflib.get_close_matches(word, COMMANDS, n=1)
            hint = f"did you mean {close[0]}?" if close else "/? lists the commands"
            raise UsageError(f"no command {word}", hint)
        command(repl, rest.strip())
    except LocalLLMError as error:
        repl.writer.error(error)


def _path(rest: str, command: str) -> Path:
    if not rest:
        raise UsageError(f"{command} needs the name of a file")
    try:
        return Path(rest.strip("\"'")).expanduser()
    except RuntimeError:
        raise UsageError(f"{command} {rest}: there is no such home folder") from None


def _value(name: str, text: str) -> Any:
    if name == "stop":
        try:
            plain = text.strip('"')
            escaped = plain.encode("latin-1", "backslashreplace")  # as unicode_escape reads it
            return (escaped.decode("unicode_escape") if "\\" in text else plain,)
        except UnicodeError:
            raise UsageError(f"/set stop {text}: the backslash begins no known escape") from None
    if name == "logit_bias":
        token, _, bias = text.partition("=")
        try:
            return {int(token): float(bias)}
        except ValueError:
            raise UsageError("/set logit_bias takes ID=BIAS") from None
    if name == "ignore_eos":
        if text not in ("true", "false", "on", "off"):
            raise UsageError(f"/set ignore_eos {text}: must be on or off")
        return text in ("true", "on")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _shown(value: Any) -> str:
    return "none" if value is None or value in ((), {}) else str(value)


def _rate(tokens_per_second: float) -> str:
    return f"{tokens_per_second:.1f} tokens/s" if tokens_per_second else "-"


def _show_history(repl: Repl) -> None:
    if not repl.conversation.turns:
        repl.writer.note("(nothing was said yet)")
    for turn in repl.conversation.turns:
        repl.writer.note(f"{turn['role']}: {turn['content']}")
