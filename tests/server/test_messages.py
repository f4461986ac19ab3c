"""Anthropic's API, asked by its official client."""

from __future__ import annotations

import json

import anthropic
import httpx
import jsonschema
import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from pydantic import TypeAdapter

from localllm.server.messages_schemas import MessagesRequest
from localllm.server.turns import TurnAnswers
from tests.server.conftest import JSON, PLACE, engine_answer, named_events
from tests.server.pieces import THINKS_SPEAKS_CALLS, answer_with, piece

HELLO = [{"role": "user", "content": "Hello, who are you?"}]
GREEDY = {"model": "tiny-chat", "max_tokens": 24, "extra_body": {"temperature": 0}}
WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "default": None}},
        "required": ["city"],
    },
    "cache_control": {"type": "ephemeral"},
}
EVENT = TypeAdapter(RawMessageStreamEvent)


@pytest.fixture
def client(server):
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def expected() -> str:
    return engine_answer([{"role": "system", "content": "Be brief."}, *HELLO])


def turn_of(messages, **asked):
    return MessagesRequest.model_validate({"messages": messages, "max_tokens": 9, **asked}).turn({})


def events_of(server, **asked):
    """Every event of a stream, validated as it stands on the wire."""
    body = {"stream": True, "messages": HELLO, "max_tokens": 24, "temperature": 0, **asked}
    events = []
    for event, data in named_events(f"{server.url}/v1/messages", body):
        if event["type"] not in ("ping", "error"):
            EVENT.validate_json(data, strict=True)
        events.append(event)
    return events


def test_an_answer(client, expected):
    answer = client.messages.create(messages=HELLO, system="Be brief.", **GREEDY)
    Message.model_validate_json(answer.to_json(), strict=True)
    assert [block.text for block in answer.content] == [expected]
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert answer.usage.output_tokens > 0


def test_what_is_cached_is_counted_apart(client):
    long = {"messages": HELLO, "system": "Be brief. " * 20, **GREEDY}
    whole = client.messages.count_tokens(
        messages=HELLO, system=long["system"], model="tiny-chat"
    ).input_tokens
    client.messages.create(**long)
    usage = client.messages.create(**long).usage
    with client.messages.stream(**long) as stream:
        streamed = stream.get_final_message().usage
    for one in (usage, streamed):
        assert one.cache_read_input_tokens > 0
        assert one.input_tokens + one.cache_read_input_tokens == whole


def test_what_ends_it(client):
    cut = client.messages.create(messages=HELLO, **{**GREEDY, "max_tokens": 2})
    assert (cut.stop_reason, cut.stop_sequence) == ("max_tokens", None)
    stop = cut.content[0].text[1:3]
    stopped = client.messages.create(messages=HELLO, stop_sequences=["§§", stop], **GREEDY)
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)
    assert stopped.content[0].text == cut.content[0].text[:1]
    small = {"temperature": 0, "num_ctx": 24, "ignore_eos": True}
    full = client.messages.create(
        messages=HELLO, model="tiny-chat", max_tokens=99, extra_body=small
    )
    assert full.stop_reason == "model_context_window_exceeded"


def test_blocks_say_what_texts_say(client, expected):
    cached = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    answer = client.messages.create(
        messages=[{"role": "user", "content": [{"type": "text", "text": HELLO[0]["content"]}]}],
        system=[{"type": "text", "text": "Be brief.", **cached}],
        **GREEDY,
    )
    assert answer.content[0].text == expected


def test_count_tokens(client):
    asked = {"messages": HELLO, "system": "Be brief.", "model": "tiny-chat"}
    counted = client.messages.count_tokens(**asked)
    MessageTokensCount.model_validate_json(counted.to_json(), strict=True)
    usage = client.messages.create(max_tokens=1, **asked).usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_an_answer_goes_back_as_it_came(client, monkeypatch):
    with monkeypatch.context() as made:
        answer_with(made, THINKS_SPEAKS_CALLS)
        asked = {"messages": HELLO, "tools": [WEATHER], **GREEDY}
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
    results = [
        {"type": "tool_result", "tool_use_id": "call_1", "content": "rain"},
        {
            "type": "tool_result",
            "tool_use_id": "call_2",
            "content": [{"type": "text", "text": "no such city"}],
            "is_error": True,
        },
        {"type": "text", "text": "So?"},
    ]
    for first in (whole, streamed):
        content = [block.to_dict() for block in first.content]
        content.append({"type": "redacted_thinking", "data": "x"})
        said = [
            *HELLO,
            {"role": "assistant", "content": content},
            {"role": "user", "content": results},
        ]
        question, assistant, *after = turn_of(said, tools=[WEATHER]).messages
        assert question == HELLO[0]
        assert assistant["content"] == "I look it up."
        assert assistant["reasoning_content"] == "Two cities."
        calls = [call["function"] for call in assistant["tool_calls"]]
        assert [json.loads(call["arguments"])["city"] for call in calls] == ["Bern", "Rom"]
        assert after == [
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
            {"role": "tool", "tool_call_id": "call_2", "content": "Error: no such city"},
            {"role": "user", "content": "So?"},
        ]


def test_what_is_said_in_a_row_is_one_message():
    turn = turn_of([{"role": "user", "content": text} for text in ("One.", "Two.")])
    assert turn.messages == [{"role": "user", "content": "One.\n\nTwo."}]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"type": "auto"}, ("auto", True)),
        ({"type": "none"}, ("none", True)),
        ({"type": "any", "disable_parallel_tool_use": True}, ("required", False)),
        ({"type": "tool", "name": "weather"}, ("weather", True)),
    ],
)
def test_the_choice_of_tools(given, wanted):
    turn = turn_of(HELLO, tools=[WEATHER], tool_choice=given)
    assert (turn.tool_choice, turn.parallel) == wanted
    function = turn.tools[0]["function"]
    assert function["parameters"] == WEATHER["input_schema"]
    assert function["description"] == WEATHER["description"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, {"enable_thinking": False}),
        ({"type": "disabled"}, {"enable_thinking": False}),
        ({"type": "enabled", "budget_tokens": 1024}, {"enable_thinking": True}),
        ({"type": "adaptive"}, {}),
    ],
)
def test_thinking(given, wanted):
    assert turn_of(HELLO, thinking=given).variables == wanted


def test_a_stream(client, server, expected):
    with client.messages.stream(messages=HELLO, system="Be brief.", **GREEDY) as stream:
        assert "".join(stream.text_stream) == expected
        final = stream.get_final_message()
    assert final.stop_reason in ("end_turn", "max_tokens")
    assert final.usage.output_tokens > 0
    kinds = [event["type"] for event in events_of(server)]
    assert [kind for kind in kinds if kind != "content_block_delta"] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_a_stream_of_thinking_and_tools(client, server, monkeypatch):
    answer_with(monkeypatch, THINKS_SPEAKS_CALLS)
    asked = {"messages": HELLO, "tools": [WEATHER], **GREEDY}
    with client.messages.stream(**asked) as stream:
        final = stream.get_final_message()
    whole = client.messages.create(**asked)
    contents = [[block.to_dict() for block in one.content] for one in (final, whole)]
    for content in contents:
        thought, said, *uses = content
        assert thought["thinking"] == "Two cities."
        assert thought["signature"]
        assert said["text"] == "I look it up."
        assert [use["input"] for use in uses] == [{"city": "Bern"}, {"city": "Rom"}]
        assert [use["id"] for use in uses] == ["call_1", "call_2"]
    assert final.stop_reason == whole.stop_reason == "tool_use"
    assert whole.usage.output_tokens_details.thinking_tokens == 3
    events = events_of(server, tools=[WEATHER])
    opened = None
    for event in events:
        if event["type"] == "content_block_start":
            assert opened is None
            opened = event["index"]
        elif event["type"].startswith("content_block"):
            assert event["index"] == opened
            if event["type"] == "content_block_stop":
                opened = None
    kinds = [event["delta"]["type"] for event in events if event["type"] == "content_block_delta"]
    assert kinds == [
        *["thinking_delta"] * 2,
        "signature_delta",
        *["text_delta"] * 2,
        *["input_json_delta"] * 2,
    ]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_a_use_that_is_asked_for(client, choice):
    asked = {"messages": HELLO, "model": "tiny-chat", "max_tokens": 200}
    choice = {**choice, "disable_parallel_tool_use": True}
    asked |= {"tools": [{**WEATHER, "input_schema": PLACE}], "tool_choice": choice}
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    for answer in (client.messages.create(**asked), streamed):
        assert [block.type for block in answer.content] == ["tool_use"]
        jsonschema.validate(answer.content[0].input, PLACE)
        assert answer.stop_reason == "tool_use"


def test_tools_count_in_the_prompt(client):
    asked = {"messages": HELLO, "model": "tiny-chat"}
    with_tools = client.messages.count_tokens(tools=[WEATHER], **asked).input_tokens
    usage = client.messages.create(tools=[WEATHER], max_tokens=1, **asked).usage
    assert with_tools == usage.input_tokens + usage.cache_read_input_tokens
    assert with_tools > client.messages.count_tokens(**asked).input_tokens


def test_json_by_a_schema(client):
    answer = client.messages.create(
        messages=HELLO,
        model="tiny-chat",
        max_tokens=99,
        output_config={"format": {"type": "json_schema", "schema": PLACE}},
        extra_body={"temperature": 2},
    )
    jsonschema.validate(json.loads(answer.content[0].text), PLACE)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"temperature": -1}}, "temperature"),
        ({"extra_body": {"nonsense": 1}}, "nonsense"),
        ({"stop_sequences": [""]}, "stop_sequences.0"),
        ({"messages": []}, "messages"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "I"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"container": "c"}, "container"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(client, changes, field):
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(**{"messages": HELLO, **GREEDY, **changes})
    error = refused.value.body
    assert error["type"] == "error"
    assert error["error"]["type"] == "invalid_request_error"
    assert error["error"]["message"].startswith(field)


def test_failures_have_the_form_of_this_api(client, server, locked):
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(messages=HELLO, model="claude", max_tokens=9)
    assert missing.value.body["error"]["type"] == "not_found_error"
    with (
        anthropic.Anthropic(base_url=locked.url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError) as refused,
    ):
        stranger.messages.count_tokens(messages=HELLO, model="tiny-chat")
    assert refused.value.body["error"]["type"] == "authentication_error"
    with anthropic.Anthropic(base_url=locked.url, api_key="first-key") as known:
        assert known.messages.count_tokens(messages=HELLO, model="tiny-chat").input_tokens
    long = [{"role": "user", "content": "word " * 2000}]
    with pytest.raises(anthropic.BadRequestError, match="512"):
        client.messages.create(messages=long, **GREEDY)
    bad = httpx.post(f"{server.url}/v1/messages", content=b"{")
    assert (bad.status_code, bad.json()["type"]) == (400, "error")
    assert httpx.get(f"{server.url}/v1/messages").json()["type"] == "error"
    assert "type" not in httpx.get(f"{server.url}/v1/completions").json()


@pytest.mark.parametrize("inner", ["Infinity", "[" * 400 + "]" * 400])
def test_objects_are_bounded(server, inner):
    use = f'{{"type": "tool_use", "id": "1", "name": "f", "input": {{"x": {inner}}}}}'
    said = f'[{{"role": "assistant", "content": [{use}]}}, {{"role": "user", "content": "?"}}]'
    body = f'{{"messages": {said}, "max_tokens": 1}}'
    answer = httpx.post(f"{server.url}/v1/messages", content=body, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("messages.0.content.0.input")


def test_a_failure_on_the_way_is_an_event(client, server, monkeypatch):
    async def broken(self):
        yield piece("Well")
        raise RuntimeError

    monkeypatch.setattr(TurnAnswers, "pieces", broken)
    last = events_of(server)[-1]
    assert (last["type"], last["error"]["type"]) == ("error", "api_error")
    with (
        pytest.raises(anthropic.APIStatusError, match="internal error"),
        client.messages.stream(messages=HELLO, **GREEDY) as stream,
    ):
        stream.until_done()
