"""Bodies that are wrong in very many places, or very long: refused without much work."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import ValidationError

from localllm.server.body import MOST_ITEMS
from localllm.server.completions_schemas import ChatRequest, CompletionRequest
from localllm.server.conversation import Conversation
from localllm.server.messages_schemas import MessagesRequest
from localllm.server.responses_schemas import ResponsesRequest
from localllm.server.sampling import MOST_STOPS
from localllm.server.tokenization import DetokenizeRequest

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
LONG = "word " * 600


@pytest.mark.parametrize(
    ("schema", "body"),
    [
        (ChatRequest, {"messages": [1] * 1000}),
        (ChatRequest, {"messages": [{"role": "user", "content": [1] * 1000}]}),
        (ChatRequest, HELLO | {"tools": [1] * 1000}),
        (ChatRequest, HELLO | {"stop": [1] * 1000}),
        (ChatRequest, HELLO | {"logit_bias": {str(i): "x" for i in range(1000)}}),
        (ChatRequest, HELLO | {"metadata": {str(i): 1 for i in range(1000)}}),
        (ChatRequest, HELLO | {f"field{i}": 1 for i in range(1000)}),
        (CompletionRequest, {"prompt": ["a", 1] * 1000}),
        (CompletionRequest, {"prompt": [["a"] * 1000] * 60}),
        (MessagesRequest, {"messages": [1] * 1000, "max_tokens": 1}),
        (MessagesRequest, HELLO | {"system": [1] * 1000}),
        (ResponsesRequest, {"input": [1] * 1000}),
        (ResponsesRequest, {"input": [{"role": "user", "content": [1] * 1000}]}),
        (DetokenizeRequest, {"tokens": ["a"] * 1000}),
    ],
)
def test_few_complaints_are_made_of_many_faults(schema, body):
    """To list millions of them took a minute, in which nobody else was served."""
    with pytest.raises(ValidationError) as refused:
        schema.model_validate(body)
    assert refused.value.error_count() <= 10


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": HELLO["messages"] * (MOST_ITEMS + 1)}, "messages"),
        ("/v1/responses", {"input": HELLO["messages"] * (MOST_ITEMS + 1)}, "input"),
        ("/v1/chat/completions", HELLO | {"stop": ["x"] * (MOST_STOPS + 1)}, "stop"),
        ("/v1/chat/completions", HELLO | {f"field{i}": 1 for i in range(1000)}, None),
        ("/v1/chat/completions", HELLO | {"logit_bias": {"999999": 1}}, "logit_bias"),
        ("/v1/completions", {"prompt": "x", "logit_bias": {"999999": 1}}, "logit_bias"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}, "messages"),
        ("/v1/completions", {"prompt": LONG}, "prompt"),
        ("/v1/completions/", {"prompt": LONG}, "prompt"),
        ("/v1/responses", {"input": LONG}, "input"),
        ("/v1/embeddings", {"input": LONG}, "input"),
        ("/v1/chat/completions", HELLO | {"max_completion_tokens": -5}, "max_completion_tokens"),
        ("/v1/chat/completions", HELLO | {"max_tokens": -5}, "max_tokens"),
        ("/v1/responses", {"input": "x", "max_output_tokens": -5}, "max_output_tokens"),
        ("/v1/completions", {"prompt": "x", "repetition_penalty": 1e9}, "repetition_penalty"),
        ("/v1/completions", {"prompt": "x", "repeat_penalty": 1e9}, "repeat_penalty"),
    ],
)
def test_errors_name_the_clients_own_field(server, path, body, param):
    refused = httpx.post(server.url + path, json=body, timeout=30)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, param), error
    assert "--" not in error["message"].split("(")[0]
    if error["code"] == "invalid_value" and param is not None:
        assert error["message"].startswith(param)


@pytest.mark.parametrize(
    ("path", "body", "slow"),
    [
        ("/tokenize", {"content": "x"}, "tokenizer.encode"),
        ("/detokenize", {"tokens": [5]}, "tokenizer.decode"),
        ("/apply-template", {"messages": HELLO["messages"]}, "session.prompt"),
    ],
)
def test_others_are_served_while_a_long_text_is_read(server, monkeypatch, path, body, slow):
    owner, name = slow.split(".")
    of = server.engine.tokenizer if owner == "tokenizer" else server.service.session
    work, go = getattr(of, name), threading.Event()

    def slowly(*given, **options):
        assert go.wait(10)
        return work(*given, **options)

    monkeypatch.setattr(of, name, slowly)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, server.url + path, json=body, timeout=30)
        time.sleep(0.2)
        try:
            assert httpx.get(f"{server.url}/health", timeout=5).status_code == 200
        finally:
            go.set()
        assert asked.result().status_code == 200


def test_a_request_may_spell_out_its_whole_url(server):
    place = urlsplit(server.url)

    def status(target: str, host: str) -> int:
        with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
            head = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode())
            return int(connection.recv(100).split()[1])

    assert status("http://localhost/v1/models?x=1", "localhost") == 200
    assert (
        status("HTTP://localhost:8080/v1/models/", "evil.example") == 200
    )  # the URL's host counts
    assert status("http://evil.example/v1/models", "localhost") == 403
    assert status("http://localhost", "localhost") == 200
    assert status("http://localhost/nowhere", "localhost") == 404


def test_what_one_side_says_in_several_items_is_one_message():
    conversation = Conversation()
    for text in ("", "a", "", "b"):
        conversation.add("user", text)
    conversation.think("hm")
    conversation.add("assistant", "c")
    conversation.call("1", "f", "{}")
    conversation.result("1", "d")
    assert [(one["role"], one["content"]) for one in conversation.messages] == [
        ("user", "a\n\n\n\nb"),
        ("assistant", "c"),
        ("tool", "d"),
    ]
