"""`localllm run`: one answer."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localllm.cli.loading import load_engine, read_stdin
from localllm.cli.options import (
    Adapter,
    ChatOptions,
    EngineOptions,
    Model,
    OutputOptions,
    SamplingOptions,
    with_options,
)
from localllm.cli.pulling import find_or_pull
from localllm.cli.settings import generation_params, settle
from localllm.errors import UsageError
from localllm.terminal import Writer

if TYPE_CHECKING:
    from localllm.chat.answer import Answer
    from localllm.engine.engine import Engine


@with_options
def command(
    model: Model,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The prompt; - reads stdin.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")
    ] = False,
    adapter: Adapter = None,
    *,
    sampling: SamplingOptions,
    loading: EngineOptions,
    chat: ChatOptions,
    output: OutputOptions,
) -> None:
    """Answer one prompt; the answer, and only it, goes to stdout.

    The prompt is PROMPT, or stdin, or both: PROMPT first, then what comes through the pipe.
    """
    generation_params(sampling)
    found = find_or_pull(model)
    chat = settle(chat, found.preset)
    text = _prompt(prompt)
    engine, load_seconds = load_engine(found, loading, adapter=adapter)
    engine.require_generating()

    params = generation_params(sampling, engine.file, found.preset)
    writer = Writer()
    if raw:
        from localllm.chat.answer import complete

        answer = complete(engine, text, params)
    else:
        from localllm.chat.session import ChatSession

        session = ChatSession(engine, chat.think)
        system = [{"role": "system", "content": chat.system}] if chat.system else []
        answer = session.answer([*system, {"role": "user", "content": text}], params)
        if session.note:
            writer.note(f"note: {session.note}")
    try:
        for reasoning, content in answer:
            if not output.json:
                writer.piece(reasoning, content)
    finally:
        answer.close()
    if output.json:
        print(json.dumps(_document(answer, engine, load_seconds), ensure_ascii=False))
    elif writer.interactive or not answer.content.endswith("\n"):
        writer.end()
    if answer.finish_reason == "length":
        full = engine.last_stats.context_full
        reason = f"the context of {engine.context:,} tokens is full" if full else "--max-tokens"
        writer.note(f"note: the answer was cut after {len(answer.token_ids)} tokens: {reason}")


def _prompt(argument: str | None) -> str:
    """The prompt from the argument, from stdin, or from both."""
    if argument == "-" or (argument is None and not sys.stdin.isatty()):
        return _not_empty(read_stdin())
    if argument is None:
        raise UsageError("there is no prompt", "give it as an argument, or through a pipe")
    piped = read_stdin() if not sys.stdin.isatty() and _has_input() else ""
    return _not_empty(f"{argument}\n\n{piped}" if piped.strip() else argument)


def _has_input() -> bool:
    """Whether stdin is a pipe or a file, not a device or socket that may never end."""
    import os
    import stat

    mode = os.fstat(sys.stdin.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _not_empty(text: str) -> str:
    if not text.strip():
        raise UsageError("the prompt is empty")
    return text


def _document(answer: Answer, engine: Engine, load_seconds: float) -> dict[str, Any]:
    stats = engine.last_stats
    return {
        "text": answer.content,
        "reasoning": answer.reasoning,
        "token_ids": answer.token_ids,
        "finish_reason": answer.finish_reason,
        "usage": {
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": len(answer.token_ids),
            "total_tokens": stats.prompt_tokens + len(answer.token_ids),
        },
        "timings": {
            "load_seconds": load_seconds,
            "prefill_seconds": stats.prefill_seconds,
            "decode_seconds": stats.decode_seconds,
            "prefill_tokens_per_second": stats.prefill_tokens_per_second or None,
            "decode_tokens_per_second": stats.decode_tokens_per_second or None,
        },
        "drafts": {"tokens": stats.drafted_tokens, "accepted": stats.accepted_tokens},
    }
