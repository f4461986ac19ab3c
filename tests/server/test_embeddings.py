"""`/v1/embeddings` with the official client."""

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise

import httpx
import numpy as np
import openai
import pytest

from localllm.engine.embedding import Embedding
from localllm.engine.engine import Engine
from localllm.hub.names import resolve
from localllm.server import embeddings
from tests.server.conftest import Running

TEXTS = ["Hello, who are you?", "Once upon a time", "東京", "a " * 200]


@pytest.fixture(scope="module")
def roomy():
    """A server of long texts."""
    running = Running(context=2304, texts=2)
    yield running
    running.close()


def vectors_of(answer):
    return np.array([item.embedding for item in answer.data], np.float32)


def post(server, **body):
    return httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=60)


@pytest.mark.parametrize("form", [openai.omit, "float", "base64"])
def test_embeddings(client, server, form):
    engine = Engine.load(resolve(None).path, context=512)
    ids = [engine.tokenizer.encode(text) for text in TEXTS]
    embedding = Embedding(engine, ids, "mean")
    while embedding.waiting:
        embedding.step()
    expected = embedding.vectors / np.linalg.norm(embedding.vectors, axis=1, keepdims=True)
    answer = client.embeddings.create(model="tiny-chat", input=TEXTS, encoding_format=form)
    assert answer.object == "list"
    assert answer.model == "tiny-chat"
    assert [(item.object, item.index) for item in answer.data] == [
        ("embedding", index) for index in range(len(TEXTS))
    ]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, ids))
    if form == "base64":  # the client hands out what it asked for
        found = [np.frombuffer(base64.b64decode(i.embedding), "<f4") for i in answer.data]
    else:
        found = vectors_of(answer)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_both_forms_are_the_same_numbers(client):
    by_default = client.embeddings.create(model="tiny-chat", input=TEXTS)  # base64 on the way
    as_floats = client.embeddings.create(model="tiny-chat", input=TEXTS, encoding_format="float")
    np.testing.assert_array_equal(vectors_of(by_default), vectors_of(as_floats))


def test_texts_together_are_texts_alone(client):
    together = vectors_of(client.embeddings.create(model="tiny-chat", input=TEXTS * 20))
    for text, vector in zip(TEXTS, together, strict=False):
        alone = client.embeddings.create(model="tiny-chat", input=text)
        np.testing.assert_array_equal(vectors_of(alone)[0], vector)
    np.testing.assert_array_equal(together[:4], together[-4:])


def test_token_ids_are_texts(client, server):
    ids = [server.engine.tokenizer.encode(text) for text in TEXTS]
    by_text = vectors_of(client.embeddings.create(model="tiny-chat", input=TEXTS))
    by_ids = vectors_of(client.embeddings.create(model="tiny-chat", input=ids))
    np.testing.assert_array_equal(by_text, by_ids)
    one = vectors_of(client.embeddings.create(model="tiny-chat", input=ids[0]))
    np.testing.assert_array_equal(one, by_text[:1])


def test_dimensions(client):
    whole = vectors_of(client.embeddings.create(model="tiny-chat", input=TEXTS))
    short = vectors_of(client.embeddings.create(model="tiny-chat", input=TEXTS, dimensions=16))
    cut = whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True)
    np.testing.assert_allclose(short, cut, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, rtol=1e-6)


def test_pooling_and_length(client):
    def ask(**extra):
        asked = {"model": "tiny-chat", "input": TEXTS[0], "extra_body": extra}
        return vectors_of(client.embeddings.create(**asked))[0]

    assert not np.allclose(ask(pooling="last"), ask(pooling="cls"))
    np.testing.assert_array_equal(ask(), ask(pooling="mean", normalize=True))
    raw = ask(normalize=False)
    assert abs(np.linalg.norm(raw) - 1) > 0.01
    np.testing.assert_allclose(raw / np.linalg.norm(raw), ask(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"input": ""}, "input", "empty"),
        ({"input": []}, "input", "empty"),
        ({"input": ["a", ""]}, "input", "input.1: is empty"),
        ({"input": [[]]}, "input", "empty"),
        ({"input": [1, -1]}, "input", "token id -1 must be >= 0"),
        ({"input": [[1], [10**30]]}, "input", "input.1: token id"),
        ({"input": ["a", 1]}, "input", "must be a text"),
        ({"input": [True]}, "input", "must be a text"),
        ({"input": {"a": 1}}, "input", "must be a text"),
        ({"input": ["a"] * 2049}, "input", "2049 texts; at most 2048"),
        ({"input": "word " * 2000}, "input", "tokens long; the context holds 512"),
        ({"dimensions": 0}, "dimensions", "greater"),
        ({"dimensions": 10**6}, "dimensions", "dimensions 1000000: the model's vectors have"),
        ({"pooling": "max"}, "pooling", "mean"),
        ({"encoding_format": "int8"}, "encoding_format", "float"),
        ({"nonsense": 1}, "nonsense", "not supported"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(server, changes, field, message):
    answer = post(server, **{"model": "tiny-chat", "input": "a", **changes})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == field
    assert message in error["message"]


def test_a_text_that_does_not_fit_is_told_by_its_code(client, server):
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="tiny-chat", input=[[5] * 513])
    assert refused.value.code == "context_length_exceeded"
    assert "513" in refused.value.body["message"]
    assert len(client.embeddings.create(model="tiny-chat", input=[[5] * 512]).data) == 1


def test_too_many_tokens(server, monkeypatch):
    monkeypatch.setattr(embeddings, "MOST_TOKENS", 100)
    assert post(server, input=[[5] * 50] * 2).status_code == 200
    answer = post(server, input=[[5] * 50] * 2 + [[5]])
    assert answer.status_code == 400
    assert "more than 100 tokens" in answer.json()["error"]["message"]


def test_answers_go_on_while_a_long_text_is_embedded(roomy):
    """Between any two of the text's chunks there is a step of the answer, until that ends."""
    body = {"prompt": "Once", "max_tokens": 2000, "stream": True, "seed": 1}  # few drafts are right
    body["logit_bias"] = {str(eog): -100 for eog in roomy.engine.tokenizer.eog_ids}
    engine, runner = roomy.engine, roomy.engine.runner
    order = []
    step = runner.step

    def noted(batch, output="logits"):
        if engine.busy:
            order.append(output)
        return step(batch, output)

    runner.step = noted
    try:
        url = f"{roomy.url}/v1/completions"
        with (
            ThreadPoolExecutor(1) as pool,
            httpx.stream("POST", url, json=body, timeout=60) as answer,
        ):
            lines = answer.iter_lines()
            next(lines)
            asked = pool.submit(post, roomy, input=[[7] * 2000])
            assert asked.result(60).status_code == 200
    finally:
        del runner.step
    roomy.require_idle()
    chunks = [at for at, output in enumerate(order) if output == "hidden"]
    assert len(chunks) >= 4
    assert all(after - before >= 2 for before, after in pairwise(chunks))


def test_a_client_that_goes_away_frees_its_pages(roomy):
    for _ in range(3):
        with suppress(httpx.ReadTimeout):
            httpx.post(
                f"{roomy.url}/v1/embeddings", json={"input": [[7] * 2300] * 100}, timeout=0.2
            )
    started = time.monotonic()
    roomy.require_idle()
    assert post(roomy, input="a").status_code == 200
    assert time.monotonic() - started < 10  # three times 230,000 tokens are not computed


def test_many_requests_at_once(roomy):
    """More pages are wanted than there are."""
    texts = [[[3 + number] * 1800, [5] * 40] for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda text: post(roomy, input=text), texts))
    assert [answer.status_code for answer in answers] == [200] * 6
    ends = {json.dumps(answer.json()["data"][1]["embedding"]) for answer in answers}
    assert len(ends) == 1
    roomy.require_idle()
