"""`/v1/models`: the models that can be asked for."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from localllm.server import documents
from localllm.server.models import Models
from localllm.server.openapi import answering
from localllm.server.slots import Slot

router = APIRouter(prefix="/v1/models")


@router.get("", **answering(documents.ModelList))
async def models(request: Request) -> dict[str, Any]:
    """The models that can be asked for."""
    served: Models = request.app.state.models
    data = [
        _described(slot, served.created, adapter)
        for slot in served.slots.values()
        for adapter in (None, *slot.adapters)
    ]
    return {"object": "list", "data": data}


@router.get("/{name:path}", **answering(documents.Model))
async def model(name: str, request: Request) -> dict[str, Any]:
    """One of them."""
    served: Models = request.app.state.models
    slot, adapter = served.find(name)
    return _described(slot, served.created, adapter)


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
