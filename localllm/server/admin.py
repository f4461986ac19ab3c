"""Routes for who runs the server, behind the admin key: what is loaded, load, unload."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from localllm import __version__
from localllm.server.body import Body
from localllm.server.models import Models, find_service

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
    return models.find(service.name).describe()


@router.post("/stop")
async def stop(asked: StopRequest, request: Request) -> dict[str, Any]:
    """Unload a model, as soon as the answers under way are complete."""
    models: Models = request.app.state.models
    slot = models.find(asked.model)
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
    base, name = _adapter(asked)
    service = await find_service(request, base)
    path = Path(asked.lora_path)
    await asyncio.to_thread(service.engine.load_adapter, path, name)
    return _kept(request, service.name, name, path)


@adapters.post("/unload_lora_adapter")
async def unload_adapter(asked: AdapterRequest, request: Request) -> dict[str, Any]:
    """Forget a LoRA adapter that no answer under way uses."""
    base, name = _adapter(asked)
    service = await find_service(request, base)
    await asyncio.to_thread(service.engine.drop_adapter, name)
    return _kept(request, service.name, name, None)


def _adapter(asked: AdapterRequest) -> tuple[str | None, str]:
    base, _, name = asked.lora_name.rpartition(":")
    return base or None, name


def _kept(request: Request, base: str, name: str, path: Path | None) -> dict[str, Any]:
    """Note that a model has an adapter now, or has it no more."""
    models: Models = request.app.state.models
    slot = models.find(base)
    slot.adapters.pop(name, None)
    if path is not None:
        slot.adapters[name] = path
    return {"model": base, "adapters": list(slot.adapters)}
