"""Fields of the chat API, by what they change; the official client sends them."""

from __future__ import annotations

import httpx
import openai
import pytest

from tests.server.pieces import THINKS_SPEAKS_CALLS, answer_with

SUM = [{"role": "user", "content": "What is 12 + 30?"}]
STORY = [{"role": "user", "content": "Tell me a story."}]
SHORT = {"model": "tiny-chat", "max_tokens": 16}


@pytest.fixture(params=[False, True], ids=["whole", "streamed"])
def ask(request, server):
    """The text and the end of each answer, whole or put together from a stream."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

        def asked(messages=STORY, **fields):
            fields = {**SHORT, "messages": messages, **fields}
            made = client.chat.completions.create(stream=request.param, **fields)
            count = fields.get("n", 1)
            texts, ends = [""] * count, [None] * count
            for chunk in made if request.param else [made]:
                for choice in chunk.choices:
                    said = choice.delta if request.param else choice.message
                    texts[choice.index] += said.content or ""
                    ends[choice.index] = choice.finish_reason or ends[choice.index]
            return list(zip(texts, ends, strict=True))

        yield asked


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_seed_and_n(ask):
    first, again = ask(seed=5, temperature=1.5, n=3), ask(seed=5, temperature=1.5, n=3)
    assert first == again
    assert len(set(first)) > 1
    assert ask(seed=6, temperature=1.5, n=3) != first


def test_stop(ask):
    ((whole, _),) = ask(SUM, temperature=0)
    ((cut, end),) = ask(SUM, temperature=0, stop=["nowhere", whole[4:7]])
    assert (cut, end) == (whole[:4], "stop")


def test_logit_bias(ask, server):
    """The first token of the answer is forbidden."""
    ((whole, _),) = ask(SUM, temperature=0)
    token = server.engine.tokenizer.encode(whole, add_special=False)[0]
    ((other, _),) = ask(SUM, temperature=0, logit_bias={str(token): -100})
    assert other[0] != whole[0]


def test_max_tokens(ask):
    biases = {"temperature": 0, "max_tokens": 100, "max_completion_tokens": 3}
    assert ask(**biases)[0][1] == "length"


@pytest.mark.parametrize("only", [{"top_k": 1}, {"min_p": 1.0}, {"top_p": 0.0001}])
def test_only_the_likeliest(ask, only):
    """Each leaves one token at every place, however hot it is drawn."""
    ((greedy, _),) = ask(temperature=0)
    ((drawn, _),) = ask(temperature=2, seed=1, extra_body=only)
    assert drawn == greedy


@pytest.mark.parametrize(
    "penalty",
    [
        {"frequency_penalty": 2},
        {"presence_penalty": 2},
        {"repeat_penalty": 3},
        {"repetition_penalty": 3},
    ],
)
def test_penalties(ask, penalty):
    """What goes on after its end repeats itself, unless that is punished."""
    endless = {"temperature": 0, "max_tokens": 64}
    plain = ask(STORY, extra_body={"ignore_eos": True}, **endless)
    assert ask(STORY, extra_body={"ignore_eos": True, **penalty}, **endless) != plain


def test_reasoning_is_told_under_both_names(client, monkeypatch):
    answer_with(monkeypatch, THINKS_SPEAKS_CALLS)
    asked = {**SHORT, "messages": SUM, "reasoning_effort": "high"}
    message = client.chat.completions.create(**asked).choices[0].message
    assert message.reasoning_content == message.reasoning == "Two cities."
    assert message.content == "I look it up."
    told = {"reasoning_content": "", "reasoning": ""}
    for chunk in client.chat.completions.create(stream=True, **asked):
        for name in told:
            told[name] += getattr(chunk.choices[0].delta, name, None) or ""
    assert set(told.values()) == {"Two cities."}
    back = {**message.model_dump(), "tool_calls": None}
    assert client.chat.completions.create(**{**asked, "messages": [*SUM, back, *SUM]}).choices


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_reasoning_effort(ask, effort):
    assert ask(SUM, reasoning_effort=effort)[0][0]


def test_counts_and_timings(client):
    asked = {"messages": [{"role": "user", "content": "Count! " * 40}], **SHORT}
    client.chat.completions.create(**asked)
    whole = client.chat.completions.create(**asked)
    asked["stream_options"] = {"include_usage": True}
    *chunks, last = client.chat.completions.create(stream=True, **asked)
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert last.choices == []
    for answer in (whole, last):
        usage, timings = answer.usage, answer.timings
        assert 0 < usage.prompt_tokens_details.cached_tokens < usage.prompt_tokens
        assert usage.prompt_tokens_details.cached_tokens == timings["cache_n"]
        assert usage.prompt_tokens == timings["cache_n"] + timings["prompt_n"]
        assert usage.completion_tokens == timings["predicted_n"]


def test_a_stream_begins_with_the_role_and_ends_with_the_reason(client):
    asked = {"messages": SUM, "n": 2, **SHORT}
    chunks = list(client.chat.completions.create(stream=True, **asked))
    assert len({chunk.id for chunk in chunks}) == 1
    for index in range(2):
        own = [one.choices[0] for one in chunks if one.choices[0].index == index]
        assert [choice.delta.role for choice in own] == ["assistant"] + [None] * (len(own) - 1)
        assert all(choice.finish_reason is None for choice in own[:-1])
        assert own[-1].finish_reason in ("stop", "length")


def test_keep_alive(client, server):
    """The time is that of the last request; 0 would unload this server's only engine."""
    for given in ("10m", 600, "-1"):
        extra = {"keep_alive": given}
        assert client.chat.completions.create(messages=SUM, extra_body=extra, **SHORT).choices
    with pytest.raises(openai.BadRequestError, match="keep_alive"):
        client.chat.completions.create(messages=SUM, extra_body={"keep_alive": "soon"}, **SHORT)


def test_null_is_as_good_as_left_out(client):
    names = ["n", "stream", "stop", "tools", "tool_choice", "response_format", "logprobs", "seed"]
    names += ["top_logprobs", "parallel_tool_calls", "stream_options", "logit_bias", "top_k"]
    answer = client.chat.completions.create(
        messages=SUM, extra_body=dict.fromkeys(names), temperature=0, **SHORT
    )
    assert len(answer.choices) == 1
    with pytest.raises(openai.BadRequestError, match="nonsense"):
        client.chat.completions.create(messages=SUM, extra_body={"nonsense": None}, **SHORT)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "type"),
        ({"stop": [1]}, "stop"),
    ],
)
def test_what_is_refused_is_named_as_it_was_sent(client, changes, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"messages": SUM, **SHORT, **changes})
    assert refused.value.body["param"].split(".")[0] in changes
    assert param in refused.value.body["param"]
    assert "literal" not in refused.value.body["param"]


def test_what_agents_ask_of_responses(client):
    """Reasoning comes whole and goes back as it came: no summary, no encryption is needed."""
    answer = client.responses.create(
        model="tiny-chat",
        input=SUM,
        max_output_tokens=4,
        store=False,
        reasoning={"effort": "low", "summary": "auto"},
        include=["reasoning.encrypted_content"],
        prompt_cache_key="a",
    )
    assert answer.output[0].content[0].logprobs == []


@pytest.mark.parametrize("name", ["messages", "tools", "self"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/apply-template"])
def test_what_is_no_variable_of_a_template(server, path, name):
    asked = {"messages": SUM, "chat_template_kwargs": {name: 1}}
    refused = httpx.post(server.url + path, json=asked)
    assert refused.status_code == 400
    assert f"{name} is no variable" in refused.json()["error"]["message"]


@pytest.mark.parametrize("token", ["9" * 5000, "-1", "x"])
def test_what_is_no_token_id(server, token):
    refused = httpx.post(
        f"{server.url}/v1/chat/completions", json={"messages": SUM, "logit_bias": {token: 1}}
    )
    assert refused.status_code == 400
    assert "is no token id" in refused.json()["error"]["message"]


def test_a_schema_that_nothing_satisfies(server):
    wanted = {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}
    refused = httpx.post(
        f"{server.url}/v1/chat/completions", json={"messages": SUM, "response_format": wanted}
    )
    assert refused.status_code == 400
    assert "nothing satisfies it" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", r'{"prompt": "\ud800", "echo": true, "max_tokens": 1}', 200),
        ("/v1/responses", r'{"input": "x", "user": "\ud800", "max_output_tokens": 1}', 200),
        ("/apply-template", r'{"messages": [{"role": "user", "content": "\ud800"}]}', 200),
        ("/v1/completions", r'{"prompt": "x", "strategy": "\ud800"}', 400),
    ],
)
def test_half_of_a_surrogate_pair(server, path, body, status):
    """JSON can spell it out, UTF-8 cannot."""
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(server.url + path, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    answer.json()
