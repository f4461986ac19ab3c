"""Measuring servers: what is read of a stream, and the figures of given answers."""

import asyncio
import json
import math
from contextlib import asynccontextmanager

import pytest

from localllm.errors import LocalLLMError
from localllm.evaluate.load import Prompts, Run, ask, beside_figures, mixed, split_gaps
from localllm.evaluate.streams import Answer, Request, Server, events, parse

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(text, usage=None):
    document = {"choices": [{"text": text}]} | ({"usage": usage} if usage else {})
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def pieces_of(raw, size):
    """The bytes as they might be received, at 0, 1, 2, ..."""
    return [(float(at), raw[at * size : (at + 1) * size]) for at in range(-(-len(raw) // size))]


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_an_event_has_the_time_of_its_last_byte(size):
    first, second = event("a"), event("b")
    halves = [second[:9], second[9:]]
    raw = HEAD + chunk(first) + b"".join(map(chunk, halves)) + b"0\r\n\r\n"
    status, body = parse(pieces_of(raw, size))
    assert status == 200
    found = events(body)
    assert [document["choices"][0]["text"] for _, document in found] == ["a", "b"]
    ends = [len(HEAD + chunk(first)) - 2, len(raw) - len(b"\r\n0\r\n\r\n")]
    assert [time for time, _ in found] == [(end - 1) // size for end in ends]


def test_responses_that_are_no_streams():
    refused = b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno"
    assert parse(pieces_of(refused, 5)) == (503, [(float((len(refused) - 1) // 5), b"no")])
    broken = HEAD + chunk(event("a")) + chunk(event("b"))[:-10]
    assert len(parse(pieces_of(broken, 50))[1]) == 1
    for nonsense in (b"", b"hello", HEAD + b"zz\r\n"):
        with pytest.raises(ValueError):  # noqa: PT011
            parse(pieces_of(nonsense, 100))


def test_figures_of_a_run():
    answers = [Answer(0.0, [1.0, 1.5, 2.5], 3), Answer(1.0, [3.0, 3.25], 4)]
    figures = Run(2.0, answers, 0.25).figures()
    assert figures["tokens_per_second"] == 3.5
    assert figures["requests_per_second"] == 1.0
    assert figures["first_token_median"] == 1.5
    assert figures["first_token_p99"] == pytest.approx(1.99)
    assert figures["between_tokens_median"] == 0.5
    assert figures["between_tokens_p99"] == pytest.approx(0.99)
    assert figures["client_cpu"] == 0.25
    assert answers[0].decode_rate == pytest.approx(2 / 1.5)
    alone = Run(1.0, [Answer(0.0, [1.0], 1)], 0.0).figures()
    assert math.isnan(alone["between_tokens_median"])


def test_gaps_before_and_while_a_prompt_is_read():
    asked = Answer(10.0, [13.0], 1)
    streams = [
        Answer(0.0, [4.0, 6.0, 9.0, 10.5, 12.0, 14.0, 15.0], 7),
        Answer(0.0, [5.5, 9.75, 13.5], 3),
    ]
    found = split_gaps(streams, since=5.0, asked=asked)
    assert found.idle == [3.0, 4.25]
    assert found.reading == [1.5, 1.5, 2.0, 3.75]
    assert found.first_token == 3.0
    figures = beside_figures([found], alone=[1.5])
    assert figures["p99_ratio"] == pytest.approx(figures["reading_p99"] / figures["idle_p99"])
    assert figures["first_token_ratio"] == 2.0


def test_prompts_share_no_beginning():
    prompts = Prompts([7, 8, 9, 7, 8])
    drawn = [prompts.draw(12) for _ in range(9)]
    assert all(len(prompt) == 12 and set(prompt) <= {7, 8, 9} for prompt in drawn)
    assert len({tuple(prompt[:2]) for prompt in drawn}) == 9
    sizes = {(len(one.prompt), one.tokens) for one in mixed(prompts, 24, room=1000)}
    assert len(sizes) == 24
    assert {size for size, _ in sizes} >= {32, 256}
    assert max(len(one.prompt) for one in mixed(prompts, 24, room=100)) == 100


@asynccontextmanager
async def stand_in(answer):
    """A server that answers as the coroutine `answer(asked, writer)` does."""

    async def serve(reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split()[0])
            await answer(json.loads(await reader.readexactly(length)), writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield Server("stand-in", *listening.sockets[0].getsockname()[:2])


class Scripted:
    """Answers with the tokens that were asked for; counts what is under way."""

    def __init__(self):
        self.now = self.most = 0
        self.asked = []

    async def __call__(self, asked, writer):
        self.asked.append(asked)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            writer.write(HEAD)
            for _ in range(asked["max_tokens"]):
                writer.write(chunk(event("x")))
                await writer.drain()
                await asyncio.sleep(0)
            count = {"completion_tokens": asked["max_tokens"]}
            writer.write(chunk(event("", count)) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            await writer.drain()
        finally:
            self.now -= 1


def test_clients_ask_at_once_and_in_order():
    async def scenario():
        script = Scripted()
        async with stand_in(script) as server:
            requests = [Request([at, 1], 3 + at) for at in range(9)]
            return script, await ask(server, requests, 4)

    script, run = asyncio.run(scenario())
    assert [asked["prompt"][0] for asked in script.asked] == list(range(9))
    assert script.most == 4
    assert sorted(answer.tokens for answer in run.answers) == list(range(3, 12))
    assert all(len(answer.times) == answer.tokens for answer in run.answers)
    asked = script.asked[0]
    assert (asked["ignore_eos"], asked["temperature"], asked["stream"]) == (True, 0, True)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nfull", "stand-in: status 503: full"),
        (HEAD + chunk(event("a")), "stand-in: the answer broke off"),
        (HEAD + chunk(b'data: {"error": "oh"}\n\n') + b"0\r\n\r\n", "stand-in: oh"),
        (b"SSH-2.0\r\n", "stand-in: not a stream"),
    ],
)
def test_failures_are_said(sent, said):
    async def broken(asked, writer):
        writer.write(sent)

    async def scenario():
        async with stand_in(broken) as server:
            await ask(server, [Request([1], 2)], 1)

    with pytest.raises(LocalLLMError, match=said):
        asyncio.run(scenario())


def test_a_server_that_is_not_there():
    with pytest.raises(LocalLLMError, match="nobody cannot be reached"):
        asyncio.run(ask(Server("nobody", "127.0.0.1", 1), [Request([1], 2)], 1))
