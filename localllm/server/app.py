"""The web application: routes, keys, errors."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

from localllm import __version__
from localllm.engine.engine import Engine
from localllm.server import (
    chat_completions,
    completions,
    embeddings,
    errors,
    messages,
    page,
    responses,
)
from localllm.server.errors import ApiError
from localllm.server.replying import find_service
from localllm.server.schemas import DetokenizeRequest, TemplateRequest, TokenizeRequest
from localllm.server.service import Service

OPEN_PATHS = frozenset({"/health"}) | page.PATHS  # need no key
router = APIRouter()


def create_app(
    name: str, engine: Engine, recommended: dict[str, Any], api_keys: tuple[str, ...] = ()
) -> FastAPI:
    """The application that serves one model.

    Args:
        name: what clients call the model.
        engine: the loaded model; the application's alone.
        recommended: generation parameters where a request leaves them open.
        api_keys: one of them must come with every request; none: nobody is asked.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = Service(name, engine, recommended)
        yield
        app.state.service.close()

    app = FastAPI(title="localllm", version=__version__, lifespan=lifespan, redirect_slashes=False)
    errors.install(app)
    app.include_router(router)
    app.include_router(chat_completions.router)
    app.include_router(completions.router)
    app.include_router(responses.router)
    app.include_router(messages.router)
    app.include_router(embeddings.router)
    app.include_router(page.router)
    if api_keys:
        _require_key(app, api_keys)
    return app


@router.get("/health")
async def health() -> dict[str, str]:
    """Whether the server answers."""
    return {"status": "ok"}


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The models that can be asked for."""
    service = find_service(request, None)
    model = {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "localllm",
        "context_length": service.engine.context,
    }
    return {"object": "list", "data": [model]}


@router.post("/tokenize")
async def tokenize(asked: TokenizeRequest, request: Request) -> dict[str, Any]:
    """The token ids of a text."""
    tokenizer = find_service(request, asked.model).engine.tokenizer
    special, parse = asked.add_special, asked.parse_special
    return {"tokens": tokenizer.encode(asked.content, add_special=special, parse_special=parse)}


@router.post("/detokenize")
async def detokenize(asked: DetokenizeRequest, request: Request) -> dict[str, Any]:
    """The text of token ids."""
    tokenizer = find_service(request, asked.model).engine.tokenizer
    for token in asked.tokens:
        if not 0 <= token < tokenizer.vocab_size:
            raise ApiError(
                400, f"tokens: {token} must be >= 0 and < {tokenizer.vocab_size}", "tokens"
            )
    return {"content": tokenizer.decode(asked.tokens)}


@router.post("/apply-template")
async def apply_template(asked: TemplateRequest, request: Request) -> dict[str, Any]:
    """The prompt that the model's template makes of a conversation."""
    session = find_service(request, asked.model).session
    messages = [message.plain() for message in asked.messages]
    return {"prompt": session.prompt(messages, **(asked.chat_template_kwargs or {}))}


def _require_key(app: FastAPI, keys: tuple[str, ...]) -> None:
    known = [key.encode() for key in keys]

    @app.middleware("http")
    async def check(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        if request.url.path in OPEN_PATHS:
            return await go_on(request)
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        sent = (given or request.headers.get("x-api-key", "")).encode()
        # All are compared, each in the same time: an answer's delay tells nothing of a key.
        matches = [hmac.compare_digest(sent, key) for key in known]
        if not any(matches):
            what = "a wrong API key" if sent else "an API key is needed"
            refusal = ApiError(401, what, code="invalid_api_key")
            return errors.response(refusal, request.url.path)
        return await go_on(request)
