import asyncio

import pytest

from localllm.server import streaming
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
