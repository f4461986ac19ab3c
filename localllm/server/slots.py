"""One model of a server: where it comes from, and who holds it while it is loaded."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localllm.engine import memory
from localllm.engine.engine import Engine
from localllm.engine.memory import Need
from localllm.gguf import GGUFFile
from localllm.models.registry import load_definition
from localllm.server.keep_alive import NEVER
from localllm.server.service import Service


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        name: what clients call it.
        path: of its file.
        load: makes the engine, which takes long; told the bytes of memory that it must leave to
            the models beside it.
        context: tokens; None: see `Engine.load`, as for the others.
        texts: how many of that length its KV memory is to hold.
        kv_type: of the KV memory.
        adapters: LoRA adapters to load with it, by name.
        defaults: generation parameters where a request leaves them open, over the file's own.
        system: the system prompt of conversations that have none; empty: none.
    """

    name: str
    path: Path
    load: Callable[[int], Engine]
    context: int | None = None
    texts: int = 1
    kv_type: str = "f16"
    adapters: Mapping[str, Path] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""

    def make(self, reserved: int, adapters: Mapping[str, Path]) -> Engine:
        """The engine with these adapters; takes long. `reserved`: see `load`."""
        engine = self.load(reserved)
        for name, path in adapters.items():
            engine.load_adapter(path, name)
        return engine

    def need(self) -> Need:
        """What it would take with all that was asked for."""
        file = GGUFFile.open(self.path)
        config = load_definition(file, self.context).config
        context = memory.choose_context(file, config, self.context, sys.maxsize, self.kv_type)
        return memory.estimate(file, config, context * self.texts, self.kv_type)

    def need_of(self, engine: Engine) -> Need:
        """What it takes, loaded, when its KV memory is full."""
        tokens = engine.occupancy.pages * engine.runner.page_size
        return memory.estimate(engine.file, engine.config, tokens, self.kv_type)


class Slot:
    """One model of the server, loaded or not.

    Attributes:
        service: the loaded model; None: it is not.
        loading: the load under way.
        holders: requests that hold it.
        requests: that have come for it.
        keep_alive: seconds that it stays when nobody holds it.
        adapters: the LoRA adapters that it has, loaded or not, by name.
        used: when it was let go last, on the monotonic clock.
    """

    def __init__(self, source: Source, keep_alive: float) -> None:
        self.source = source
        self.service: Service | None = None
        self.loading: asyncio.Task[None] | None = None
        self.holders = 0
        self.requests = 0
        self.keep_alive = keep_alive
        self.adapters = dict(source.adapters)
        self.used = time.monotonic()
        self.timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether it is loaded and nobody holds it."""
        return self.service is not None and not self.holders

    @property
    def idle_seconds(self) -> float:
        """Since when nobody holds it."""
        return 0.0 if self.holders else time.monotonic() - self.used

    def describe(self) -> dict[str, Any]:
        """What it is and does, for who runs the server."""
        found: dict[str, Any] = {
            "model": self.source.name,
            "path": str(self.source.path),
            "state": "loading" if self.loading else "loaded" if self.service else "unloaded",
            "busy": self.holders,
            "requests": self.requests,
            "adapters": list(self.adapters),
        }
        if self.service is None:
            return found
        engine, use = self.service.engine, self.service.engine.occupancy
        stays = max(0.0, self.keep_alive - self.idle_seconds)
        return found | {
            "memory": self.source.need_of(engine).total,
            "context": engine.context,
            "running": use.running,
            "waiting": use.waiting,
            "pages": {"total": use.pages, "held": use.held, "cached": use.kept},
            "idle_seconds": round(self.idle_seconds, 3),
            "unloads_in": None if stays == NEVER else round(stays, 3),
        }
