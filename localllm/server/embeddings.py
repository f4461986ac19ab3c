"""`/v1/embeddings`: one vector for each text.

The fields are those of https://platform.openai.com/docs/api-reference/embeddings; `pooling` and
`normalize` are our own.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from localllm.engine.embedding import default_pooling, shortened
from localllm.engine.engine import Engine
from localllm.engine.runner import Rows
from localllm.server.body import Body
from localllm.server.documents import Embeddings
from localllm.server.errors import ApiError
from localllm.server.models import find_service
from localllm.server.openapi import answering
from localllm.server.streaming import unless_gone

MOST_TEXTS = 2048  # of one request
MOST_TOKENS = 300_000  # of these together

router = APIRouter(prefix="/v1")


def _input(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """One complaint, where there would be one for each form that a value does not have."""
    if isinstance(value, list) and len(value) > MOST_TEXTS and not isinstance(value[0], int):
        raise PydanticCustomError(
            "too_many", f"{len(value)} texts; at most {MOST_TEXTS} in a request"
        )
    try:
        return check(value)
    except ValidationError as error:
        forms = "a text, token ids, a list of texts, or a list of lists of token ids"
        raise PydanticCustomError("form", f"must be {forms}") from error


class EmbeddingRequest(Body):
    """`POST /v1/embeddings`."""

    input: Annotated[str | list[str] | list[int] | list[list[int]], WrapValidator(_input)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None
    pooling: Literal["mean", "last", "cls"] | None = None
    normalize: bool = True

    @property
    def texts(self) -> list[str | list[int]]:
        """Each text, or its token ids."""
        if isinstance(self.input, str) or (self.input and isinstance(self.input[0], int)):
            return [self.input]  # type: ignore[list-item]
        return list(self.input)  # type: ignore[arg-type]


@router.post("/embeddings", **answering(Embeddings))
async def embeddings(asked: EmbeddingRequest, request: Request) -> Response:
    """Turn texts into vectors."""
    service = await find_service(request, asked.model)
    engine = service.engine
    width = engine.config.width
    if asked.dimensions is not None and asked.dimensions > width:
        message = f"dimensions {asked.dimensions}: the model's vectors have {width}"
        raise ApiError(400, message, "dimensions", "invalid_value")
    texts = await asyncio.to_thread(_encoded, asked.texts, engine)  # it may take long
    pooling = asked.pooling or default_pooling(engine.file)
    vectors = await unless_gone(request.receive, service.embed(texts, pooling))
    vectors = shortened(vectors, asked.dimensions, asked.normalize)
    counts = {"prompt_tokens": (total := sum(map(len, texts))), "total_tokens": total}
    head = {"object": "list", "model": asked.model or service.name, "usage": counts}
    content = await asyncio.to_thread(_written, head, vectors, asked.encoding_format)
    return Response(content, media_type="application/json")


def _encoded(texts: list[str | list[int]], engine: Engine) -> list[list[int]]:
    """The token ids of each text.

    Raises:
        ApiError: a text is empty or too long, or a token is none; says which.
    """
    if not texts:
        raise ApiError(400, "input: is empty: there is nothing to embed", "input")
    tokenizer = engine.tokenizer
    encoded = []
    total = 0
    for number, text in enumerate(texts):
        where = f"input.{number}" if len(texts) > 1 else "input"
        if not text:
            raise ApiError(400, f"{where}: is empty: there is nothing to embed", "input")
        ids = _checked(text, where, engine) if isinstance(text, list) else tokenizer.encode(text)
        if not 0 < len(ids) <= engine.context:
            message = f"{where}: is {len(ids)} tokens long; the context holds {engine.context}"
            raise ApiError(400, message, "input", "context_length_exceeded")
        total += len(ids)
        if total > MOST_TOKENS:
            raise ApiError(400, f"input: more than {MOST_TOKENS} tokens in a request", "input")
        encoded.append(ids)
    return encoded


def _checked(ids: list[int], where: str, engine: Engine) -> list[int]:
    size = engine.tokenizer.vocab_size
    for token in ids:
        if not 0 <= token < size:
            raise ApiError(400, f"{where}: token id {token} must be >= 0 and < {size}", "input")
    return ids


def _written(head: dict[str, Any], vectors: Rows, form: str) -> str:
    """The response: a vector at a time, between which answers under way are sent."""
    objects = []
    for index, vector in enumerate(vectors):
        numbers: Any = vector.tolist()
        if form == "base64":
            numbers = base64.b64encode(vector.astype("<f4").tobytes()).decode()
        objects.append(json.dumps({"object": "embedding", "index": index, "embedding": numbers}))
    return f'{json.dumps(head)[:-1]}, "data": [{", ".join(objects)}]}}'
