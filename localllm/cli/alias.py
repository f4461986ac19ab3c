"""`localllm alias`: short names of the user's own."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Annotated

import typer

from localllm.cli.options import OutputOptions, option, with_options
from localllm.errors import UsageError
from localllm.hub.folders import expanded, user_models_file
from localllm.hub.names import NotHereError, resolve
from localllm.hub.user_models import add_alias, remove_alias, user_models
from localllm.terminal import one_line


@with_options
def command(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The short name.", show_default=False)
    ] = None,
    target: Annotated[
        str | None,
        typer.Argument(metavar="TARGET", help="The MODEL it stands for.", show_default=False),
    ] = None,
    remove: Annotated[str | None, option("--remove", text="Forget this name.", metavar="NAME")] = (
        None
    ),
    *,
    output: OutputOptions,
) -> None:
    """Give a model a short name, or list those given.

    They stand in models.toml in the configuration folder, where each may bring settings with it.
    """
    if remove is not None:
        if name is not None:
            raise UsageError("--remove takes the only name")
        remove_alias(remove)
        print(f"{one_line(remove)} is forgotten", file=sys.stderr)
    elif name is not None:
        if target is None:
            raise UsageError(f"alias {name}: for which MODEL?", "`localllm alias NAME TARGET`")
        file = expanded(target)
        if file.is_file():
            target = str(file.absolute())  # it is to be found from every folder
        else:
            with suppress(NotHereError):  # which can be downloaded when it is needed
                resolve(target)
        add_alias(name, target)
        print(f"{name} stands for {one_line(target)}", file=sys.stderr)
    models = user_models()
    if output.json:
        entries = [
            {"alias": model.alias, "target": model.target, "preset": model.preset}
            for model in models.values()
        ]
        print(json.dumps({"file": str(user_models_file()), "aliases": entries}, ensure_ascii=False))
    elif name is None and remove is None:
        for model in models.values():
            settings = f"  ({', '.join(model.preset)})" if model.preset else ""
            print(f"{model.alias:<26} {one_line(model.target)}{settings}")
