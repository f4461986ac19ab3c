"""What HTTP adds to an engine: to a request for one token, and to the decoding of a batch."""

from __future__ import annotations

import asyncio
import http.client
import json
import queue
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from localllm.decoding import GenerationParams
from localllm.engine import sequence
from localllm.engine.engine import Engine
from localllm.engine.worker import Delivery, Worker
from localllm.errors import LocalLLMError
from localllm.evaluate.load import ask
from localllm.evaluate.serving import ANSWERS, LONGEST_ANSWER, Load
from localllm.evaluate.streams import Request, Server
from localllm.evaluate.summary import summary

SINGLES = 200  # requests for one token
Inbox = queue.SimpleQueue[list[Delivery]]


def overhead(load: Load, server: Server, engine: Engine) -> dict[str, Any]:
    """Ask a server and an engine of the same model in turns for the same.

    Returns:
        Medians of `health_seconds`, `request_seconds` (of one token over an open connection) and
        `worker_seconds` (without HTTP), and `added_seconds`, the difference of these;
        `http_tokens_per_second` and `engine_tokens_per_second` of a batch's decoding (see
        `summary`), and `decode_overhead`, the share that is lost on the way.
    """
    seconds = {name: median(found) for name, found in _one_token(load, server, engine).items()}
    rates: dict[str, list[float]] = {"http": [], "engine": []}
    for number in range(load.rounds):
        load.say(f"overhead {number + 1}/{load.rounds}: {ANSWERS} answers")
        requests = [Request(load.prompts.draw(16), LONGEST_ANSWER) for _ in range(ANSWERS)]
        run = asyncio.run(ask(server, requests, ANSWERS))
        rates["http"].append(sum(answer.decode_rate for answer in run.answers))
        fresh = [Request(load.prompts.draw(16), LONGEST_ANSWER) for _ in range(ANSWERS)]
        rates["engine"].append(_decode_rate(engine, fresh))
    return {
        "health_seconds": seconds["health"],
        "request_seconds": seconds["http"],
        "worker_seconds": seconds["worker"],
        "added_seconds": seconds["http"] - seconds["worker"],
        "http_tokens_per_second": summary(rates["http"]),
        "engine_tokens_per_second": summary(rates["engine"]),
        "decode_overhead": 1 - median(rates["http"]) / median(rates["engine"]),
    }


def _one_token(load: Load, server: Server, engine: Engine) -> dict[str, list[float]]:
    """Seconds of each way to a token, and of a request that computes nothing."""
    load.say("overhead: one token")
    request = Request(load.prompts.draw(2)[:1], 1)
    body = json.dumps({"prompt": request.prompt, "max_tokens": 1, "temperature": 0})
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    inbox: Inbox = queue.SimpleQueue()
    worker = Worker(engine, inbox.put, 1)
    ways = {
        "health": partial(_fetch, connection, "GET", "/health"),
        "http": partial(_fetch, connection, "POST", "/v1/completions", body),
        "worker": partial(_submit, worker, inbox, request),
    }
    try:
        times = [{name: _seconds(way) for name, way in ways.items()} for _ in range(SINGLES)]
    finally:
        worker.close()
        connection.close()
    return {name: [one[name] for one in times] for name in ways}


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _fetch(
    connection: http.client.HTTPConnection, method: str, path: str, body: str | None = None
) -> None:
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise LocalLLMError(f"{path}: status {response.status}: {text[:300]!r}")


def _submit(worker: Worker, inbox: Inbox, request: Request) -> None:
    worker.submit([_sequence(worker.engine, request)])
    while not any(one.error or one.tokens[-1].finish_reason for one in inbox.get()):
        pass


def _sequence(engine: Engine, request: Request) -> sequence.Sequence:
    params = GenerationParams(max_tokens=request.tokens, temperature=0, ignore_eos=True)
    return engine.sequence(request.prompt, params)


def _decode_rate(engine: Engine, requests: Sequence[Request]) -> float:
    """Tokens per second after the first of each answer, all together; as `Answer.decode_rate`."""
    sequences = [_sequence(engine, request) for request in requests]
    firsts: dict[int, float] = {}
    lasts: dict[int, float] = {}
    for one in sequences:
        engine.add(one)
    while engine.busy:
        engine.step()
        now = time.perf_counter()
        for at, one in enumerate(sequences):
            if one.stats.generated_tokens:
                firsts.setdefault(at, now)
            if one.stats.finish_reason:
                lasts.setdefault(at, now)
    return sum(
        (request.tokens - 1) / (lasts[at] - firsts[at]) for at, request in enumerate(requests)
    )
