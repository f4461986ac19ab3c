"""The official client against the server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import jsonschema
import numpy as np
import openai
import pytest

from localllm.engine.engine import Engine
from localllm.hub.names import resolve
from tests.server.conftest import engine_answer

HELLO = [{"role": "user", "content": "Hello, who are you?"}]
GREEDY = {"model": "tiny-chat", "temperature": 0, "max_tokens": 24}


@pytest.fixture(scope="module")
def expected() -> str:
    return engine_answer(HELLO)


def test_chat(client, expected):
    answer = client.chat.completions.create(messages=HELLO, **GREEDY)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_stream(client, expected):
    stream = client.chat.completions.create(
        messages=HELLO, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0


def test_many_at_once_answer_as_alone(client, expected):
    """Greedy rows do not depend on the rows beside them, nor on cached prefixes."""

    def ask(_):
        return client.chat.completions.create(messages=HELLO, **GREEDY)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(16)))
    assert {answer.choices[0].message.content for answer in answers} == {expected}


def test_several_answers(client):
    asked = {"messages": HELLO, "model": "tiny-chat", "n": 3, "seed": 7, "max_tokens": 12}
    first = client.chat.completions.create(**asked)
    again = client.chat.completions.create(**asked)
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert texts == [choice.message.content for choice in again.choices]


def test_completion(client, server):
    ids = server.engine.tokenizer.encode("Once upon a time")
    by_text = client.completions.create(prompt="Once upon a time", **GREEDY)
    by_ids = client.completions.create(prompt=ids, **GREEDY)
    assert by_text.choices[0].text == by_ids.choices[0].text != ""
    stopped = client.completions.create(
        prompt="Once upon a time", stop=by_text.choices[0].text[3:8], **GREEDY
    )
    assert stopped.choices[0].text == by_text.choices[0].text[:3]
    assert stopped.choices[0].finish_reason == "stop"


def test_several_prompts_each_with_several_answers(client):
    prompts = ["Once upon a time", "The capital of France"]
    asked = {"model": "tiny-chat", "seed": 3, "max_tokens": 8, "n": 2}
    together = client.completions.create(prompt=prompts, **asked)
    apart = [client.completions.create(prompt=prompt, **asked) for prompt in prompts]
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in together.choices] == [
        choice.text for one in apart for choice in one.choices
    ]
    assert together.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in apart)


def test_an_echo_with_the_likelihood_of_every_token(client, server):
    """What evaluation harnesses ask: the prompt scored, nothing written."""
    text = "Once upon a time there was a cat."
    asked = {"prompt": text, "model": "tiny-chat", "echo": True, "logprobs": 2}
    answer = client.completions.create(max_tokens=0, **asked)
    choice, told = answer.choices[0], answer.choices[0].logprobs
    tokenizer = server.engine.tokenizer
    ids = tokenizer.encode(text)
    assert choice.text == tokenizer.decode(ids)
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(ids)
    assert told.token_logprobs[0] is None
    logits = np.concatenate(list(Engine.load(resolve(None).path, context=512).logits(ids)))
    logits = logits[:, : tokenizer.vocab_size].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    found = told.token_logprobs[1:]
    assert found == pytest.approx(expected[np.arange(len(ids) - 1), ids[1:]], abs=1e-4)
    assert all(len(top) == 2 for top in told.top_logprobs[1:])
    longer = client.completions.create(max_tokens=4, **asked).choices[0]
    assert longer.text.startswith(choice.text)
    assert longer.logprobs.token_logprobs[: len(ids)] == told.token_logprobs


@pytest.mark.parametrize("stream", [False, True])
def test_how_likely_each_token_was(client, stream):
    asked = {"messages": HELLO, "logprobs": True, "top_logprobs": 3, **GREEDY}
    if stream:
        chunks = [
            chunk.choices[0] for chunk in client.chat.completions.create(stream=True, **asked)
        ]
        told = [entry for chunk in chunks if chunk.logprobs for entry in chunk.logprobs.content]
        text = "".join(chunk.delta.content or "" for chunk in chunks)
    else:
        choice = client.chat.completions.create(**asked).choices[0]
        told, text = choice.logprobs.content, choice.message.content
    assert b"".join(bytes(entry.bytes) for entry in told).decode().strip() == text.strip()
    for entry in told:
        assert entry.logprob <= 0
        assert entry.token == entry.top_logprobs[0].token  # greedy
        assert len(entry.top_logprobs) == 3


def test_a_context_of_its_own(client):
    answer = client.chat.completions.create(
        messages=HELLO, model="tiny-chat", temperature=0, extra_body={"num_ctx": 24}
    )
    assert answer.usage.total_tokens <= 24
    with pytest.raises(openai.BadRequestError, match="context holds 8,"):
        client.chat.completions.create(messages=HELLO, extra_body={"num_ctx": 8}, **GREEDY)


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"enum": [1, 22, 333]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 2])
def test_json_by_a_schema(client, temperature):
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    answer = client.chat.completions.create(
        messages=HELLO, model="tiny-chat", temperature=temperature, n=4, response_format=form
    )
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content), PERSON)


def test_any_json_object(client):
    answer = client.chat.completions.create(
        messages=[{"role": "user", "content": "Give me a JSON object of two fields."}],
        response_format={"type": "json_object"},
        model="tiny-chat",
        temperature=0,
    )
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_a_schema_that_cannot_be_enforced_is_refused(client):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    with pytest.raises(openai.BadRequestError, match="schema"):
        client.chat.completions.create(messages=HELLO, response_format=form, **GREEDY)


def test_the_last_message_goes_on(client):
    asked = {"temperature": 0, "model": "tiny-chat"}
    question = {"role": "user", "content": "What is 12 + 30?"}
    whole = client.chat.completions.create(messages=[question], **asked).choices[0].message.content
    begun = {"role": "assistant", "content": whole[:9]}
    rest = client.chat.completions.create(
        messages=[question, begun], extra_body={"continue_final_message": True}, **asked
    )
    assert begun["content"] + rest.choices[0].message.content == whole
    with pytest.raises(openai.BadRequestError, match="is not the assistant's"):
        client.chat.completions.create(
            messages=[question], extra_body={"continue_final_message": True}, **asked
        )


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny-chat"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"n": 99}, "n"),
        ({"extra_body": {"nonsense": 1}}, "nonsense"),
        ({"extra_body": {"functions": []}}, "functions"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(client, changes, field):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"messages": HELLO, **GREEDY, **changes})
    assert refused.value.body["param"] == field
    assert field in refused.value.body["message"]


def test_a_prompt_that_does_not_fit_names_both_numbers(client):
    long = [{"role": "user", "content": "word " * 2000}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(messages=long, **GREEDY)
    assert refused.value.code == "context_length_exceeded"
    assert "512" in refused.value.body["message"]


def test_an_unknown_model(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(messages=HELLO, model="gpt-9")


def test_a_client_that_goes_away_frees_its_pages(server):
    body = {"messages": HELLO, "max_tokens": 400, "stream": True, "logit_bias": {}}
    url = f"{server.url}/v1/chat/completions"
    for _ in range(5):
        with httpx.stream("POST", url, json=body, timeout=20) as response:
            next(response.iter_lines())
    body["stream"] = False
    with suppress(httpx.ReadTimeout):  # unless the answer is short
        httpx.post(url, json={**body, "max_tokens": 480}, timeout=0.05)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"messages": 1}'])
def test_bad_bodies_are_the_clients_fault(server, body):
    url = f"{server.url}/v1/chat/completions"
    answer = httpx.post(url, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_tokens_there_and_back(server):
    text = "Häuser <|im_end|> 東京"
    ids = httpx.post(f"{server.url}/tokenize", json={"content": text}).json()["tokens"]
    back = httpx.post(f"{server.url}/detokenize", json={"tokens": ids}).json()["content"]
    assert back == text
    wrong = httpx.post(f"{server.url}/detokenize", json={"tokens": [10**9]})
    assert wrong.status_code == 400


def test_keys(locked):
    def ask(**headers):
        return httpx.get(f"{locked.url}/v1/models", headers=headers).status_code

    assert ask() == ask(authorization="Bearer wrong") == 401
    assert ask(authorization="Bearer first-key") == ask(**{"x-api-key": "second-key"}) == 200
    assert httpx.get(f"{locked.url}/health").status_code == 200
