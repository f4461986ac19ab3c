"""Asks a server for completions over HTTP and notes when each piece of an answer came.

What comes is only noted while a stream runs and read when it has ended, so that the client takes
as little as possible of the cores that the server computes on. Every request has a connection of
its own.
"""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from localllm.errors import LocalLLMError

PATIENCE = 900  # seconds that an answer may take
Pieces = Sequence[tuple[float, bytes]]  # when something was received, and what


@dataclass(frozen=True)
class Server:
    """Where a server listens."""

    name: str
    host: str
    port: int


@dataclass(frozen=True)
class Request:
    """A prompt of token ids, and how many tokens the answer shall have, likeliest ones."""

    prompt: list[int]
    tokens: int

    def message(self, server: Server) -> bytes:
        """The HTTP request; the fields are understood by localllm and by llama.cpp's server."""
        body = json.dumps(
            {
                "prompt": self.prompt,
                "max_tokens": self.tokens,
                "ignore_eos": True,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {server.host}:{server.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True)
class Answer:
    """What came of a request; times are those of `time.perf_counter`.

    Attributes:
        sent: when the connection was begun.
        times: when each event with text came; mostly one a token.
        tokens: how many the server counted.
    """

    sent: float
    times: list[float]
    tokens: int

    @property
    def first_token(self) -> float:
        """Seconds from the request to the first text."""
        return self.times[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Seconds between each text and the next."""
        return [after - before for before, after in pairwise(self.times)]

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the first."""
        return (self.tokens - 1) / (self.times[-1] - self.times[0])


class Stream(asyncio.Protocol):
    """A request under way.

    Attributes:
        seen: events so far.
    """

    def __init__(self, server: Server, request: Request) -> None:
        self.seen = 0
        self._server = server
        self._message = request.message(server)
        self._pieces: list[tuple[float, bytes]] = []
        self._ended = asyncio.get_running_loop().create_future()
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None

    async def open(self) -> Stream:
        """Send the request.

        Raises:
            LocalLLMError: the server cannot be reached.
        """
        loop = asyncio.get_running_loop()
        self._sent = time.perf_counter()
        try:
            await loop.create_connection(lambda: self, self._server.host, self._server.port)
        except OSError as error:
            raise LocalLLMError(f"{self._server.name} cannot be reached: {error}") from error
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._message)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._pieces.append((time.perf_counter(), data))
        self.seen += data.count(b"data: {")

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if not self._ended.done():
            self._ended.set_result(None)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._ended.done()

    async def answer(self) -> Answer:
        """All of it, when it has ended.

        Raises:
            LocalLLMError: it failed, or takes too long.
        """
        try:
            await asyncio.wait_for(self._ended, PATIENCE)
        except asyncio.TimeoutError:
            self.break_off()
            raise LocalLLMError(f"{self._server.name}: an answer took over {PATIENCE} s") from None
        return self._read(complete=True)

    def break_off(self) -> Answer:
        """Close the connection; returns what has come of the answer."""
        assert self._transport is not None
        self._transport.abort()
        return self._read(complete=False)

    def _read(self, complete: bool) -> Answer:
        name = self._server.name
        try:
            status, body = parse(self._pieces)
        except ValueError as error:
            raise LocalLLMError(f"{name}: not a stream: {error}") from error
        text = b"".join(data for _, data in body)
        if status != 200:
            raise LocalLLMError(f"{name}: status {status}: {text[:300].decode(errors='replace')}")
        times, tokens = [], None
        for moment, event in events(body):
            if "error" in event:
                raise LocalLLMError(f"{name}: {event['error']}")
            if any(choice["text"] for choice in event["choices"]):
                times.append(moment)
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
                times = times or [moment]  # an answer without text ends, at least
        if complete and tokens is None:
            raise LocalLLMError(f"{name}: the answer broke off")
        return Answer(self._sent, times, tokens or len(times))


def parse(pieces: Pieces) -> tuple[int, list[tuple[float, bytes]]]:
    """The status of an HTTP response and its body, each chunk with the time when it was complete.

    Raises:
        ValueError: that is no HTTP response in chunks or of a given length.
    """
    raw = b"".join(data for _, data in pieces)
    ends = list(accumulate(len(data) for _, data in pieces))

    def received(end: int) -> float:
        return pieces[bisect_left(ends, end)][0]

    head, blank, _ = raw.partition(b"\r\n\r\n")
    if not blank or not head.startswith(b"HTTP/1."):
        raise ValueError(f"{raw[:60]!r}")
    status = int(head.split()[1])
    at = len(head) + len(blank)
    if b"transfer-encoding: chunked" not in head.lower():
        return status, [(received(len(raw)), raw[at:])]
    chunks = []
    while (line := raw.find(b"\r\n", at)) >= 0:
        start = line + 2
        end = start + int(raw[at:line].split(b";")[0], 16)
        if end > len(raw) or start == end:
            break
        chunks.append((received(end), raw[start:end]))
        at = end + 2
    return status, chunks


def events(body: Pieces) -> list[tuple[float, dict[str, Any]]]:
    """The server-sent events of a body that are JSON, each with the time when it was complete."""
    raw = b"".join(data for _, data in body)
    ends = list(accumulate(len(data) for _, data in body))
    found, at = [], 0
    while (stop := raw.find(b"\n\n", at)) >= 0:
        text = raw[at:stop].removeprefix(b"data: ")
        at = stop + 2
        if text.startswith(b"{"):
            found.append((body[bisect_left(ends, at)][0], json.loads(text)))
    return found
