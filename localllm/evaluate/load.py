"""What a server does with many requests: throughput, latencies, a long prompt beside answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from localllm.errors import LocalLLMError
from localllm.evaluate.streams import Answer, Request, Server, Stream

IDLE_EVENTS = 100  # of every stream, before the long prompt comes


class Prompts:
    """Prompts cut from a text, each with a beginning of its own: no two share a cached prefix."""

    def __init__(self, text: Sequence[int]) -> None:
        self._text = list(text)
        self._words = sorted(set(text))
        self._drawn = 0

    def draw(self, length: int) -> list[int]:
        """So many tokens, at least two."""
        more, first = divmod(self._drawn, len(self._words))
        self._drawn += 1
        start = 97 * self._drawn % len(self._text)
        body = self._text[start:]
        while len(body) < length:
            body += self._text
        return [self._words[first], self._words[more % len(self._words)], *body[: length - 2]]


def mixed(prompts: Prompts, count: int, room: int) -> list[Request]:
    """Requests of fixed mixed sizes: prompts of 32 to 256 tokens, answers of 64 to 128.

    Args:
        prompts: where they are cut from.
        count: of requests.
        room: tokens that a prompt may have at most.
    """
    lengths = [int(length) for length in np.linspace(32, min(256, room), 8)]
    answers = [64, 96, 128]  # their number and that of the lengths share no divisor
    return [
        Request(prompts.draw(lengths[5 * at % len(lengths)]), answers[at % len(answers)])
        for at in range(count)
    ]


@dataclass(frozen=True)
class Run:
    """Requests that were answered.

    Attributes:
        seconds: from the first request to the last answer's end.
        answers: of all.
        client: share of one core that asking took.
    """

    seconds: float
    answers: list[Answer]
    client: float

    def figures(self) -> dict[str, float]:
        """`tokens_per_second`, `requests_per_second`, and in seconds the median and the 99th
        percentile of `first_token` and `between_tokens`; `client_cpu` as share of a core."""
        firsts = [answer.first_token for answer in self.answers]
        gaps = [gap for answer in self.answers for gap in answer.gaps]
        return {
            "tokens_per_second": sum(answer.tokens for answer in self.answers) / self.seconds,
            "requests_per_second": len(self.answers) / self.seconds,
            "first_token_median": percentile(firsts, 50),
            "first_token_p99": percentile(firsts, 99),
            "between_tokens_median": percentile(gaps, 50),
            "between_tokens_p99": percentile(gaps, 99),
            "client_cpu": self.client,
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """Interpolated; NaN of nothing."""
    return float(np.percentile(values, percent)) if len(values) else float("nan")


async def ask(server: Server, requests: Sequence[Request], clients: int) -> Run:
    """Answer requests in order, each client asking for the next one when its last is complete.

    Raises:
        LocalLLMError: one failed.
    """
    waiting = iter(requests)
    answers: list[Answer] = []

    async def client() -> None:
        for request in waiting:
            stream = await Stream(server, request).open()
            answers.append(await stream.answer())

    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - start
    return Run(seconds, answers, (time.process_time() - cpu) / seconds)


@dataclass(frozen=True)
class Beside:
    """Answers under way while a long prompt was read; all in seconds.

    Attributes:
        idle: gaps between the tokens of the streams before.
        reading: gaps that fell into the time from the prompt to its first token, wholly or partly.
        first_token: of the long prompt.
    """

    idle: list[float]
    reading: list[float]
    first_token: float


async def prompt_beside(server: Server, running: Sequence[Request], prompt: Request) -> Beside:
    """Send a prompt while answers are under way, which are broken off afterwards.

    Raises:
        LocalLLMError: a request failed, or an answer under way ended too soon.
    """
    streams = [await Stream(server, request).open() for request in running]
    try:
        await _seen(streams, 1)
        all_run = time.perf_counter()
        await _seen(streams, 1 + IDLE_EVENTS)
        asked = await (await Stream(server, prompt).open()).answer()
        _require_running(streams)
        await asyncio.sleep(0.2)  # for the tokens that came of the step with the prompt's last part
    finally:
        answers = [stream.break_off() for stream in streams]
    return split_gaps(answers, all_run, asked)


async def _seen(streams: Sequence[Stream], count: int) -> None:
    """Wait until so many events of each have come."""
    while any(stream.seen < count for stream in streams):
        await asyncio.sleep(0.01)
        _require_running(streams)


def _require_running(streams: Sequence[Stream]) -> None:
    if any(stream.ended for stream in streams):
        raise LocalLLMError("an answer ended before the long prompt was read")


def split_gaps(answers: Sequence[Answer], since: float, asked: Answer) -> Beside:
    """Gaps of the streams before the prompt was sent, but after `since`, and while it was read."""
    idle, reading = [], []
    until = asked.sent + asked.first_token
    for answer in answers:
        for end, gap in zip(answer.times[1:], answer.gaps, strict=True):
            start = end - gap
            if start >= since and end <= asked.sent:
                idle.append(gap)
            elif end > asked.sent and start < until:
                reading.append(gap)
    return Beside(idle, reading, asked.first_token)


def beside_figures(found: Sequence[Beside], alone: Sequence[float]) -> dict[str, Any]:
    """Of all rounds together: gaps in seconds, idle and while the prompt was read, and ratios."""
    idle = [gap for one in found for gap in one.idle]
    reading = [gap for one in found for gap in one.reading]
    first = percentile([one.first_token for one in found], 50)
    return {
        "idle_median": percentile(idle, 50),
        "idle_p99": percentile(idle, 99),
        "reading_median": percentile(reading, 50),
        "reading_p99": percentile(reading, 99),
        "p99_ratio": percentile(reading, 99) / percentile(idle, 99),
        "first_token": first,
        "first_token_alone": percentile(alone, 50),
        "first_token_ratio": first / percentile(alone, 50),
    }
