"""Calls of tools with the official client."""

from __future__ import annotations

import json

import jsonschema
import openai
import pytest

WEATHER = {
    "type": "object",
    "properties": {"location": {"type": "string", "maxLength": 20}},
    "required": ["location"],
    "additionalProperties": False,
}
TIME = {"type": "object", "properties": {"zone": {"enum": ["CET", "UTC"]}}, "required": ["zone"]}
SCHEMAS = {"get_weather": WEATHER, "get_time": TIME}
TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "description": f"Tells the {name}.", "parameters": schema},
    }
    for name, schema in SCHEMAS.items()
]
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
ASKED = {"model": "tiny-chat", "messages": QUESTION, "tools": TOOLS, "max_tokens": 300}


def check(calls):
    for call in calls:
        assert call.type == "function"
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_call_is_enforced(client, temperature):
    answer = client.chat.completions.create(
        tool_choice="required", temperature=temperature, n=3, seed=1, **ASKED
    )
    for choice in answer.choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.tool_calls
        check(choice.message.tool_calls)
    ids = [call.id for choice in answer.choices for call in choice.message.tool_calls]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_call_of_one_function_is_enforced(client, name):
    named = {"type": "function", "function": {"name": name}}
    choice = client.chat.completions.create(tool_choice=named, temperature=1.5, **ASKED).choices[0]
    (call,) = choice.message.tool_calls
    assert call.function.name == name
    assert choice.message.content is None
    check([call])


def test_one_call_where_no_more_are_wanted(client):
    answer = client.chat.completions.create(
        tool_choice="required", parallel_tool_calls=False, temperature=1.5, n=4, **ASKED
    )
    assert [len(choice.message.tool_calls) for choice in answer.choices] == [1] * 4


def test_no_call_where_none_is_wanted(client):
    choice = client.chat.completions.create(tool_choice="none", temperature=0, **ASKED).choices[0]
    assert choice.message.tool_calls is None
    assert choice.finish_reason in ("stop", "length")


def test_the_model_calls_by_itself_and_reads_what_comes_back(client):
    asked = {**ASKED, "temperature": 0}
    first = client.chat.completions.create(**asked).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls
    assert json.loads(call.function.arguments) == {"location": "Paris"}
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"weather": "sunny"}'}
    asked["messages"] = [*QUESTION, first.message, result]
    second = client.chat.completions.create(**asked).choices[0]
    assert second.message.tool_calls is None
    assert "sunny" in second.message.content


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_stream_of_calls(client, choice):
    asked = {**ASKED, "temperature": 0, "tool_choice": choice}
    whole = client.chat.completions.create(**asked).choices[0]
    found = {}
    for chunk in client.chat.completions.create(stream=True, **asked):
        for part in chunk.choices[0].delta.tool_calls or []:
            call = found.setdefault(part.index, {"id": "", "name": "", "arguments": ""})
            call["id"] += part.id or ""
            call["name"] += part.function.name or ""
            call["arguments"] += part.function.arguments or ""
        reason = chunk.choices[0].finish_reason or "none yet"
    assert reason == whole.finish_reason == "tool_calls"
    assert [(call["name"], call["arguments"]) for call in found.values()] == [
        (call.function.name, call.function.arguments) for call in whole.message.tool_calls
    ]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "name"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "was given before"),
        ({"tools": [{"type": "retrieval"}]}, "tools"),
        ({"tools": None, "tool_choice": "required"}, "no tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "no function 'x'"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
    ],
)
def test_what_cannot_be_is_refused(client, changes, text):
    with pytest.raises(openai.BadRequestError, match=text):
        client.chat.completions.create(**{**ASKED, **changes})
