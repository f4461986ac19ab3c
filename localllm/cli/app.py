"""The `localllm` command: runs the command line, turns every failure into one line.

What takes time to import is imported in `run`, which knows what to do about Ctrl+C.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from io import TextIOWrapper

from localllm import __version__

# Name -> one line of help. The module localllm.cli.<name> is imported when it is asked for.
COMMANDS = {
    "chat": "Talk with a model in the terminal.",
    "run": "Answer one prompt; the answer, and only it, goes to stdout.",
    "serve": "Serve models to other programs, the way OpenAI does.",
    "ps": "Show the models of the running servers.",
    "stop": "Unload a model of a running server; without MODEL, end the server.",
    "pull": "Download a model into the Hugging Face cache.",
    "list": "List the catalog, your aliases, and the models on this machine.",
    "show": "Describe a model file.",
    "rm": "Remove a model from this machine.",
    "alias": "Give a model a short name, or list those given.",
    "fit": "Predict the speed and memory of a model that need not be here.",
    "convert": "Make a model file of a checkpoint folder.",
    "quantize": "Store a model's weights in fewer bits.",
    "imatrix": "Measure how much each column of a model's weights matters, for quantising.",
    "eval": "Measure a model's perplexity, and how far it is from a base model.",
    "report": "Measure a model's quantisations, and say which one to take.",
    "bench": "Measure the speed of a model on this machine.",
    "embed": "Turn texts into vectors.",
    "tokenize": "Show how a model splits a text into tokens.",
    "cache": "Show or clear the packed weights kept on disk.",
    "doctor": "Describe this machine, and what of it is used.",
}

HELP = f"""\
Usage: localllm [OPTIONS] COMMAND [ARGS]...

  Run language models on the machine you have.

  MODEL is a path to a GGUF file, a name from `localllm list`, or user/repo[:QUANT]
  from the Hugging Face cache; tiny-chat is the demonstration that comes with the
  program, which `localllm chat` opens where no MODEL is given or configured.

Options:
  --version  Show the version and exit.
  --help     Show this message and exit.

Commands:
{chr(10).join(f"  {name:<10}{line}" for name, line in COMMANDS.items())}

  `localllm COMMAND --help` explains one command.
"""

_UNWRITABLE = (errno.ENOSPC, errno.EBADF, errno.EIO, errno.EDQUOT, errno.EFBIG)
BUG_HINT = "this is a bug in localllm; run again with --debug to see where it happened"


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs the command line and exits with an honest code."""
    # Nearly all objects that a start makes stay: looking for others among them took 6 % of it.
    gc.set_threshold(50_000)
    try:
        _complete_streams()
        _clean_up_when_ended()
        code = run(sys.argv[1:] if arguments is None else arguments)
        _end_at_once_when_told()
    except KeyboardInterrupt:  # also while a failure is reported
        code = 130
    gc.freeze()  # the interpreter's end looks through everything again
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code: 0, 1 failure, 2 usage, 130 interrupted."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _close_stdout()  # whoever read the output has gone: nobody is there to be told
        return 1
    except Exception as error:
        if os.environ.get("LOCALLLM_DEBUG"):
            raise
        return _report(error)


def _run(arguments: list[str]) -> int:
    if arguments in ([], ["--help"], ["-h"]):  # answered here, before the imports that take long
        print(HELP, end="")
        return 0 if arguments else 2
    if arguments == ["--version"]:
        print(f"localllm {__version__}")
        return 0
    from localllm.cli.root import command_line

    code = command_line()(arguments, prog_name="localllm", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _report(error: Exception) -> int:
    """Print one line for a failure and return the exit code."""
    from contextlib import suppress

    from localllm.errors import LocalLLMError
    from localllm.terminal import error_line

    format_message = getattr(error, "format_message", None)  # typer's own usage errors
    if isinstance(error, LocalLLMError):
        text, code = str(error), error.exit_code
    elif format_message is not None:
        text, code = str(format_message()), int(getattr(error, "exit_code", 2))
    elif isinstance(error, MemoryError):
        text, code = "out of memory (a smaller --ctx or a smaller model needs less)", 1
    elif isinstance(error, OSError) and error.filename:
        text, code = f"{error.filename}: {error.strerror}", 1
    elif isinstance(error, OSError) and error.errno in _UNWRITABLE:
        text, code = f"the output cannot be written: {error.strerror}", 1
        _close_stdout()
    elif type(error).__name__ == "Abort":  # typer: end of input at a question
        text, code = "aborted", 1
    else:
        text, code = f"{type(error).__name__}: {error} ({BUG_HINT})", 1
    with suppress(OSError):  # nobody may be there to read it
        print(error_line(text), file=sys.stderr)
    return code


def _clean_up_when_ended() -> None:
    """Let SIGTERM and SIGHUP end the program as an exception does, so that nothing is left behind.

    They end the process at once by default; where they are ignored (nohup), they stay so. Ctrl+C
    is Python's own, or the chat's.
    """
    if sys.platform == "win32":
        return
    import signal

    ended = False

    def end(number: int, frame: object) -> None:
        nonlocal ended
        if not ended:  # a second one must not break into the clean-up
            ended = True
            raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, end)


def _end_at_once_when_told() -> None:
    """Let signals end the process: what is left is the interpreter's, which would print of it."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform != "win32":
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


def _close_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush stays quiet too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complete_streams() -> None:
    """Open the null device for a stream that is closed (`>&-`), and escape what cannot be shown."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # in this order each takes the number that it should have
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors != "backslashreplace":
        sys.stdout.reconfigure(errors="backslashreplace")
