"""Logs, metrics, spans, and how a server ends."""

from __future__ import annotations

import errno
import json
import logging
import re
import signal
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from localllm.cli.app import run
from localllm.engine.engine import Engine
from localllm.hub.names import resolve
from localllm.server import asking, listening, logs, running, tracing
from localllm.server.app import ServerOptions, create_app
from localllm.server.running import RunningServer
from localllm.server.slots import Source
from tests.server.conftest import Threaded

SECRET = "xyzzy-plugh"
HELLO = [{"role": "user", "content": f"Hello {SECRET}"}]
BODY = {"model": "tiny-chat", "messages": HELLO, "max_tokens": 5, "temperature": 0}


def chat(url: str, **changes) -> httpx.Response:
    headers = changes.pop("headers", {})
    return httpx.post(
        f"{url}/v1/chat/completions", json=BODY | changes, headers=headers, timeout=30
    )


def endless() -> dict[str, float]:
    ends = Engine.load(resolve(None).path, context=64).tokenizer.eog_ids
    return {str(token): -100 for token in ends}


def logged(program, count: int) -> list[str]:
    """The lines of so many requests, when they are there."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        lines = [line for line in program.log if "/v1/" in line and "://" not in line]
        if len(lines) >= count:
            return lines
        time.sleep(0.02)
    raise AssertionError(program.log)


def test_json_lines_without_prompts(serve):
    program = serve("--log", "json")
    chat(program.url, headers={"x-request-id": "mine-1"})
    chat(program.url, stream=True)
    chat(program.url, model="other")
    first, second, third = (json.loads(line) for line in logged(program, 3))
    assert first["id"] == "mine-1"
    assert (first["method"], first["path"], first["status"]) == (
        "POST",
        "/v1/chat/completions",
        200,
    )
    assert first["model"] == second["model"] == "tiny-chat"
    assert 1 <= first["completion_tokens"] == second["completion_tokens"] <= 5
    assert 0 < first["ttft"] <= first["duration"]
    assert first["prompt_tokens"] > first["cached_tokens"] == 0
    assert third["status"] == 404
    assert "model" not in third
    assert SECRET not in "\n".join(program.log)


def test_text_lines_and_prompts_where_asked(serve):
    program = serve("--log-prompts")
    chat(program.url)
    chat(program.url, user="a\nb\x1b[31m")
    first, second = logged(program, 2)
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ POST /v1/chat/completions 200 id=", first)
    assert SECRET in first
    assert "\x1b" not in second


def test_every_answer_has_an_id(server):
    for path in ("/health", "/v1/models", "/nowhere"):
        assert re.fullmatch(r"[0-9a-f]{32}", httpx.get(server.url + path).headers["x-request-id"])
    for sent, kept in [("abc.1-2", True), ("x" * 65, False), ("a b", False), ("<script>", False)]:
        got = httpx.get(f"{server.url}/health", headers={"x-request-id": sent})
        assert (got.headers["x-request-id"] == sent) == kept


def samples(url: str) -> dict[tuple[str, ...], float]:
    text = httpx.get(f"{url}/metrics").text
    return {
        (sample.name.removeprefix("localllm_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_what_was_answered(server):
    def change(*key: str) -> float:
        return after.get(key, 0) - before.get(key, 0)

    name = "tiny-chat"
    before = samples(server.url)
    long = [{"role": "user", "content": "Tell me more of it, and then again. " * 10}]
    answers = [chat(server.url, messages=long, n=2).json()["usage"] for _ in range(2)]
    chat(server.url, model="other")
    httpx.get(f"{server.url}/nowhere/{SECRET}")
    server.require_idle()
    after = samples(server.url)
    written = sum(usage["completion_tokens"] for usage in answers)
    assert change("generation_tokens_total", name) == written
    cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in answers)
    assert change("prompt_tokens_total", name) == 2 * answers[0]["prompt_tokens"]
    assert change("prefix_cache_hits_total", name) == cached > 0
    assert change("time_to_first_token_seconds_count", name) == 4
    assert change("inter_token_latency_seconds_count", name) == written - 4
    assert change("e2e_request_latency_seconds_count", name) == 2
    ended = [key for key in after if key[0] == "request_success_total"]
    assert sum(change(*key) for key in ended) == 4
    assert change("http_requests_total", "/v1/chat/completions", "200", "POST") == 2
    assert change("http_requests_total", "/v1/chat/completions", "404", "POST") == 1
    assert change("http_requests_total", "404", "GET", "other") == 1
    assert SECRET not in str(after)
    assert after["num_requests_running", name] == after["num_requests_waiting", name] == 0
    states = ("held", "cached", "free")
    pages = {state: after[("kv_pages", *sorted((name, state)))] for state in states}
    assert pages["held"] == after["kv_cache_usage_perc", name] == 0
    assert pages["cached"] > 0
    assert sum(pages.values()) == server.engine.runner.pages


def test_metrics_of_an_answer_under_way(server):
    body = BODY | {"stream": True, "max_tokens": 300, "logit_bias": endless()}
    before = samples(server.url)
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        while "content" not in next(lines):
            pass
        during = samples(server.url)
    assert during["num_requests_running", "tiny-chat"] == 1
    assert during["kv_cache_usage_perc", "tiny-chat"] > 0
    server.require_idle()
    key = ("request_success_total", "abort", "tiny-chat")
    deadline = time.monotonic() + 5
    while samples(server.url).get(key, 0) == before.get(key, 0):
        assert time.monotonic() < deadline


def test_drafts_are_counted(server):
    before = samples(server.url)
    body = {"prompt": "one two three four five six " * 12, "max_tokens": 100, "temperature": 0}
    url = f"{server.url}/v1/completions"
    timings = httpx.post(url, json=body | {"logit_bias": endless()}, timeout=30).json()["timings"]
    after = samples(server.url)
    assert timings["draft_n"] > 0
    for key, name in (("draft", "draft_n"), ("accepted", "draft_n_accepted")):
        counter = (f"spec_decode_num_{key}_tokens_total", "tiny-chat")
        assert after[counter] - before.get(counter, 0) == timings[name]


def test_a_span_a_request(monkeypatch):
    memory_exporter = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory_exporter.InMemorySpanExporter()
    made = tracing.Tracing
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(tracing, "Tracing", lambda: made(exporter))
    path = resolve(None).path
    source = Source("tiny-chat", path, lambda reserved: Engine.load(path, context=512))
    running = Threaded(create_app([source], ServerOptions()))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    usage = chat(running.url, headers={"traceparent": parent}).json()["usage"]
    chat(running.url, model="other")
    httpx.get(f"{running.url}/v1/models")
    running.close()  # sends what is left
    good, bad = exporter.get_finished_spans()
    assert good.name == "chat tiny-chat"
    assert format(good.context.trace_id, "032x") == parent.split("-")[1]
    assert good.attributes["gen_ai.operation.name"] == "chat"
    assert good.attributes["gen_ai.request.model"] == "tiny-chat"
    assert good.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert good.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert good.attributes["gen_ai.response.finish_reasons"][0] in ("stop", "length")
    assert good.end_time > good.start_time
    assert bad.attributes["http.response.status_code"] == 404
    assert SECRET not in str([dict(span.attributes) for span in (good, bad)])


def test_no_spans_unless_asked(monkeypatch):
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert not tracing.wanted()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_answers_under_way_are_completed_at_the_end(serve, ending):
    program = serve()
    body = BODY | {"stream": True, "max_tokens": 150, "logit_bias": endless()}
    with httpx.stream("POST", f"{program.url}/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        program.process.send_signal(ending)
        time.sleep(0.3)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{program.url}/health")
        rest = list(lines)
    assert rest[-2:] == ["data: [DONE]", ""]
    assert '"finish_reason":"length"' in rest[-4]
    assert program.process.wait(20) == 0
    assert "Traceback" not in "\n".join(program.log)


def test_a_second_signal_ends_at_once(serve):
    program = serve()
    place = urlsplit(program.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n")
        connection.sendall(b"content-length: 100\r\n\r\n{")  # under way as long as the rest is
        httpx.get(f"{program.url}/health")
        program.process.terminate()
        time.sleep(0.3)
        assert program.process.poll() is None
        program.process.terminate()
        assert program.process.wait(5) == -signal.SIGTERM
    assert "no server is running" in program.command("ps").stdout


def test_small_answers_are_not_held_back():
    """By Nagle's algorithm, which asyncio switches off where the listener names its protocol."""
    with listening._listener(listening.Address(port=0)) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_ps_and_stop(serve):
    program = serve("tiny-chat", str(resolve(None).path), "--alias", f"{resolve(None).path}=second")
    chat(program.url, model="second")
    shown = json.loads(program.command("ps", "--json").stdout)
    (server,) = shown["servers"]
    assert server["url"] == program.url
    states = {one["model"]: one["state"] for one in server["models"]}
    assert states == {"tiny-chat": "unloaded", "second": "loaded"}
    second = next(one for one in server["models"] if one["model"] == "second")
    assert second["context"] == 512
    assert second["memory"] > 10e6
    assert second["requests"] == 1
    assert 0 < second["unloads_in"] <= 300
    assert "second" in program.command("ps").stdout
    assert "unloaded" in program.command("stop", "second").stdout
    (server,) = json.loads(program.command("ps", "--json").stdout)["servers"]
    assert {one["state"] for one in server["models"]} == {"unloaded"}
    unknown = program.command("stop", "third")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)
    assert program.command("stop").returncode == 0
    assert program.process.wait(10) == 0
    assert program.command("ps").stdout.startswith("no server is running")
    assert json.loads(program.command("ps", "--json").stdout) == {"servers": []}
    nobody = program.command("stop")
    assert (nobody.returncode, nobody.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("kind", ["text", "json", "off"])
def test_a_lack_of_files_does_not_flood_the_log(capsys, kind):
    logs.reporter(kind, prompts=False)
    for _ in range(1000):
        try:
            raise OSError(errno.EMFILE, "Too many open files")
        except OSError:
            logging.getLogger("asyncio").exception("socket.accept() out of resource\nsocket: …")
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "socket.accept() out of resource: Too many open files" in told
    logging.getLogger("asyncio").error("something else")
    assert "something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "busy", "told"),
    [
        ("unloaded", 0, "is unloaded"),
        ("loaded", 1, "when the answers under way are complete"),
        ("loaded", 0, "when another model has been loaded"),
        ("loading", 1, "is being loaded"),
    ],
)
def test_a_stop_says_what_becomes_of_the_model(monkeypatch, capsys, state, busy, told):
    monkeypatch.setattr(running, "running_servers", lambda: [RunningServer(1, 0, "", "", ["m"])])
    monkeypatch.setattr(asking, "ask", lambda *_: {"state": state, "busy": busy})
    assert run(["stop", "m"]) == 0
    assert told in capsys.readouterr().out


def test_ps_needs_the_admin_key(serve):
    program = serve("--api-key", "user", "--admin-key", "admin")
    refused = program.command("ps")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "tiny-chat" in program.command("ps", "--admin-key", "admin").stdout
    program.environment["LOCALLLM_ADMIN_KEY"] = "admin"
    assert "tiny-chat" in program.command("ps").stdout


def test_nothing_of_a_killed_server_is_in_the_way(serve, tmp_path):
    path = tmp_path / "socket"
    for _ in range(2):
        killed = serve("--socket", str(path))
        killed.process.kill()
        killed.process.wait()
        assert path.exists()
    (tmp_path / "state" / "localllm" / "servers" / "1.json").write_text("{ no JSON")
    assert killed.command("ps").stdout.startswith("no server is running")
    program = serve("--socket", str(path))
    shown = json.loads(program.command("ps", "--json").stdout)
    assert [server["pid"] for server in shown["servers"]] == [program.process.pid]
    assert program.command("stop").returncode == 0
