"""Routes for who runs the server, behind the admin key: what is loaded, load, unload."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from localllm import __version__
from localllm.errors import ModelFileError
from localllm.server.body import Body
from localllm.server.errors import ApiError
from localllm.server.models import Models, find_service
from localllm.server.slots import Slot

router = APIRouter(prefix="/admin", include_in_schema=False)
adapters = APIRouter(prefix="/v1", include_in_schema=False)  # the paths are vLLM's


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
    return models.slots[service.name].describe()


@router.post("/stop")
async def stop(asked: StopRequest, request: Request) -> dict[str, Any]:
    """Unload a model: see `Models.unload`."""
    models: Models = request.app.state.models
    slot, _ = models.find(asked.model)
    await models.unload(slot)
    return slot.describe()


class AdapterRequest(Body):
    """`POST /v1/unload_lora_adapter`: `base:adapter`, or `adapter` of the only model."""

    lora_name: str


class LoadAdapterRequest(AdapterRequest):
    """`POST /v1/load_lora_adapter`."""

    lora_path: str


@adapters.post("/load_lora_adapter")
async def load_adapter(asked: LoadAdapterRequest, request: Request) -> dict[str, Any]:
    """Load a LoRA adapter, which the model has from now on, also when it is loaded again."""
    slot, name = _adapter(asked, request)
    service = await find_service(request, slot.source.name)
    path = Path(asked.lora_path)
    try:
        await asyncio.to_thread(service.engine.load_adapter, path, name)
    except ModelFileError as error:  # the file was the client's choice
        raise ApiError(400, str(error), "lora_path", "invalid_value") from error
    slot.adapters[name] = path
    return _had(slot)


@adapters.post("/unload_lora_adapter")
async def unload_adapter(asked: AdapterRequest, request: Request) -> dict[str, Any]:
    """Forget a LoRA adapter that no answer under way uses."""
    slot, name = _adapter(asked, request)
    if name not in slot.adapters:
        raise ApiError(400, f"adapter {name[:100]!r}: none of that name is loaded", "lora_name")
    # A model that is not loaded is not loaded for this: it could not be where the file is gone.
    if slot.service is not None or slot.loading is not None:
        service = await find_service(request, slot.source.name)
        await asyncio.to_thread(service.engine.drop_adapter, name)
    slot.adapters.pop(name, None)
    return _had(slot)


def _adapter(asked: AdapterRequest, request: Request) -> tuple[Slot, str]:
    """The model that is meant, and the name of its adapter."""
    models: Models = request.app.state.models
    base, _, name = asked.lora_name.rpartition(":")
    slot, adapter = models.find(base or None)
    if adapter is not None:
        raise ApiError(400, f"lora_name: {base[:100]!r} has an adapter already", "lora_name")
    return slot, name


def _had(slot: Slot) -> dict[str, Any]:
    return {"model": slot.source.name, "adapters": list(slot.adapters)}
