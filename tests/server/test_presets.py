"""What a model's alias sets, where a request or a conversation leaves it open."""

import httpx
import pytest

from localllm.engine.engine import Engine
from localllm.server.app import ServerOptions, create_app
from localllm.server.slots import Source
from tests.server.test_models import HELLO, PATH, Threaded


@pytest.fixture(scope="module")
def url():
    def load(reserved: int) -> Engine:
        return Engine.load(PATH, context=512)

    preset = {"max_tokens": 3, "temperature": 0.0}
    source = Source("mine", PATH, load, defaults=preset, system="Be brief.")
    running = Threaded(create_app([source], ServerOptions()))
    yield running.url
    running.close()


def test_the_system_prompt_of_conversations_that_have_none(url):
    def prompt(*messages) -> str:
        body = {"messages": [*messages, *HELLO]}
        return httpx.post(f"{url}/apply-template", json=body, timeout=30).json()["prompt"]

    own = {"role": "system", "content": "Be long."}
    assert "Be brief." in prompt()
    assert "Be brief." not in prompt(own)
    assert prompt() == prompt(own | {"content": "Be brief."})


def test_parameters_that_a_request_leaves_open(url):
    def count(**fields) -> int:
        body = {"messages": HELLO, **fields}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30).json()
        return answer["usage"]["completion_tokens"]

    assert count() == 3
    assert count(max_tokens=2) == 2
    assert count(max_tokens=-1) > 3
