"""Servers in turns under the same load: figures of throughput, fairness and shared prefixes.

Where several servers are measured only one is under load at a time; the others have to be idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from localllm.evaluate.load import (
    Beside,
    Prompts,
    ask,
    beside_figures,
    mixed,
    percentile,
    prompt_beside,
)
from localllm.evaluate.streams import Request, Server
from localllm.evaluate.summary import summary

ANSWERS = 8  # at once, where a number has to be chosen
CLIENTS = (1, ANSWERS, 32)
STREAMS = (1, 4, ANSWERS)
LONG_PROMPT, PREFIX, TAIL = 4000, 2000, 16  # tokens; less where the context is shorter
LONGEST_ANSWER = 128
DISTINCT = 24  # requests without a common prefix

Say = Callable[[str], None]  # told what is being measured


@dataclass(frozen=True)
class Load:
    """What servers are asked.

    Attributes:
        prompts: token ids of the model's vocabulary.
        context: most tokens of a prompt and its answer, of every server.
        rounds: turns of every server.
        say: told what is being measured.
    """

    prompts: Prompts
    context: int
    rounds: int
    say: Say

    def fitting(self, tokens: int) -> int:
        """So many, or three quarters of the context."""
        return min(tokens, self.context * 3 // 4)

    def mixed(self, count: int) -> list[Request]:
        """Requests of the sizes of everyday use; see `load.mixed`."""
        return mixed(self.prompts, count, self.context - LONGEST_ANSWER)


def throughput(load: Load, servers: Sequence[Server], count: int) -> dict[str, Any]:
    """So many requests, by one client after another and by several at once.

    Returns:
        By number of clients, then server: a `summary` over the rounds of each of `Run.figures`.
    """
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    turns = list(servers)
    for server in servers:
        asyncio.run(ask(server, load.mixed(2), 2))
    for number in range(load.rounds):
        for clients in CLIENTS:
            requests = load.mixed(count)
            for server in turns:
                load.say(f"throughput {number + 1}/{load.rounds}: {clients} clients: {server.name}")
                run = asyncio.run(ask(server, requests, clients))
                by_name = found.setdefault(str(clients), {one.name: [] for one in servers})
                by_name[server.name].append(run.figures())
            turns.reverse()  # nobody always comes after the same one
    return {
        clients: {name: _summaries(figures) for name, figures in by_name.items()}
        for clients, by_name in found.items()
    }


def fairness(load: Load, servers: Sequence[Server]) -> dict[str, Any]:
    """A long prompt that comes while answers are under way.

    Returns:
        `prompt`, its tokens, and `streams`: by number of answers, then server: `beside_figures`.
    """
    length, draw = load.fitting(LONG_PROMPT), load.prompts.draw
    found: dict[str, dict[str, Any]] = {}
    for count in STREAMS:
        beside: dict[str, list[Beside]] = {server.name: [] for server in servers}
        alone: dict[str, list[float]] = {server.name: [] for server in servers}
        turns = list(servers)
        for number in range(load.rounds):
            for server in turns:
                load.say(f"fairness {number + 1}/{load.rounds}: {count} streams: {server.name}")
                run = asyncio.run(ask(server, [Request(draw(length), 1)], 1))
                alone[server.name].append(run.answers[0].first_token)
                streams = [Request(draw(32), load.context - 64) for _ in range(count)]
                prompt = Request(draw(length), 1)
                beside[server.name].append(asyncio.run(prompt_beside(server, streams, prompt)))
            turns.reverse()
        found[str(count)] = {
            server.name: beside_figures(beside[server.name], alone[server.name])
            for server in servers
        }
    return {"prompt": length, "streams": found}


def prefix(load: Load, servers: Sequence[Server], sharing: int) -> dict[str, Any]:
    """Requests that share a prefix, and others of the same length that do not.

    Returns:
        `prefix`, its tokens, and `clients`: by number of clients, then server: the median of the
        seconds to the first token `without` a common prefix and `with` one, and their `ratio`.
    """
    length, draw = load.fitting(PREFIX), load.prompts.draw
    found: dict[str, dict[str, Any]] = {}
    for clients in (1, ANSWERS):
        for server in servers:
            load.say(f"prefix: {clients} clients: {server.name}")
            common = draw(length)
            kinds = {
                "without": [Request(draw(length + TAIL), 8) for _ in range(DISTINCT)],
                "with": [Request(common + draw(TAIL), 8) for _ in range(sharing)],
            }
            row = {}
            for kind, requests in kinds.items():
                run = asyncio.run(ask(server, requests, clients))
                row[kind] = percentile([answer.first_token for answer in run.answers], 50)
            row["ratio"] = row["with"] / row["without"]
            found.setdefault(str(clients), {})[server.name] = row
    return {"prefix": length, "clients": found}


def soak(load: Load, server: Server, count: int, memory: Callable[[], int]) -> list[int]:
    """What `memory` says after each tenth of so many requests; the first is after a warm-up."""
    found = []
    for part in range(11):
        load.say(f"soak: {part} of 10")
        asyncio.run(ask(server, load.mixed(max(1, count // 10)), CLIENTS[-1]))
        found.append(memory())
    return found


def _summaries(figures: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {name: summary([one[name] for one in figures]) for name in figures[0]}
