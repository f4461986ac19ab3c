"""What a model reads: the token ids of texts, and the prompts that its template makes."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from localllm.server import documents
from localllm.server.body import Body, Ids, ListOf, Variables
from localllm.server.completions_schemas import ChatMessage
from localllm.server.errors import ApiError
from localllm.server.json_text import JSON
from localllm.server.models import find_service
from localllm.server.openapi import answering

router = APIRouter()


class TokenizeRequest(Body):
    """`POST /tokenize`."""

    model: str | None = None
    content: str
    add_special: bool = False
    parse_special: bool = False


class DetokenizeRequest(Body):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: Ids


class TemplateRequest(Body):
    """`POST /apply-template`."""

    model: str | None = None
    messages: Annotated[ListOf[ChatMessage], Field(min_length=1)]
    chat_template_kwargs: Variables | None = None


@router.post("/tokenize", **answering(documents.Tokens))
async def tokenize(asked: TokenizeRequest, request: Request) -> Response:
    """The token ids of a text."""
    tokenizer = (await find_service(request, asked.model)).engine.tokenizer

    def found() -> JSON:
        special, parse = asked.add_special, asked.parse_special
        ids = tokenizer.encode(asked.content, add_special=special, parse_special=parse)
        return JSON({"tokens": ids})

    return await asyncio.to_thread(found)  # it may take long


@router.post("/detokenize", **answering(documents.Text))
async def detokenize(asked: DetokenizeRequest, request: Request) -> Response:
    """The text of token ids."""
    tokenizer = (await find_service(request, asked.model)).engine.tokenizer

    def found() -> JSON:
        for token in asked.tokens:
            if not 0 <= token < tokenizer.vocab_size:
                raise ApiError(
                    400, f"tokens: {token} must be >= 0 and < {tokenizer.vocab_size}", "tokens"
                )
        return JSON({"content": tokenizer.decode(asked.tokens)})

    return await asyncio.to_thread(found)


@router.post("/apply-template", **answering(documents.Prompt))
async def apply_template(asked: TemplateRequest, request: Request) -> dict[str, Any]:
    """The prompt that the model's template makes of a conversation."""
    service = await find_service(request, asked.model)
    messages = service.led([message.plain() for message in asked.messages])
    variables = asked.chat_template_kwargs or {}
    return {"prompt": await asyncio.to_thread(service.session.prompt, messages, **variables)}
