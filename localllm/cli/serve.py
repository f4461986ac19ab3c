"""`localllm serve`: the OpenAI-compatible server."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from localllm.cli.loading import load_engine
from localllm.cli.options import Debug, EngineOptions, option, with_options
from localllm.cli.pulling import find_or_pull
from localllm.cli.settings import default_model, sampling_defaults, settle
from localllm.errors import UsageError
from localllm.hub.names import LocalModel

if TYPE_CHECKING:
    from localllm.engine.engine import Engine
    from localllm.server.app import ServerOptions
    from localllm.server.listening import Address

# As browsers send it; "null" is that of files.
_ORIGIN = re.compile(r"\*|null|[a-zA-Z][\w+.-]*://([^][/?#@:\s]+|\[[\da-fA-F:.]+\])(:\d{1,5})?")
TEXTS = 4  # of full length at once, where nothing else is asked


@dataclass(frozen=True)
class AddressOptions:
    """Where the server listens."""

    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 8080
    socket: Annotated[
        Path | None, option("--socket", text="Listen on a Unix socket of this path instead.")
    ] = None
    tls_cert: Annotated[
        Path | None, option("--tls-cert", text="Certificate for HTTPS, a PEM file.")
    ] = None
    tls_key: Annotated[Path | None, option("--tls-key", text="Its key, a PEM file.")] = None


@dataclass(frozen=True)
class AccessOptions:
    """Who may ask."""

    api_key: Annotated[
        list[str] | None, option("--api-key", text="A key that clients must send. Repeatable.")
    ] = None
    api_key_file: Annotated[
        Path | None, option("--api-key-file", text="A file of keys, one a line.")
    ] = None
    admin_key: Annotated[
        list[str] | None,
        option("--admin-key", text="A key that opens the admin routes too. Repeatable."),
    ] = None
    admin_key_file: Annotated[
        Path | None, option("--admin-key-file", text="A file of admin keys, one a line.")
    ] = None
    cors: Annotated[
        list[str] | None,
        option(
            "--cors",
            text="An origin whose web pages may ask, such as https://example.org; '*': all. "
            "Repeatable. Default: none.",
            metavar="ORIGIN",
        ),
    ] = None


@dataclass(frozen=True)
class LimitOptions:
    """What a request may take, and what is written of it."""

    max_body: Annotated[
        float, typer.Option("--max-body", help="Most MiB of a request's body.", metavar="MIB")
    ] = 16
    max_tokens_per_request: Annotated[
        int | None,
        option("--max-tokens-per-request", text="Most tokens of all answers to one request."),
    ] = None
    log: Annotated[
        str, typer.Option("--log", help="A line a request on stderr: text, json or off.")
    ] = "text"
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Log what was asked, too.")] = (
        False
    )


@with_options
def command(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL...", help="Paths, catalog names or user/repo[:QUANT]."),
    ] = None,
    alias: Annotated[
        list[str] | None,
        option(
            "--alias",
            text="What clients call a model: NAME for the only one, MODEL=NAME. Repeatable.",
            metavar="[MODEL=]NAME",
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        option(
            "--adapter",
            text="A LoRA adapter, which clients ask for as MODEL:NAME. Repeatable.",
            metavar="[MODEL:]NAME=PATH",
        ),
    ] = None,
    parallel: Annotated[
        int,
        typer.Option("--parallel", help="Texts of full length that the KV memory holds at once."),
    ] = TEXTS,
    keep_alive: Annotated[
        str | None,
        option(
            "--keep-alive",
            text="Unload a model that nobody has used for so long: 5m, 90s or seconds; -1: never. "
            "Default: 5m; never where there is only one.",
            metavar="TIME",
        ),
    ] = None,
    *,
    address: AddressOptions,
    access: AccessOptions,
    limits: LimitOptions,
    loading: EngineOptions,
    debug: Debug = False,
) -> None:
    """Serve models to other programs, the way OpenAI does.

    One model is loaded at once, several when they are first asked for. Keys also come from
    LOCALLLM_API_KEY and LOCALLLM_ADMIN_KEY. Ctrl+C or SIGTERM ends the server when the answers
    under way are complete, 30 seconds later at most; a second one ends it at once. `localllm ps`
    and `localllm stop` talk to it. Without an admin key they work from this machine only, and
    only where no other key is set.
    """
    if parallel < 1:
        raise UsageError(f"--parallel {parallel}: must be >= 1")
    served = _named(models or [default_model()], alias or [])
    place = _address(address)
    options = _server_options(address, access, limits, keep_alive, len(served))

    from localllm.server.access import is_loopback
    from localllm.server.app import create_app
    from localllm.server.listening import listen
    from localllm.server.running import announced
    from localllm.server.slots import Source

    def loader(model: LocalModel) -> Callable[[int], Engine]:
        return lambda reserved: load_engine(model, loading, parallel, reserved)[0]

    adapters = _adapters(adapter or [], list(served))

    def source(name: str, model: LocalModel) -> Source:
        settled = settle(loading, model.preset)
        return Source(
            name,
            model.path,
            loader(model),
            context=settled.ctx,
            texts=parallel,
            kv_type=settled.kv_type or "f16",
            adapters=adapters[name],
            defaults=sampling_defaults(model.preset),
            system=model.preset.get("system", ""),
        )

    sources = [source(name, model) for name, model in served.items()]
    # One model is loaded before anybody can ask: what is wrong with it is said here.
    loaded = {sources[0].name: sources[0].make(0, sources[0].adapters)} if len(sources) == 1 else {}
    app = create_app(sources, options, loaded)
    loaded.clear()  # the application's alone: unloading is to free its memory
    if options.host is not None and not is_loopback(options.host) and not options.api_keys:
        print(f"note: who reaches {options.host} needs no key; --api-key sets one", file=sys.stderr)
    names = ", ".join(served)

    with ExitStack() as announcement:

        def ready(url: str) -> None:
            announcement.enter_context(announced(url, place.certificate, list(served)))
            shown = url if url.startswith("unix:") else f"{url}/v1"
            print(f"{names}: {shown}", file=sys.stderr, flush=True)

        listen(app, place, ready)


def _named(models: list[str] | list[str | None], aliases: list[str]) -> dict[str, LocalModel]:
    """The models by what clients call them.

    Raises:
        UsageError: two have one name, or an alias is of no model.
    """
    found = {given: find_or_pull(given) for given in dict.fromkeys(models)}
    names = {given: model.name for given, model in found.items()}
    for alias in aliases:
        given, equals, name = alias.rpartition("=")
        meant = [one for one, model in found.items() if given in (one, model.name)]
        if not equals and len(found) == 1:
            meant = list(found)
        if len(meant) != 1 or not name:
            hint = f"MODEL=NAME with one of {', '.join(names.values())}"
            raise UsageError(f"--alias {alias}: names none of the models", hint)
        if names[meant[0]] != found[meant[0]].name:
            raise UsageError(f"--alias {alias}: the model is called {names[meant[0]]!r} already")
        names[meant[0]] = name
    for name in names.values():
        if not name.isprintable():  # nor does every such name have a form in UTF-8
            raise UsageError(f"{name!r} is no name to ask for", "--alias MODEL=NAME gives another")
    served = {names[given]: model for given, model in found.items()}
    if len(served) < len(found):
        twice = next(name for name in served if list(names.values()).count(name) > 1)
        raise UsageError(f"two models are called {twice!r}", "--alias MODEL=NAME tells them apart")
    return served


def _adapters(given: list[str], models: list[str]) -> dict[str, dict[str, Path]]:
    """The adapters of each model, by name."""
    found: dict[str, dict[str, Path]] = {name: {} for name in models}
    for one in given:
        whole, equals, path = one.partition("=")
        base, _, name = whole.rpartition(":")
        if not base and len(models) == 1:
            base = models[0]
        if not (equals and name and path) or base not in found or name in found[base]:
            hint = f"MODEL:NAME=PATH with one of {', '.join(models)}, each name once"
            raise UsageError(f"--adapter {one}: names no adapter of a model", hint)
        found[base][name] = Path(path)
    return found


def _address(given: AddressOptions) -> Address:
    from localllm.server.listening import Address

    if not given.host:  # which the system takes for every address
        raise UsageError("--host: must be an address", "0.0.0.0 listens on all of this machine")
    if not 0 <= given.port <= 65535:
        raise UsageError(f"--port {given.port}: must be >= 0 and <= 65535")
    if (given.tls_cert is None) != (given.tls_key is None):
        raise UsageError("--tls-cert and --tls-key: both are needed")
    return Address(given.host, given.port, given.socket, given.tls_cert, given.tls_key)


def _server_options(
    address: AddressOptions,
    access: AccessOptions,
    limits: LimitOptions,
    keep_alive: str | None,
    models: int,
) -> ServerOptions:
    from localllm.server.app import ServerOptions
    from localllm.server.keep_alive import KEEP_ALIVE, NEVER, keep_alive_seconds
    from localllm.server.logs import KINDS

    if limits.log not in KINDS:
        raise UsageError(f"--log {limits.log}: must be one of {', '.join(KINDS)}")
    if not 0.001 <= limits.max_body <= 4096:  # a kB takes a short question
        raise UsageError(f"--max-body {limits.max_body:g}: must be >= 0.001 and <= 4096")
    for origin in access.cors or ():
        if not _ORIGIN.fullmatch(origin):
            hint = "scheme and host, as https://example.org or http://localhost:3000; '*': all"
            raise UsageError(f"--cors {origin!r}: is no origin", hint)
    most = limits.max_tokens_per_request
    if most is not None and most < 1:
        raise UsageError(f"--max-tokens-per-request {most}: must be >= 1")
    default = KEEP_ALIVE if models > 1 else NEVER
    return ServerOptions(
        host=None if address.socket is not None else address.host,
        api_keys=_keys("api-key", access.api_key, access.api_key_file),
        admin_keys=_keys("admin-key", access.admin_key, access.admin_key_file),
        origins=tuple(access.cors or ()),
        keep_alive=default if keep_alive is None else keep_alive_seconds(keep_alive),
        most_body=int(limits.max_body * 2**20),
        most_tokens=most,
        log=limits.log,
        log_prompts=limits.log_prompts,
    )


def _keys(flag: str, given: list[str] | None, file: Path | None) -> tuple[str, ...]:
    """The keys of a flag, of its file, and of the environment."""
    keys = list(given or ())
    if file is not None:
        try:
            keys += file.read_text(encoding="utf-8").split()
        except OSError as error:
            raise UsageError(f"--{flag}-file {file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UsageError(f"--{flag}-file {file}: is not UTF-8 text") from None
        if not keys:
            raise UsageError(f"--{flag}-file {file}: holds no key")
    variable = f"LOCALLLM_{flag.upper().replace('-', '_')}"
    keys += filter(None, [os.environ.get(variable)])
    if not all(keys):
        raise UsageError(f"--{flag}: an empty key is none")
    return tuple(keys)
