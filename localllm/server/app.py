"""The web application: routes, and the layers that each request goes through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

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
    page,
    responses,
    tracing,
)
from localllm.server.access import KeyCheck, PageGuard, is_loopback
from localllm.server.errors import ApiError
from localllm.server.json_text import JSON
from localllm.server.keep_alive import KEEP_ALIVE
from localllm.server.limits import MOST_BYTES, BodyLimit
from localllm.server.metrics import Metrics
from localllm.server.models import Models, find_service
from localllm.server.openapi import DescribedApp, answering
from localllm.server.paths import PlainRequests
from localllm.server.records import Recorder, Reporter
from localllm.server.schemas import DetokenizeRequest, TemplateRequest, TokenizeRequest
from localllm.server.slots import Slot, Source

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
    for part in (chat_completions, completions, page, embeddings, responses, messages, admin):
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


@router.get("/v1/models", **answering(documents.ModelList))
async def models(request: Request) -> dict[str, Any]:
    """The models that can be asked for."""
    served: Models = request.app.state.models
    data = [
        _described(slot, served.created, adapter)
        for slot in served.slots.values()
        for adapter in (None, *slot.adapters)
    ]
    return {"object": "list", "data": data}


@router.get("/v1/models/{name:path}", **answering(documents.Model))
async def model(name: str, request: Request) -> dict[str, Any]:
    """One of them."""
    served: Models = request.app.state.models
    slot = served.find(name)
    return _described(slot, served.created, served.split(name)[1])


@router.post("/tokenize", **answering(documents.Tokens))
async def tokenize(asked: TokenizeRequest, request: Request) -> dict[str, Any]:
    """The token ids of a text."""
    tokenizer = (await find_service(request, asked.model)).engine.tokenizer
    special, parse = asked.add_special, asked.parse_special
    return {"tokens": tokenizer.encode(asked.content, add_special=special, parse_special=parse)}


@router.post("/detokenize", **answering(documents.Text))
async def detokenize(asked: DetokenizeRequest, request: Request) -> dict[str, Any]:
    """The text of token ids."""
    tokenizer = (await find_service(request, asked.model)).engine.tokenizer
    for token in asked.tokens:
        if not 0 <= token < tokenizer.vocab_size:
            raise ApiError(
                400, f"tokens: {token} must be >= 0 and < {tokenizer.vocab_size}", "tokens"
            )
    return {"content": tokenizer.decode(asked.tokens)}


@router.post("/apply-template", **answering(documents.Prompt))
async def apply_template(asked: TemplateRequest, request: Request) -> dict[str, Any]:
    """The prompt that the model's template makes of a conversation."""
    session = (await find_service(request, asked.model)).session
    messages = [message.plain() for message in asked.messages]
    return {"prompt": session.prompt(messages, **(asked.chat_template_kwargs or {}))}


def _described(slot: Slot, created: int, adapter: str | None) -> dict[str, Any]:
    """A model, alone or with an adapter, as the API lists it."""
    name = slot.source.name
    found: dict[str, Any] = {
        "id": name if adapter is None else f"{name}:{adapter}",
        "object": "model",
        "created": created,
        "owned_by": "localllm",
        "loaded": slot.service is not None,
    }
    if adapter is not None:
        found["parent"] = name
    if slot.service is not None:
        found["context_length"] = slot.service.engine.context
    return found


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
