"""`localllm chat`: the interactive session."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from localllm.cli.loading import load_engine
from localllm.cli.options import (
    Adapter,
    ChatOptions,
    Debug,
    EngineOptions,
    SamplingOptions,
    with_options,
)
from localllm.cli.pulling import find_or_pull
from localllm.cli.settings import default_model, generation_params, settle
from localllm.hub.folders import state_dir

if TYPE_CHECKING:
    from localllm.engine.engine import Engine
    from localllm.hub.names import LocalModel


@with_options
def command(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Path, catalog name or user/repo[:QUANT]; without one the default model, else the "
            "bundled demonstration.",
        ),
    ] = None,
    adapter: Adapter = None,
    *,
    sampling: SamplingOptions,
    loading: EngineOptions,
    chat: ChatOptions,
    debug: Debug = False,
) -> None:
    """Talk with a model in the terminal.

    Lines from a pipe work too: each is one message, answers go to stdout.
    """
    generation_params(sampling)
    found = find_or_pull(model or default_model())
    chat = settle(chat, found.preset)
    engine, _ = load_engine(found, loading, adapter=adapter)
    engine.require_generating()

    from localllm.chat.commands import COMMANDS
    from localllm.chat.readers import PipeReader, Reader, TerminalReader
    from localllm.chat.repl import Repl
    from localllm.chat.session import ChatSession
    from localllm.terminal import Writer

    session = ChatSession(engine, chat.think)
    writer = Writer()
    facts = _facts(found, engine)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    reader: Reader = (
        TerminalReader(state_dir() / "history", COMMANDS)
        if terminal
        else PipeReader(sys.stdin.buffer)
    )
    if terminal:
        writer.note(facts)
        demonstration = "A small demonstration: often wrong. "
        writer.note((demonstration if found.bundled else "") + "/? lists commands, Ctrl+D leaves.")
    if session.note:
        writer.note(f"note: {session.note}")
    Repl(
        session,
        generation_params(sampling, engine.file, found.preset),
        reader,
        writer,
        name=found.name,
        facts=facts,
        system=chat.system,
    ).run()


def _facts(model: LocalModel, engine: Engine) -> str:
    from localllm.engine.machine import kernels
    from localllm.hub.facts import describe

    return (
        f"{model.name}: {describe(engine.file)}; context {engine.context:,} tokens; "
        f"{kernels()} kernels"
    )
