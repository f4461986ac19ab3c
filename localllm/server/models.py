"""The models of a server: loaded when they are asked for, unloaded when memory is wanted."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from fastapi import Request

from localllm.engine.engine import Engine
from localllm.engine.machine import available_memory
from localllm.engine.memory import ShortageError
from localllm.errors import LocalLLMError
from localllm.hub.facts import recommended_params
from localllm.server.errors import ApiError
from localllm.server.keep_alive import NEVER, keep_alive_seconds
from localllm.server.metrics import Metrics
from localllm.server.records import current_record
from localllm.server.service import Service
from localllm.server.slots import Slot, Source

_TIMER_SECONDS = 0.05  # that a timer may be early


class Models:
    """The models that a server has, by name. All methods belong to the event loop.

    One model at a time is loaded or unloaded. When memory is short for another one, those that
    nobody holds are unloaded, the one used longest ago first.

    Args:
        sources: at least one.
        keep_alive: seconds that a model stays where a request says nothing of it.
        metrics: told what becomes of the answers.
        most_tokens: that the answers to one request may have together; None: no limit.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        keep_alive: float,
        metrics: Metrics,
        most_tokens: int | None = None,
    ) -> None:
        self.slots = {source.name: Slot(source, keep_alive) for source in sources}
        self.created = int(time.time())
        self._keep_alive = keep_alive
        self._metrics = metrics
        self._most_tokens = most_tokens
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        metrics.watch(self._engines)

    def find(self, name: str | None) -> tuple[Slot, str | None]:
        """The model of a name, without a name the only one, and the adapter that is meant with it.

        A name may be that of a model with one of its adapters, `base:adapter`.

        Raises:
            ApiError: there is none of that name.
        """
        if name is None and len(self.slots) == 1:
            return next(iter(self.slots.values())), None
        served = ", ".join(map(repr, self.slots))
        if name is None:
            raise ApiError(400, f"model: several are served, name one: {served}", "model")
        if name in self.slots:
            return self.slots[name], None
        base, _, adapter = name.rpartition(":")
        if base in self.slots and adapter in self.slots[base].adapters:
            return self.slots[base], adapter
        shown = name if len(name) <= 100 else name[:100] + "…"
        raise ApiError(
            404, f"model {shown!r} is not served here; {served}", "model", "model_not_found"
        )

    @asynccontextmanager
    async def use(self, slot: Slot, keep_alive: float | None = None) -> AsyncIterator[Service]:
        """A loaded model, which stays loaded inside this block.

        Args:
            slot: the model.
            keep_alive: seconds that it is to stay afterwards, from now on; None: as it was.

        Raises:
            ApiError: it cannot be loaded.
        """
        slot.holders += 1  # before anything is waited for: from now on it is not unloaded
        slot.requests += 1
        try:
            if slot.service is None:
                self._begin_load(slot)
            if keep_alive is not None:  # what is said later, also during the load, goes before
                slot.keep_alive = keep_alive
            yield await self._loaded(slot)
        finally:
            slot.holders -= 1
            self._let_go(slot)

    async def unload(self, slot: Slot) -> None:
        """Unload a model when nobody holds it any more and no other one is being loaded.

        Returns at once where it has to wait for that.
        """
        slot.keep_alive = 0.0
        if slot.idle and self._changing.locked():
            self._begin_unload(slot)
        elif slot.idle:
            await self._expire(slot)

    def adopt(self, name: str, engine: Engine) -> None:
        """Take a model that was loaded before the server began."""
        self._open(self.slots[name], engine)
        self._let_go(self.slots[name])

    async def close(self) -> None:
        """Unload everything, and end the answers under way."""
        for slot in self.slots.values():
            if slot.loading is not None:
                await asyncio.wait([slot.loading])
        async with self._changing:
            for slot in self.slots.values():
                self._stop_timer(slot)
                await self._drop(slot)

    async def _loaded(self, slot: Slot) -> Service:
        while slot.service is None:
            try:
                # Whoever goes leaves it to the others.
                await asyncio.shield(self._begin_load(slot))
            except ShortageError as error:
                raise ApiError(503, str(error), code="out_of_memory") from error
            except LocalLLMError as error:
                text = f"{slot.source.name} cannot be loaded: {error}"
                raise ApiError(500, text, code="model_not_loaded") from error
            except OSError as error:
                text = f"{slot.source.name} cannot be loaded: {error.strerror or error}"
                raise ApiError(500, text, code="model_not_loaded") from error
        return slot.service

    def _begin_load(self, slot: Slot) -> asyncio.Task[None]:
        """The load of a model that is not loaded."""
        if slot.loading is None:
            slot.keep_alive = self._keep_alive
            slot.loading = asyncio.create_task(self._load(slot))
            slot.loading.add_done_callback(_note_failure)
        return slot.loading

    async def _load(self, slot: Slot) -> None:
        try:
            async with self._changing:
                reserved = await self._make_room(slot.source)
                self._open(
                    slot, await asyncio.to_thread(slot.source.make, reserved, dict(slot.adapters))
                )
        finally:
            slot.loading = None
            self._let_go(slot)

    def _open(self, slot: Slot, engine: Engine) -> None:
        slot.service = Service(
            slot.source.name,
            engine,
            {**recommended_params(engine.file), **slot.source.defaults},
            self._metrics.of_model(slot.source.name),
            self._most_tokens,
            slot.source.system,
        )

    async def _make_room(self, source: Source) -> int:
        """Unload what is not used until a model fits; the bytes that it must leave to others."""
        need = await asyncio.to_thread(source.need)
        while need.total > available_memory() - self._promised():
            idle = [slot for slot in self.slots.values() if slot.idle]
            if not idle:
                break
            await self._drop(min(idle, key=lambda slot: slot.used))
        return self._promised()

    def _promised(self) -> int:
        """Bytes that loaded models have not taken yet: KV memory is only taken as it fills."""
        total = 0.0
        for slot in self.slots.values():
            if slot.service is not None:
                engine = slot.service.engine
                use = engine.occupancy
                total += slot.source.need_of(engine).kv * use.free / use.pages
        return int(total)

    def _let_go(self, slot: Slot) -> None:
        """Note that somebody has let a model go, and unload it in time if nobody holds it."""
        slot.used = time.monotonic()
        self._stop_timer(slot)
        if slot.idle and slot.keep_alive != NEVER:
            loop = asyncio.get_running_loop()
            slot.timer = loop.call_later(slot.keep_alive, self._begin_unload, slot)

    def _begin_unload(self, slot: Slot) -> None:
        """Unload a model whose time is over, on a task of its own."""
        task: asyncio.Task[None] = asyncio.create_task(self._expire(slot))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _expire(self, slot: Slot) -> None:
        """Unload a model if nobody holds it and its time is over."""
        async with self._changing:
            # It may have been used while this waited for its turn.
            if slot.idle and slot.idle_seconds >= slot.keep_alive - _TIMER_SECONDS:
                await self._drop(slot)

    async def _drop(self, slot: Slot) -> None:
        """Unload a model that nobody holds; its memory is free when this returns."""
        self._stop_timer(slot)
        if slot.service is not None:
            last = [slot.service]
            slot.service = None  # whoever comes now waits, and loads it again
            await asyncio.to_thread(_close, last)

    def _stop_timer(self, slot: Slot) -> None:
        if slot.timer is not None:
            slot.timer.cancel()
            slot.timer = None

    def _engines(self) -> dict[str, Engine]:
        return {
            name: slot.service.engine
            for name, slot in self.slots.items()
            if slot.service is not None
        }


async def find_service(
    request: Request, name: str | None, keep_alive: str | float | None = None
) -> Service:
    """The model that a request names, held until the request is answered.

    Args:
        request: the one that is being answered.
        name: see `Models.find`.
        keep_alive: see `keep_alive_seconds`.

    Raises:
        ApiError: there is none of that name, or it cannot be loaded.
        UsageError: `keep_alive` is no time.
    """
    models: Models = request.app.state.models
    record = current_record()
    assert record is not None, "no request is being answered"
    stays = None if keep_alive is None else keep_alive_seconds(keep_alive)
    slot, record.adapter = models.find(name)
    service = await record.leases.enter_async_context(models.use(slot, stays))
    record.model = service.name
    return service


def _close(last: list[Service]) -> None:
    """Close a model and free its memory; the list holds the only reference to it."""
    last.pop().close()
    gc.collect()  # a service and its worker know each other


def _note_failure(load: asyncio.Task[None]) -> None:
    """Look at what a load ended with, which nobody does where all requests for it have gone."""
    if not load.cancelled():
        load.exception()
