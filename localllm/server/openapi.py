"""The description of the API at `/openapi.json`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from localllm.server.documents import Failure

FAULTS: dict[int | str, str] = {
    400: "The request is not valid; `param` names the field.",
    401: "An API key is needed, or this one is wrong.",
    403: "Not for this key, or not for pages of this origin.",
    404: "There is no such model.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    500: "The server failed; its log says why.",
    503: "Too many requests are waiting, or no memory is left for the model; see `Retry-After`.",
    "4XX": "Another fault of the request.",
}
# What the events of a stream are.
PLAIN_STREAM = "Server-sent events, each a chunk in JSON; the last one is `[DONE]`."
NAMED_STREAM = "Server-sent events, each with its name and its JSON."
KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


class DescribedApp(FastAPI):
    """An application whose description tells of the keys too."""

    def openapi(self) -> dict[str, Any]:
        """The document."""
        document = super().openapi()
        document["components"]["securitySchemes"] = KEYS
        document["security"] = [*({name: []} for name in KEYS), {}]  # or none, where none is set
        return document


def answering(
    document: type[BaseModel] | None,
    stream: str | None = None,
    failure: type[BaseModel] = Failure,
) -> dict[str, Any]:
    """What a route says of its answers.

    Args:
        document: the whole answer; None: it is text.
        stream: what its events are, where it may be a stream.
        failure: the form of what goes wrong.
    """
    content: dict[str, Any] = {}
    if stream is not None:
        event = {"data": {"type": "string"}, "event": {"type": "string"}}
        described = {"description": stream, "properties": event, "required": ["data"]}
        content["text/event-stream"] = {"schema": {"type": "object"} | described}
    whole: dict[str, Any] = {"description": "The answer.", "content": content}
    if document is None:
        content["text/plain"] = {"schema": {"type": "string"}}
    else:
        whole["model"] = document
    told: dict[int | str, Any] = {200: whole}
    for status, description in FAULTS.items():
        told[status] = {"model": failure, "description": description}
    told[503]["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return {"response_model": None, "responses": told}
