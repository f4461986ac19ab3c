"""The web application: routes, and the layers that each request goes through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.cors import CORSMiddleware

from localllm import __version__
from localllm.engine.engine import Engine
from localllm.server import (
    admin,
    chat_completions,
    completions,
    documents,
    embeddings,
    errors,
    logs,
    messages,
    model_list,
    page,
    responses,
    tokenization,
    tracing,
)
from localllm.server.access import KeyCheck, PageGuard, is_loopback
from localllm.server.json_text import JSON
from localllm.server.keep_alive import KEEP_ALIVE
from localllm.server.limits import MOST_BYTES, BodyLimit
from localllm.server.metrics import Metrics
from localllm.server.models import Models
from localllm.server.openapi import DescribedApp, answering
from localllm.server.paths import PlainRequests
from localllm.server.records import Recorder, Reporter
from localllm.server.slots import Source

router = APIRouter()


@dataclass(frozen=True)
class ServerOptions:
    """How a server behaves.

    Attributes:
        host: the address that it listens on; None: a Unix socket.
        api_keys: one of them must come with every request; none: nobody is asked.
        admin_keys: see `KeyCheck`.
        origins: of web pages that may ask; "*": all.
        keep_alive: seconds that a model stays loaded when nobody uses it.
        most_body: bytes of a request's body.
        most_tokens: that the answers to one request may have together; None: no limit.
        log: one of `logs.KINDS`.
        log_prompts: whether the log shows what was asked.
    """

    host: str | None = "127.0.0.1"
    api_keys: tuple[str, ...] = ()
    admin_keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    keep_alive: float = KEEP_ALIVE
    most_body: int = MOST_BYTES
    most_tokens: int | None = None
    log: str = "off"
    log_prompts: bool = False


def create_app(
    sources: Iterable[Source],
    options: ServerOptions = ServerOptions(),
    loaded: Mapping[str, Engine] | None = None,
) -> FastAPI:
    """The application that serves these models.

    Args:
        sources: the models, at least one.
        options: see there.
        loaded: engines of models that are loaded already, by name; the application's alone.

    Raises:
        UsageError: spans are to be sent, but the extra that does it is not installed.
    """
    metrics = Metrics()
    models = Models(sources, options.keep_alive, metrics, options.most_tokens)
    waiting = dict(loaded or {})
    traces = tracing.Tracing() if tracing.wanted() else None
    reporters: list[Reporter] = [metrics.report, logs.reporter(options.log, options.log_prompts)]
    if traces is not None:
        reporters.append(traces.report)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        while waiting:  # no reference may stay here: unloading is to free the memory
            models.adopt(*waiting.popitem())
        yield
        await models.close()
        if traces is not None:
            traces.close()

    app = DescribedApp(
        title="localllm",
        summary="Language models on this machine.",
        version=__version__,
        lifespan=lifespan,
        default_response_class=JSON,
        redirect_slashes=False,
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
    )
    app.state.models = models
    app.state.metrics = metrics
    errors.install(app)
    app.include_router(router)
    for part in (
        chat_completions,  # what is asked most often stands first: they are tried in turn
        completions,
        responses,
        messages,
        embeddings,
        tokenization,
        model_list,
        page,
        admin,
    ):
        app.include_router(part.router)
    app.include_router(admin.adapters)
    _add_layers(app, options, reporters)
    return app


@router.get("/health", **answering(documents.Health))
async def health() -> dict[str, str]:
    """Whether the server answers."""
    return {"status": "ok"}


@router.get("/metrics", response_class=PlainTextResponse, **answering(None))
async def metrics(request: Request) -> Response:
    """What the server counts, for Prometheus."""
    counted: Metrics = request.app.state.metrics
    return Response(counted.page(), media_type=CONTENT_TYPE_LATEST)


def _add_layers(app: FastAPI, options: ServerOptions, reporters: list[Reporter]) -> None:
    """What each request goes through before its route; the last one added is the first asked."""
    app.add_middleware(BodyLimit, most=options.most_body)
    app.add_middleware(KeyCheck, keys=options.api_keys, admin_keys=options.admin_keys)
    if options.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id"],
        )
    # Who needs a key cannot be made to ask: a page that points its name here has none.
    local = options.host is not None and is_loopback(options.host) and not options.api_keys
    app.add_middleware(
        PageGuard, origins=options.origins, names=[options.host or ""] if local else None
    )
    app.add_middleware(PlainRequests)
    app.add_middleware(Recorder, reporters=reporters)
