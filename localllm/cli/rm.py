"""`localllm rm`: remove a model."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from localllm.cli.options import OutputOptions, with_options
from localllm.cli.pulling import ask, asks
from localllm.errors import LocalLLMError, UsageError
from localllm.hub.names import NotHereError
from localllm.hub.removal import plan_removal
from localllm.terminal import one_line
from localllm.units import in_bytes


@with_options
def command(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A model as `localllm list --here` names it.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    *,
    output: OutputOptions,
) -> None:
    """Remove a model from this machine.

    All its files go, and of the cache what nothing else uses. The bundled model and files that
    were not downloaded stay.
    """
    try:
        removal = plan_removal(name)
    except NotHereError as error:
        raise LocalLLMError(error.message, "`localllm list --here` shows what is") from None
    if not yes:
        if not asks():
            raise UsageError(f"{removal.name} would be removed", "--yes does it without asking")
        files = "1 file" if len(removal.files) == 1 else f"{len(removal.files)} files"
        answer = ask(f"Remove {removal.name}, {files}, {in_bytes(removal.freed)}? [y/N]")
        if answer.lower() not in ("y", "yes"):
            print("nothing was removed", file=sys.stderr)
            raise typer.Exit(1)
    removal.execute()
    if output.json:
        files_gone = [str(path) for path in removal.files]
        document = {"name": removal.name, "freed": removal.freed, "files": files_gone}
        print(json.dumps(document, ensure_ascii=False))
    else:
        print(f"{one_line(removal.name)} removed, {in_bytes(removal.freed)} freed")
