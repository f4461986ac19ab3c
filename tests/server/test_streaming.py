import asyncio
import time

import pytest

from localllm.decoding import GenerationParams
from localllm.engine.engine import Engine
from localllm.hub.names import resolve
from localllm.server import service, streaming
from localllm.server.metrics import Metrics
from localllm.server.service import Service
from localllm.server.streaming import EventStream


def sent(events):
    """The parts of a stream's body, as they were sent."""
    parts = []

    async def send(message):
        parts.append(message.get("body", b""))

    async def receive():
        await asyncio.Event().wait()

    stream = EventStream(events, lambda: parts.append(b"closed"))
    asyncio.run(stream({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send))
    return parts


def test_a_silent_stream_is_kept_open(monkeypatch):
    monkeypatch.setattr(streaming, "PING_SECONDS", 0.05)

    async def events():
        yield {"a": 1}
        await asyncio.sleep(0.3)
        yield {"b": 2}

    parts = sent(events())
    first, second = (parts.index(b'data: {"%c":%d}\n\n' % pair) for pair in ((97, 1), (98, 2)))
    assert 2 <= parts[first:second].count(b": ping\n\n") <= 6
    assert parts[second:] == [parts[second], b"data: [DONE]\n\n", b"", b"closed"]


@pytest.mark.parametrize("count", [0, 2])
def test_a_failure_on_the_way_is_an_event_without_its_details(count):
    async def events():
        for number in range(count):
            yield {"n": number}
        raise RuntimeError("secret")

    *_, failure, _, closed = sent(events())
    assert b"internal error" in failure
    assert b"secret" not in failure
    assert closed == b"closed"


@pytest.mark.parametrize("threads", [1, 2])
def test_tokens_are_sent_before_the_next_step_where_no_processor_is_left(monkeypatch, threads):
    monkeypatch.setattr(service, "processors", lambda: 2)
    monkeypatch.setattr(service, "TURN_SECONDS", 60)
    order = []

    async def answer():
        engine = Engine.load(resolve(None).path, context=128, threads=threads, drafter=None)
        step = engine.step
        engine.step = lambda: (order.append("step"), step())
        served = Service("m", engine, {}, Metrics().of_model("m"))
        answers = served.prepare([[5, 6]], GenerationParams(max_tokens=50, ignore_eos=True))
        answers.begin()
        async for _ in answers.tokens():
            order.append("sent")
            time.sleep(0.005)  # longer than a step takes
        served.close()

    asyncio.run(answer())
    assert order.count("sent") == 50
    in_turns = ["step", "sent"] * 50
    assert (order == in_turns) == (threads == 2)
