"""Hostile and hurried clients: nothing sticks or leaks, and only 503 is the server's fault."""

from __future__ import annotations

import asyncio
import json
import random
from unittest.mock import Mock

import httpx
import psutil
import pytest

from localllm.decoding import GenerationParams
from localllm.engine.engine import Engine
from localllm.hub.names import resolve
from tests.server.conftest import Running

TEXT = 'the cat sat on a mat and then it saw some bird <|im_end|> Häuser 東京 { } " \\ 12 + 30'
WORDS = TEXT.split()


@pytest.fixture(scope="module")
def narrow():
    """A server whose pages hold one long text: its answers give way to each other all the time."""
    running = Running(texts=1)
    yield running
    running.close()


def text(random, most):
    return " ".join(random.choices(WORDS, k=random.randint(1, most)))


def chat(random):
    body = {
        "messages": [{"role": "user", "content": text(random, 60)}],
        "max_tokens": random.randint(1, 60),
        "stream": random.random() < 0.6,
        "n": random.choice([1, 1, 1, 2, 4]),
        "temperature": random.choice([0, 0.7, 2]),
        "seed": random.randint(0, 9),
        "logprobs": random.random() < 0.2,
    }
    if random.random() < 0.2:
        body["messages"].insert(0, {"role": "system", "content": text(random, 30)})
    if random.random() < 0.1:
        body["response_format"] = {"type": "json_object"}
    return "/v1/chat/completions", body


def completion(random):
    prompt = text(random, 90)
    return "/v1/completions", {
        "prompt": [prompt, text(random, 9)] if random.random() < 0.2 else prompt,
        "max_tokens": random.randint(0, 40) if random.random() < 0.5 else 1,
        "echo": random.random() < 0.3,
        "logprobs": random.choice([None, 0, 3]),
        "stop": random.choice([None, "cat", ["a", "bird"]]),
        "stream": random.random() < 0.5,
    }


def nonsense(random):
    path, body = random.choice([chat, completion])(random)
    spoiled = random.choice(
        [
            {"temperature": "hot"},
            {"max_tokens": -5},
            {"n": 10**30},
            {"model": "gpt-9"},
            {"messages": text(random, 3), "prompt": {"a": 1}},
            {"unknown": None},
            {"seed": -1},
            {"stop": [""]},
            {"logit_bias": {"999999999": 1}},
            {"messages": [{"role": "user", "content": "word " * 600}], "prompt": "word " * 600},
        ]
    )
    return path, body | spoiled


def raw(random):
    path, body = random.choice([chat, completion, nonsense])(random)
    data = json.dumps(body).encode()
    cut = random.randrange(len(data))
    return path, random.choice(
        [data[:cut], data[:cut] + b"\xff\xfe" + data[cut:], b"[" * 2000, b""]
    )


def other(random):
    return random.choice(
        [
            ("/tokenize", {"content": text(random, 50)}),
            ("/detokenize", {"tokens": [random.randint(-1, 5000) for _ in range(20)]}),
            ("/apply-template", {"messages": [{"role": "user", "content": text(random, 9)}]}),
            ("/nowhere", {}),
        ]
    )


async def ask(client, random, slots):
    path, body = random.choices([chat, completion, nonsense, raw, other], [5, 3, 2, 1, 1])[0](
        random
    )
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    leaves_after = random.randint(0, 6) if random.random() < 0.2 else None
    async with (
        slots,
        client.stream(
            "POST", path, content=content, headers={"content-type": "application/json"}
        ) as response,
    ):
        status, lines = response.status_code, []
        async for line in response.aiter_lines():
            lines.append(line)
            if leaves_after is not None and len(lines) > leaves_after:
                return status  # in the middle of the answer
        if response.headers["content-type"].startswith("text/event-stream"):
            assert lines[-2] == "data: [DONE]"
        else:
            json.loads("\n".join(lines))
    if isinstance(body, bytes) or "unknown" in body:
        assert status in (400, 404), (path, body)
    return status


async def storm(url, count, seed):
    limits = httpx.Limits(max_connections=40)
    slots = asyncio.Semaphore(40)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        tasks = [ask(client, random.Random(seed * 10**6 + i), slots) for i in range(count)]
        return await asyncio.gather(*tasks)


@pytest.mark.parametrize("count", [250, pytest.param(2000, marks=pytest.mark.slow)])
def test_any_traffic(narrow, count, monkeypatch):
    preempted = Mock(side_effect=narrow.engine._stepper.scheduler._preempt)
    monkeypatch.setattr(narrow.engine._stepper.scheduler, "_preempt", preempted)
    asyncio.run(storm(narrow.url, 100, seed=1))
    narrow.require_idle()
    before = psutil.Process().memory_info().rss
    statuses = asyncio.run(storm(narrow.url, count, seed=2))
    narrow.require_idle()
    assert set(statuses) <= {200, 400, 404, 503}
    assert statuses.count(200) > count / 3
    assert psutil.Process().memory_info().rss - before < 64e6
    assert preempted.call_count >= 3


def test_the_same_request_gives_the_same_tokens_in_any_company(narrow):
    """Alone, beside others, after a cache hit, and after it had to give its pages back."""
    asked = {
        "prompt": "Once upon a time there was a cat that",
        "max_tokens": 40,
        "temperature": 1,
        "seed": 11,
        "logprobs": 1,
    }
    engine = Engine.load(resolve(None).path, context=512)
    ids = engine.tokenizer.encode(asked["prompt"])
    alone = engine.generate(ids, GenerationParams(max_tokens=40, temperature=1, seed=11))
    expected = "".join(token.text for token in alone)

    async def both():
        company = asyncio.create_task(storm(narrow.url, 60, seed=3))
        async with httpx.AsyncClient(base_url=narrow.url, timeout=120) as client:
            answers = [await client.post("/v1/completions", json=asked) for _ in range(8)]
        await company
        return [answer.json()["choices"][0] for answer in answers]

    answers = asyncio.run(both())
    narrow.require_idle()
    assert {answer["text"] for answer in answers} == {expected}
    likely = [answer["logprobs"]["token_logprobs"] for answer in answers]
    assert all(one == likely[0] for one in likely)  # to the last bit


def test_a_client_that_does_not_read_delays_nobody(server):
    async def slow_and_quick():
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.split(":")[-1]))
        asked = {"prompt": "a", "max_tokens": 400, "n": 4, "stream": True, "logprobs": 20}
        body = json.dumps(asked | {"ignore_eos": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
        writer.write(head.encode() + b"\r\nContent-Type: application/json\r\n\r\n" + body)
        await writer.drain()
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            quick = {"prompt": "b", "max_tokens": 20}
            for _ in range(5):
                assert (await client.post("/v1/completions", json=quick)).status_code == 200
        assert len(await reader.read(100)) == 100
        writer.close()

    asyncio.run(slow_and_quick())


def test_a_full_queue_says_when_to_come_again(server, monkeypatch):
    monkeypatch.setattr(server.service._worker, "_most", 2)

    async def crowd():
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            asked = {"prompt": "a", "max_tokens": 100, "ignore_eos": True}
            return await asyncio.gather(
                *(client.post("/v1/completions", json=asked) for _ in range(6))
            )

    answers = asyncio.run(crowd())
    refused = [answer for answer in answers if answer.status_code == 503]
    assert refused
    assert len(refused) + sum(answer.status_code == 200 for answer in answers) == 6
    assert all(answer.headers["retry-after"] for answer in refused)
