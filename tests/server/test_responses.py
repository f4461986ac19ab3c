"""The Responses API, asked by the official client."""

from __future__ import annotations

import json

import httpx
import jsonschema
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from localllm.server.responses_schemas import ResponsesRequest
from localllm.server.turns import TurnAnswers
from tests.server.conftest import JSON, PLACE, engine_answer, named_events
from tests.server.pieces import THINKS_SPEAKS_CALLS, answer_with, piece

GREEDY = {"model": "tiny-chat", "temperature": 0, "max_output_tokens": 24}
HELLO = "Hello, who are you?"
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "default": None}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
EVENT = TypeAdapter(ResponseStreamEvent)


@pytest.fixture(scope="module")
def expected() -> str:
    return engine_answer(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": HELLO}]
    )


def events_of(server, **asked):
    """Every event of a stream, validated as it stands on the wire."""
    events = []
    told = named_events(f"{server.url}/v1/responses", {"stream": True, **asked})
    for number, (event, data) in enumerate(told):
        assert event["sequence_number"] == number
        EVENT.validate_json(data, strict=True)
        events.append(event)
    return events


def test_an_answer(client, expected):
    answer = client.responses.create(input=HELLO, instructions="Be brief.", **GREEDY)
    Response.model_validate_json(answer.to_json(), strict=True)
    assert answer.output_text == expected
    assert [item.type for item in answer.output] == ["message"]
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.usage.output_tokens_details.reasoning_tokens == 0
    assert answer.instructions == "Be brief."
    assert answer.temperature == 0


def test_what_ends_it(client):
    cut = client.responses.create(input=HELLO, **{**GREEDY, "max_output_tokens": 2})
    assert cut.status == cut.output[0].status == "incomplete"
    assert cut.incomplete_details.reason == "max_output_tokens"
    stop = cut.output_text[1:3]
    stopped = client.responses.create(input=HELLO, extra_body={"stop": [stop]}, **GREEDY)
    assert stopped.status == stopped.output[0].status == "completed"
    assert stopped.output_text == cut.output_text[:1]


@pytest.mark.parametrize("item", ["text", "parts", "typed"])
def test_forms_of_input(client, expected, item):
    content = HELLO if item == "text" else [{"type": "input_text", "text": HELLO}]
    told = {"role": "user", "content": content} | ({"type": "message"} if item == "typed" else {})
    developer = {"role": "developer", "content": "Be brief."}
    answer = client.responses.create(input=[developer, told], **GREEDY)
    assert answer.output_text == expected


def test_an_answer_goes_back_as_it_came(client, monkeypatch):
    with monkeypatch.context() as made:
        answer_with(made, THINKS_SPEAKS_CALLS)
        first = client.responses.create(input=HELLO, tools=[WEATHER], **GREEDY)
    said = [{"role": "user", "content": HELLO}, *(item.to_dict() for item in first.output)]
    for call in first.output[2:]:
        output = [{"type": "input_text", "text": f"{call.call_id}: rain"}]
        said.append({"type": "function_call_output", "call_id": call.call_id, "output": output})
    turn = ResponsesRequest.model_validate({"input": said, "tools": [WEATHER]}).turn({})
    user, assistant, *results = turn.messages
    assert user == {"role": "user", "content": HELLO}
    assert assistant["content"] == "I look it up."
    assert assistant["reasoning_content"] == "Two cities."
    assert [call["id"] for call in assistant["tool_calls"]] == ["call_1", "call_2"]
    assert json.loads(assistant["tool_calls"][1]["function"]["arguments"]) == {"city": "Rom"}
    assert [(one["role"], one["tool_call_id"], one["content"]) for one in results] == [
        ("tool", "call_1", "call_1: rain"),
        ("tool", "call_2", "call_2: rain"),
    ]
    assert turn.tools[0]["function"]["parameters"] == WEATHER["parameters"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("none", "none"), ("required", "required"), ({"type": "function", "name": "f"}, "f")],
)
def test_the_choice_of_tools(given, wanted):
    asked = ResponsesRequest.model_validate(
        {"input": HELLO, "tool_choice": given, "parallel_tool_calls": False}
    )
    turn = asked.turn({})
    assert (turn.tool_choice, turn.parallel) == (wanted, False)


def test_a_stream(client, server, expected):
    asked = {"input": HELLO, "instructions": "Be brief.", **GREEDY}
    with client.responses.stream(**asked) as stream:
        text = "".join(one.delta for one in stream if one.type == "response.output_text.delta")
    assert text == expected
    events = events_of(server, **asked)
    kinds = [event["type"] for event in events if not event["type"].endswith(".delta")]
    assert kinds[:-1] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    last = events[-1]["response"]
    assert kinds[-1] == f"response.{last['status']}"
    assert events[-2]["item"] == last["output"][0]
    assert last["output"][0]["content"][0]["text"] == expected


def test_a_stream_of_reasoning_and_calls(client, server, monkeypatch):
    answer_with(monkeypatch, THINKS_SPEAKS_CALLS)
    asked = {"input": HELLO, "tools": [WEATHER], **GREEDY}
    with client.responses.stream(**asked) as stream:
        final = stream.get_final_response()
    whole = client.responses.create(**asked)
    for answer in (final, whole):
        thought, message, *calls = answer.output
        assert thought.content[0].text == "Two cities."
        assert message.content[0].text == answer.output_text == "I look it up."
        assert [call.name for call in calls] == ["weather", "weather"]
        assert [json.loads(call.arguments)["city"] for call in calls] == ["Bern", "Rom"]
        assert answer.usage.output_tokens_details.reasoning_tokens == 3
        assert answer.status == "completed"
        assert answer.tools[0].parameters == WEATHER["parameters"]
    events = events_of(server, **asked)
    by_item: dict[str, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            by_item[event["item_id"]] = by_item.get(event["item_id"], "") + event["delta"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    assert list(by_item) == [item["id"] for item in done]
    assert list(by_item.values())[:3] == ["Two cities.", "I look it up.", '{"city": "Bern"}']


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
def test_a_call_that_is_asked_for(client, choice):
    tool = {**WEATHER, "parameters": PLACE}
    asked = {"input": HELLO, "model": "tiny-chat", "temperature": 1, "max_output_tokens": 200}
    asked |= {"tools": [tool], "tool_choice": choice, "parallel_tool_calls": False}
    with client.responses.stream(**asked) as stream:
        streamed = stream.get_final_response()
    for answer in (client.responses.create(**asked), streamed):
        assert [item.type for item in answer.output] == ["function_call"]
        jsonschema.validate(json.loads(answer.output[0].arguments), PLACE)
        assert answer.status == "completed"


def test_a_limit_within_the_reasoning(client, monkeypatch):
    answer_with(monkeypatch, [piece(reasoning="Well"), piece(reasoning=" now", end="length")])
    answer = client.responses.create(input=HELLO, **GREEDY)
    assert [(item.type, item.status) for item in answer.output] == [("reasoning", "incomplete")]
    assert answer.status == "incomplete"


def test_json_by_a_schema(client):
    form = {"type": "json_schema", "name": "place", "schema": PLACE, "strict": True}
    answer = client.responses.create(
        input=HELLO, model="tiny-chat", temperature=2, text={"format": form}
    )
    jsonschema.validate(json.loads(answer.output_text), PLACE)
    assert answer.text.format.schema_ == PLACE


@pytest.mark.parametrize("stream", [False, True])
def test_how_likely_each_token_was(client, server, stream):
    asked = {
        "input": HELLO,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        **GREEDY,
    }
    if stream:
        events = events_of(server, **asked)
        part = events[-1]["response"]["output"][0]["content"][0]
        deltas = [one for one in events if one["type"] == "response.output_text.delta"]
        assert [told for one in deltas for told in one["logprobs"]] == part["logprobs"]
    else:
        part = client.responses.create(**asked).output[0].content[0].to_dict()
    assert b"".join(bytes(one["bytes"]) for one in part["logprobs"]).decode() == part["text"]
    assert all(len(one["top_logprobs"]) == 2 for one in part["logprobs"])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"truncation": "auto"}, "truncation"),
        ({"background": True}, "background"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
        ({"input": []}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"extra_body": {"max_tokens": 3}}, "max_tokens"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(client, changes, field):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**{"input": HELLO, **GREEDY, **changes})
    assert refused.value.body["param"].startswith(field)
    assert field in refused.value.body["message"]


def test_what_is_left_open_may_be_null(server):
    wide = ResponsesRequest.model_json_schema()["properties"].keys() - {"input", *GREEDY}
    told = {name: None for name in wide if name != "ignore_eos"}
    answer = httpx.post(f"{server.url}/v1/responses", json={"input": HELLO, **GREEDY, **told})
    assert answer.status_code == 200, answer.text


def test_nothing_is_stored(client):
    with pytest.raises(openai.BadRequestError, match="nothing is stored"):
        client.responses.create(input=HELLO, store=True, **GREEDY)
    assert client.responses.create(input=HELLO, store=False, **GREEDY).output


def test_a_failure_on_the_way_is_an_event(server, monkeypatch):
    async def broken(self):
        yield piece("Well")
        raise RuntimeError

    monkeypatch.setattr(TurnAnswers, "pieces", broken)
    last = events_of(server, input=HELLO, **GREEDY)[-1]
    assert last["type"] == "error"
    assert "internal error" in last["message"]


@pytest.mark.parametrize("inner", ["NaN", "[" * 400 + "]" * 400])
def test_schemas_are_bounded(server, inner):
    """They are told back, and JSON knows no NaN."""
    tool = json.dumps(WEATHER).replace("null", inner)
    body = f'{{"input": "Hello", "max_output_tokens": 1, "tools": [{tool}]}}'
    answer = httpx.post(f"{server.url}/v1/responses", content=body, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools.0.parameters"


def test_an_unknown_model(client):
    with pytest.raises(openai.NotFoundError):
        client.responses.create(input=HELLO, model="gpt-9")
