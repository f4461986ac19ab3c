"""What a model reads: the token ids of texts, and the prompts that its template makes."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from localllm.server import documents
from localllm.server.body import Body, Variables
from localllm.server.completions_schemas import ChatMessage
from localllm.server.errors import ApiError
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
    tokens: list[int]


class TemplateRequest(Body):
    """`POST /apply-template`."""

    model: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    chat_template_kwargs: Variables | None = None


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
    service = await find_service(request, asked.model)
    messages = service.led([message.plain() for message in asked.messages])
    return {"prompt": service.session.prompt(messages, **(asked.chat_template_kwargs or {}))}
