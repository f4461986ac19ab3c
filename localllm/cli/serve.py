"""`localllm serve`: the OpenAI-compatible server."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from localllm.cli.loading import find, load_engine
from localllm.cli.options import EngineOptions, OutputOptions, option, with_options
from localllm.cli.settings import default_model
from localllm.errors import UsageError

TEXTS = 4  # of full length at once, where nothing else is asked


@with_options
def command(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Path, catalog name or user/repo[:QUANT]."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 8080,
    alias: Annotated[
        str | None, option("--alias", text="What clients call the model.", metavar="NAME")
    ] = None,
    api_key: Annotated[
        list[str] | None, option("--api-key", text="A key that clients must send. Repeatable.")
    ] = None,
    api_key_file: Annotated[
        Path | None, option("--api-key-file", text="A file of keys, one a line.")
    ] = None,
    parallel: Annotated[
        int,
        typer.Option("--parallel", help="Texts of full length that the KV memory holds at once."),
    ] = TEXTS,
    *,
    loading: EngineOptions,
    output: OutputOptions,
) -> None:
    """Serve a model to other programs, the way OpenAI does.

    Keys also come from LOCALLLM_API_KEY. Ctrl+C ends the server when the answers under way are
    complete; a second one ends it at once.
    """
    if output.json:
        raise UsageError("serve is no document", "GET /v1/models describes what is served")
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port}: must be >= 0 and <= 65535")
    if parallel < 1:
        raise UsageError(f"--parallel {parallel}: must be >= 1")
    keys = _keys(api_key or [], api_key_file)
    found = find(model or default_model())
    engine, _ = load_engine(found, loading, texts=parallel)

    from localllm.hub.facts import recommended_params
    from localllm.server.app import create_app
    from localllm.server.listening import listen

    name = alias or found.name
    app = create_app(name, engine, recommended_params(engine.file), keys)
    listen(app, host, port, lambda url: print(f"{name}: {url}/v1", file=sys.stderr, flush=True))


def _keys(given: list[str], file: Path | None) -> tuple[str, ...]:
    keys = list(given)
    if file is not None:
        keys += file.read_text(encoding="utf-8").split()
        if not keys:
            raise UsageError(f"--api-key-file {file}: holds no key")
    keys += filter(None, [os.environ.get("LOCALLLM_API_KEY")])
    if not all(keys):
        raise UsageError("--api-key: an empty key is none")
    return tuple(keys)
