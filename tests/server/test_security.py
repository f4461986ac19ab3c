"""Who may ask, from where, and how much."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import stat
import subprocess
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from localllm.server import access
from tests.server.conftest import PROGRAM, Running

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
ADMIN = ["/admin/ps", "/admin/load", "/admin/stop", "/v1/load_lora_adapter"]


@pytest.fixture
def start() -> Iterator:
    """Servers with these options."""
    running: list[Running] = []

    def begin(*keys: str, **options) -> Running:
        running.append(Running(*keys, **options))
        return running[-1]

    yield begin
    for one in running:
        one.close()


def status(url: str, key: str | None = None, method: str = "GET", **headers: str) -> int:
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    return httpx.request(method, url, headers=headers).status_code


def test_user_keys_and_admin_keys(start):
    url = start("user", "other", admin_keys=("admin",)).url
    assert [status(f"{url}/v1/models", key) for key in (None, "wrong", "usera")] == [401] * 3
    assert [status(f"{url}/v1/models", key) for key in ("user", "other", "admin")] == [200] * 3
    assert [status(f"{url}/metrics", key) for key in (None, "user")] == [401, 200]
    assert status(f"{url}/health") == 200
    assert [status(url + path, "user") for path in ADMIN] == [403] * 4
    assert [status(url + path, key) for path in ADMIN for key in (None, "no")] == [401] * 8
    assert status(f"{url}/admin/ps", "admin") == 200
    assert status(f"{url}/v1/models", **{"x-api-key": "user"}) == 200
    assert status(f"{url}/v1/models", authorization="bearer user") == 200
    assert status(f"{url}/v1/models", authorization="Basic user") == 401


def test_admin_routes_without_an_admin_key(start):
    with_users = start("user").url
    assert status(f"{with_users}/admin/ps", "user") == 403
    assert status(f"{with_users}/admin/ps") == 401
    open_to_all = start().url
    assert status(f"{open_to_all}/admin/ps") == 200
    for header in ("forwarded", "x-forwarded-for", "x-real-ip", "via"):
        assert status(f"{open_to_all}/admin/ps", **{header: "127.0.0.1"}) == 403


def test_an_admin_key_alone_asks_users_for_nothing(start):
    url = start(admin_keys=("admin",)).url
    assert status(f"{url}/v1/models") == 200
    assert status(f"{url}/admin/ps") == 401
    assert status(f"{url}/admin/ps", "admin") == 200


def test_admin_routes_are_not_for_other_machines():
    def scope(client, host=b"localhost:1"):
        return {"client": client, "headers": [(b"host", host)]}

    def allowed(scope):
        return access._from_here(scope, dict(scope["headers"]))

    assert allowed(scope(("127.0.0.1", 5)))
    assert allowed(scope(("::1", 5), b"[::1]:80"))
    assert allowed(scope(None))  # a Unix socket
    assert not allowed(scope(("10.0.0.7", 5)))
    assert not allowed(scope(("127.0.0.1", 5), b"evil.example"))


def test_keys_are_compared_as_digests_each_with_all(monkeypatch, start):
    """What is compared has one length, and each wrong key takes the same comparisons."""
    compared = []
    monkeypatch.setattr(
        access.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b
    )
    url = start("first", "second", admin_keys=("third",)).url
    for key in ("f", "first", "x" * 1000, None):
        compared.clear()
        status(f"{url}/v1/models", key)
        assert len(compared) == 3
        assert {len(one) for pair in compared for one in pair} == {32}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", 200),
        ("localhost:8080", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("app.localhost", 200),
        ("evil.example", 403),
        ("evil.example:8080", 403),
        ("127.0.0.1.evil.example", 403),
        ("192.168.1.2", 403),
        ("llm.example", 200),
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(shared_guarded, host, expected):
    assert status(f"{shared_guarded.url}/v1/models", host=host) == expected


@pytest.fixture(scope="module")
def shared_guarded() -> Iterator[Running]:
    running = Running(origins=("https://llm.example",))
    yield running
    running.close()


def test_other_names_are_fine_where_a_key_is_needed(start):
    url = start("key").url
    assert status(f"{url}/v1/models", "key", host="llm.example") == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://["]
)
def test_pages_of_others_may_not_ask(server, origin):
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=HELLO, headers={"origin": origin})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "foreign_origin"
    assert "access-control-allow-origin" not in answer.headers
    preflight = {"origin": origin, "access-control-request-method": "POST"}
    assert httpx.options(f"{server.url}/v1/models", headers=preflight).status_code == 403


def test_own_pages_may_ask(server):
    answer = httpx.post(
        f"{server.url}/v1/chat/completions", json=HELLO, headers={"origin": server.url}
    )
    assert answer.status_code == 200


def test_allowed_origins(start):
    url = start("key", origins=("https://good.example",)).url
    good, evil = {"origin": "https://good.example"}, {"origin": "https://evil.example"}
    asked = httpx.get(f"{url}/v1/models", headers=good | {"authorization": "Bearer key"})
    assert asked.headers["access-control-allow-origin"] == "https://good.example"
    without = httpx.get(f"{url}/v1/models", headers=good)
    assert without.status_code == 401  # and the page can read why
    assert without.headers["access-control-allow-origin"] == "https://good.example"
    wish = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    assert httpx.options(f"{url}/v1/models", headers=good | wish).status_code == 200
    assert httpx.options(f"{url}/v1/models", headers=evil | wish).status_code == 403
    everybody = start(origins=("*",)).url
    assert httpx.get(f"{everybody}/v1/models", headers=evil).status_code == 200


def test_a_body_that_is_too_large(start):
    running = start(most_body=10_000)
    place = urlsplit(running.url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=10)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("content-length", "10001")
    connection.endheaders()  # not a byte of the body is sent
    answer = connection.getresponse()
    assert answer.status == 413
    assert "10 kB" in json.loads(answer.read())["error"]["message"]
    fits = {**HELLO, "user": "x" * 9000}
    url = f"{running.url}/v1/chat/completions"
    assert httpx.post(url, json=fits).status_code == 200

    def pieces():
        for _ in range(11):
            yield b" " * 1000

    assert httpx.post(url, content=pieces()).status_code == 413
    running.require_idle()


def test_a_body_that_does_not_come(start, monkeypatch):
    monkeypatch.setattr("localllm.server.limits.BODY_SECONDS", 0.3)
    running = start()
    place = urlsplit(running.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n")
        connection.sendall(b"content-length: 100\r\n\r\n{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("depth", [200, 900, 5000, 200_000])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"messages":', "}"),
        ('{"messages":[{"role":"user","content":"x"}],"max_tokens":1,'
         '"chat_template_kwargs":{"a":', "}}"),
    ],
)  # fmt: skip
def test_deep_nesting_is_the_clients_fault(server, depth, before, after):
    body = before + "[" * depth + "]" * depth + after
    headers = {"content-type": "application/json"}
    for path in ("/v1/chat/completions", "/apply-template"):
        answer = httpx.post(f"{server.url}{path}", content=body, headers=headers, timeout=30)
        assert answer.status_code in (200, 400), answer.text


def test_a_request_has_a_limit_of_tokens(start):
    url = f"{start(most_tokens=10).url}/v1/chat/completions"

    def ask(**fields):
        return httpx.post(url, json={"messages": HELLO["messages"], **fields}, timeout=30)

    too_many = ask(max_tokens=11)
    assert too_many.status_code == 400
    assert too_many.json()["error"]["param"] == "max_tokens"
    assert ask(max_tokens=6, n=2).status_code == 400
    assert ask(max_tokens=5, n=2).status_code == 200
    endless = {"logit_bias": {"0": 0}}
    assert ask(**endless).json()["usage"]["completion_tokens"] <= 10
    assert ask(n=3).json()["usage"]["completion_tokens"] <= 9


def test_large_heads_are_refused(server):
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nx: " + b"y" * 200_000 + b"\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 4")
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_a_unix_socket(serve, tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:  # what a killed server leaves
        left.bind(str(path))
    program = serve("--socket", str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=30) as client:
        answer = client.post("http://local/v1/chat/completions", json=HELLO)
        assert answer.status_code == 200
    assert "tiny-chat" in program.command("ps").stdout
    taken = program.command("serve", "--socket", str(path))
    assert (taken.returncode, taken.stderr.count("\n")) == (1, 1)
    assert "another server" in taken.stderr
    assert program.command("stop").returncode == 0
    assert not path.exists()


def test_a_socket_does_not_replace_a_file(serve, tmp_path):
    path = tmp_path / "precious"
    path.write_text("x")
    failed = subprocess.run(
        [*PROGRAM, "serve", "--socket", str(path)], capture_output=True, text=True, timeout=60
    )
    assert failed.returncode == 1
    assert "no socket" in failed.stderr
    assert path.read_text() == "x"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost "
        f"-addext subjectAltName=DNS:localhost -keyout {key} -out {cert}".split(),
        check=True,
        capture_output=True,
    )
    return cert, key


def test_tls(serve, certificate):
    cert, key = certificate
    program = serve("--tls-cert", str(cert), "--tls-key", str(key))
    assert program.url.startswith("https://")
    url = program.url.replace("127.0.0.1", "localhost")
    trusted = ssl.create_default_context(cafile=str(cert))
    assert httpx.get(f"{url}/v1/models", verify=trusted).status_code == 200
    assert "tiny-chat" in program.command("ps").stdout


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, "serve", *flags], capture_output=True, text=True, timeout=60)


def test_what_keys_and_certificates_cannot_be(tmp_path, certificate):
    cert, _ = certificate
    odd, empty = tmp_path / "odd", tmp_path / "empty"
    odd.write_bytes(b"\xff\xfe\x00")
    empty.write_text("\n \n")
    for flags, word in [
        (["--api-key-file", str(odd)], "UTF-8"),
        (["--admin-key-file", str(empty)], "no key"),
        (["--api-key-file", str(tmp_path / "none")], "No such file"),
        (["--api-key", ""], "empty key"),
        (["--tls-cert", str(cert)], "both are needed"),
        (["--tls-cert", str(cert), "--tls-key", str(odd)], "--tls-key"),
        (["--tls-cert", str(tmp_path / "none"), "--tls-key", str(odd)], "No such file"),
        (["--max-body", "0"], "--max-body"),
        (["--max-body", "nan"], "--max-body"),
        (["--max-body", "1e-9"], "--max-body"),
        (["--cors", "nonsense"], "--cors"),
        (["--cors", "http://["], "--cors"),
        (["--cors", "https://example.org/"], "--cors"),
        (["--alias", "a", "--alias", "tiny-chat=b"], "--alias"),
        (["--log", "loud"], "--log"),
        (["--keep-alive", "soon"], "keep_alive"),
        (["--max-tokens-per-request", "0"], "--max-tokens-per-request"),
        (["tiny-chat", "tiny-chat.gguf"], "no such file"),
        (["tiny-chat", "--alias", "other=x"], "--alias"),
    ]:
        failed = run(*flags)
        assert failed.returncode in (1, 2), flags
        assert failed.stderr.count("\n") == 1, failed.stderr
        assert word in failed.stderr, failed.stderr


def test_a_head_that_does_not_come():
    """The connection ends, whether a piece of the head has come or nothing."""
    program = "from localllm.server import listening; listening.HEAD_SECONDS = 0.5; "
    command = [PROGRAM[0], "-c", program + PROGRAM[2], "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            port = urlsplit(process.stderr.readline().split()[-1]).port
            for piece in (b"", b"GET /health HTTP/1.1\r\nHo"):
                with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                    connection.sendall(piece)
                    assert connection.recv(1) == b""
            assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        finally:
            process.terminate()
