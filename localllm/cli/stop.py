"""`localllm stop`: unload a model of a running server, or end the server."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localllm.cli.options import OutputOptions, with_options
from localllm.cli.ps import AdminKey
from localllm.errors import LocalLLMError

if TYPE_CHECKING:
    from localllm.server.running import RunningServer


@with_options
def command(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="As the server calls it.")
    ] = None,
    admin_key: AdminKey = None,
    *,
    output: OutputOptions,
) -> None:
    """Unload a model of a running server; without MODEL, end the server.

    Both wait for the answers under way: a model is unloaded after them, a server ends after them,
    at most 30 seconds later.
    """
    from localllm.server.running import running_servers

    servers = running_servers()
    if not servers:
        raise LocalLLMError("no server is running", "`localllm ps` shows them")
    if model is None:
        document: dict[str, Any] = {"ended": _end(servers).pid}
        text = f"server {document['ended']} has ended"
    else:
        document = _unload(servers, model, admin_key or os.environ.get("LOCALLLM_ADMIN_KEY"))
        text = f"{model} {_outcome(document)}"
    print(json.dumps(document, ensure_ascii=False) if output.json else text)


def _outcome(model: dict[str, Any]) -> str:
    """What becomes of a model that was told to be unloaded."""
    if model["state"] == "unloaded":
        return "is unloaded"
    if model["state"] == "loading":
        return "is being loaded; it is unloaded when what was asked of it is answered"
    if model["busy"]:
        return "is unloaded when the answers under way are complete"
    return "is unloaded when another model has been loaded or unloaded"


def _end(servers: list[RunningServer]) -> RunningServer:
    from localllm.server.listening import DRAIN_SECONDS

    if len(servers) > 1:
        shown = ", ".join(f"{server.pid} ({server.url})" for server in servers)
        raise LocalLLMError(f"several servers are running: {shown}", "`kill PID` ends one")
    server = servers[0]
    try:
        os.kill(server.pid, signal.SIGTERM)
    except ProcessLookupError:
        return server  # it has ended by itself
    except PermissionError:
        raise LocalLLMError(f"server {server.pid} belongs to another user") from None
    deadline = time.monotonic() + DRAIN_SECONDS + 15
    while server.alive:
        if time.monotonic() > deadline:
            raise LocalLLMError(f"server {server.pid} was told to end, but has not yet")
        time.sleep(0.05)
    return server


def _unload(servers: list[RunningServer], model: str, key: str | None) -> dict[str, Any]:
    from localllm.server.asking import ask

    having = [server for server in servers if model in server.models]
    if not having:
        known = ", ".join(name for server in servers for name in server.models)
        raise LocalLLMError(f"no running server has a model {model!r}", f"there is {known}")
    return [ask(server, "/admin/stop", key, {"model": model}) for server in having][-1]
