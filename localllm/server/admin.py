"""Routes for who runs the server, behind the admin key: what is loaded, load, unload."""

from __future__ import annotations

import os
from typing import Any

from fastapi import APIRouter, Request

from localllm import __version__
from localllm.server.body import Body
from localllm.server.models import Models, find_service

router = APIRouter(prefix="/admin", include_in_schema=False)


class LoadRequest(Body):
    """`POST /admin/load`."""

    model: str
    keep_alive: str | float | None = None


class StopRequest(Body):
    """`POST /admin/stop`."""

    model: str


@router.get("/ps")
async def ps(request: Request) -> dict[str, Any]:
    """The process, and what each of its models is and does."""
    models: Models = request.app.state.models
    described = [slot.describe() for slot in models.slots.values()]
    return {"pid": os.getpid(), "version": __version__, "models": described}


@router.post("/load")
async def load(asked: LoadRequest, request: Request) -> dict[str, Any]:
    """Load a model; answers when it is."""
    service = await find_service(request, asked.model, asked.keep_alive)
    models: Models = request.app.state.models
    return models.find(service.name).describe()


@router.post("/stop")
async def stop(asked: StopRequest, request: Request) -> dict[str, Any]:
    """Unload a model, as soon as the answers under way are complete."""
    models: Models = request.app.state.models
    slot = models.find(asked.model)
    await models.unload(slot)
    return slot.describe()
