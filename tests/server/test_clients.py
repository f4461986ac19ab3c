"""The clients of docs/clients.md against the server, each where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from pydantic import BaseModel

SUM = "What is 12 + 30?"
WEATHER = "What is the weather in Paris?"


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


class get_weather(BaseModel):
    """Tells the weather."""

    location: str


def node_modules() -> Path | None:
    """Where npm put packages: LOCALLLM_NODE_MODULES, or its global folder."""
    if given := os.environ.get("LOCALLLM_NODE_MODULES"):
        return Path(given)
    if shutil.which("npm") is None:
        return None
    asked = subprocess.run(["npm", "root", "--global"], capture_output=True, text=True, timeout=60)
    return Path(asked.stdout.strip())


@pytest.mark.peer
def test_the_official_client_for_node(server):
    folder = node_modules()
    if shutil.which("node") is None or folder is None or not (folder / "openai").is_dir():
        pytest.skip("no node, or no npm package openai (LOCALLLM_NODE_MODULES says where)")
    script = Path(__file__).with_name("client.mjs")
    environment = os.environ | {
        "LOCALLLM_URL": server.url,
        "LOCALLLM_NODE_MODULES": str(folder.absolute()),
    }
    ran = subprocess.run(
        ["node", str(script)], env=environment, capture_output=True, text=True, timeout=240
    )
    assert ran.returncode == 0, ran.stderr


@pytest.fixture
def langchain(server):
    found = pytest.importorskip("langchain_openai")
    place = {"base_url": f"{server.url}/v1", "api_key": "any", "model": "tiny-chat"}
    return lambda kind, **options: getattr(found, kind)(**place, **options)


@pytest.mark.peer
@pytest.mark.parametrize("responses", [False, True])
def test_langchain_chat(langchain, responses):
    options = {"use_responses_api": responses, "stream_usage": True}
    llm = langchain("ChatOpenAI", temperature=0, **options)
    whole = llm.invoke(SUM)
    assert whole.text.startswith("12 + 30")
    parts = list(llm.stream(SUM))
    assert "".join(part.text for part in parts) == whole.text
    assert len([part for part in parts if part.text]) > 1
    (usage,) = [part.usage_metadata for part in parts if part.usage_metadata]
    assert usage["output_tokens"] == whole.usage_metadata["output_tokens"]


@pytest.mark.peer
def test_langchain_tools(langchain):
    from langchain_core.messages import HumanMessage, ToolMessage

    llm = langchain("ChatOpenAI", temperature=0).bind_tools([get_weather])
    said = [HumanMessage(WEATHER), llm.invoke(WEATHER)]
    (call,) = said[1].tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"location": "Paris"})
    result = ToolMessage('{"weather": "sunny"}', tool_call_id=call["id"])
    assert "sunny" in llm.invoke([*said, result]).text
    first, *rest = llm.stream(WEATHER)
    assert sum(rest, first).tool_calls[0]["args"] == {"location": "Paris"}


@pytest.mark.peer
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_objects(langchain, method):
    llm = langchain("ChatOpenAI", temperature=0, max_tokens=300)
    found = llm.with_structured_output(Person, method=method).invoke("Ada is 36.")
    assert isinstance(found, Person)


@pytest.mark.peer
def test_langchain_texts_and_vectors(langchain):
    text = langchain("OpenAI", temperature=0, max_tokens=8)
    assert "".join(text.stream("Once upon")) == text.invoke("Once upon") != ""
    vectors = langchain("OpenAIEmbeddings", check_embedding_ctx_length=False)
    alone, together = vectors.embed_query("a cat"), vectors.embed_documents(["a cat", "a dog"])
    assert alone == pytest.approx(together[0], abs=1e-5)


@pytest.mark.peer
def test_llama_index(server):
    llms = pytest.importorskip("llama_index.llms.openai_like")
    from llama_index.core.llms import ChatMessage
    from llama_index.core.tools import FunctionTool

    def like(**options):
        return llms.OpenAILike(
            model="tiny-chat",
            api_base=f"{server.url}/v1",
            api_key="any",
            context_window=512,
            temperature=0,
            **options,
        )

    llm = like(is_chat_model=True, is_function_calling_model=True)
    asked = [ChatMessage(role="user", content=SUM)]
    whole = llm.chat(asked).message.content
    assert whole.startswith("12 + 30")
    assert "".join(part.delta for part in llm.stream_chat(asked)) == whole

    def get_weather(location: str) -> str:
        """Tells the weather."""
        return f"sunny in {location}"

    tool = FunctionTool.from_defaults(get_weather)
    assert str(llm.predict_and_call([tool], WEATHER)) == "sunny in Paris"
    plain = like(is_chat_model=False, max_tokens=8)
    parts = [part.delta for part in plain.stream_complete("Once upon")]
    assert "".join(parts) == plain.complete("Once upon").text != ""
    objects = like(is_chat_model=True, should_use_structured_outputs=True, max_tokens=300)
    assert isinstance(objects.as_structured_llm(Person).complete("Ada is 36.").raw, Person)


@pytest.mark.peer
def test_llm(server, tmp_path):
    """Simon Willison's command."""
    pytest.importorskip("llm")
    (tmp_path / "extra-openai-models.yaml").write_text(
        "- model_id: tiny\n"
        "  model_name: tiny-chat\n"
        f"  api_base: {server.url}/v1\n"
        "  supports_schema: true\n"
        "  supports_tools: true\n"
    )

    def ask(*arguments):
        ran = subprocess.run(
            [shutil.which("llm") or "llm", "-m", "tiny", "-o", "temperature", "0", *arguments],
            env=os.environ | {"LLM_USER_PATH": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    assert ask(SUM).startswith("12 + 30")
    assert ask(SUM, "--no-stream") == ask(SUM)
    found = Person.model_validate_json(ask("Ada is 36.", "--schema", "name, age int"))
    assert found.name
    weather = 'def get_weather(location: str) -> str:\n    "Tells the weather."\n    return "sunny"'
    assert "sunny" in ask(WEATHER, "--functions", weather)


def test_what_programs_ask_to_find_a_server(server):
    """HEAD, a slash at the end, names in percent encoding, paths of others' APIs."""
    for path in ("/", "/health", "/v1/models", "/v1/models/", "/v1/models/tiny%2Dchat"):
        head, get = httpx.head(server.url + path), httpx.get(server.url + path)
        assert (head.status_code, head.content) == (get.status_code, b"") == (200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
    for path in ("/api/version", "/api/tags", "/v1", "/props"):
        answer = httpx.get(server.url + path)
        assert answer.status_code == 404
        assert path in answer.json()["error"]["message"]
    wrong = httpx.get(f"{server.url}/v1/chat/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    form = httpx.post(f"{server.url}/tokenize", content='{"content": "a"}')
    assert form.status_code == 400
    assert "Content-Type" in form.json()["error"]["message"]
