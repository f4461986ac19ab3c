"""`localllm ps`: what the running servers have loaded."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

from localllm.cli.options import OutputOptions, option, with_options
from localllm.errors import LocalLLMError
from localllm.units import in_bytes

AdminKey = Annotated[
    str | None,
    option("--admin-key", text="The server's admin key; also from LOCALLLM_ADMIN_KEY."),
]


@with_options
def command(admin_key: AdminKey = None, *, output: OutputOptions) -> None:
    """Show the models of the running servers.

    Whether each is loaded, what memory it takes when its context is full, and when it is unloaded
    if nobody uses it.
    """
    from localllm.server.asking import ask
    from localllm.server.running import running_servers

    key = admin_key or os.environ.get("LOCALLLM_ADMIN_KEY")
    found: list[dict[str, Any]] = []
    failures = []
    for server in running_servers():
        try:
            found.append({"url": server.url} | ask(server, "/admin/ps", key))
        except LocalLLMError as error:  # the others are shown all the same
            failures.append(str(error))
    if output.json:
        print(json.dumps({"servers": found}, ensure_ascii=False))
    else:
        _show(found, bool(failures))
    if failures:
        raise LocalLLMError("; ".join(failures))


def _show(found: list[dict[str, Any]], more: bool) -> None:
    if not found and not more:
        print("no server is running; `localllm serve MODEL` starts one")
    for server in found:
        print(f"{server['url']} (process {server['pid']})")
        for model in server["models"]:
            print(f"  {model['model']:<32} {_state(model)}")


def _state(model: dict[str, Any]) -> str:
    if model["state"] != "loaded":
        return str(model["state"])
    parts = [f"{in_bytes(model['memory']):>8}  context {model['context']}"]
    if model["busy"]:
        parts.append(f"answers {model['busy']} now")
    elif model["unloads_in"] is None:
        parts.append(f"idle for {_seconds(model['idle_seconds'])}")
    else:
        parts.append(f"unloaded in {_seconds(model['unloads_in'])}")
    return ", ".join(parts)


def _seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
