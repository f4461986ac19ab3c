"""A server of an embedding model: vectors, and a 400 for what it cannot do."""

import httpx
import numpy as np
import openai
import pytest

from localllm.engine.embedding import Embedding, shortened
from localllm.engine.engine import Engine
from localllm.server.app import ServerOptions, create_app
from localllm.server.slots import Source
from tests.models.encoders import CONTEXT, random_bert
from tests.server.conftest import Threaded

TEXTS = ["the fox", "over the dog, the lazy dog", "a", "b? " * 30]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    pytest.importorskip("localllm._native")
    return random_bert(tmp_path_factory.mktemp("models") / "encoder.gguf")


@pytest.fixture(scope="module")
def url(path):
    """Loaded when it is first asked for."""
    source = Source("encoder", path, lambda reserved: Engine.load(path))
    running = Threaded(create_app([source], ServerOptions(), {}))
    yield running.url
    running.close()


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


def vectors_of(answer):
    return np.array([item.embedding for item in answer.data], np.float32)


def test_vectors_are_those_of_the_engine(client, path):
    engine = Engine.load(path)
    embedding = Embedding(engine, [engine.tokenizer.encode(text) for text in TEXTS], "mean")
    while embedding.waiting:
        embedding.step()
    found = vectors_of(client.embeddings.create(model="encoder", input=TEXTS * 10))
    np.testing.assert_array_equal(found[:4], found[-4:])
    np.testing.assert_allclose(found[:4], shortened(embedding.vectors, None, True), atol=1e-6)
    for text, vector in zip(TEXTS, found, strict=False):
        alone = client.embeddings.create(model="encoder", input=text)
        np.testing.assert_array_equal(vectors_of(alone)[0], vector)


def test_a_text_that_is_too_long(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="encoder", input="a " * 200)
    assert refused.value.code == "context_length_exceeded"
    assert str(CONTEXT) in refused.value.body["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
        ("completions", {"prompt": "hello"}),
        ("responses", {"input": "hello"}),
        ("messages", {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}),
    ],
)
def test_an_answer_is_refused(url, route, body, stream):
    asked = {"model": "encoder", "stream": stream, **body}
    answer = httpx.post(f"{url}/v1/{route}", json=asked, timeout=60)
    assert answer.status_code == 400
    assert (
        "encoder.gguf: an embedding model (bert): it generates" in answer.json()["error"]["message"]
    )


def test_the_server_stands_by_its_figures(url, client):
    client.embeddings.create(model="encoder", input=TEXTS)
    metrics = httpx.get(f"{url}/metrics").text
    assert 'localllm_kv_pages{model_name="encoder",state="held"} 0.0' in metrics
    assert httpx.get(f"{url}/v1/models").json()["data"][0]["context_length"] == CONTEXT
