"""What the page is made of, as any client gets it."""

from __future__ import annotations

import httpx
import pytest

from localllm.server import page

FILES = sorted(page.PATHS)


@pytest.mark.parametrize("path", FILES)
def test_each_file_has_its_headers(server, path):
    answer = httpx.get(server.url + path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == page.TYPES[page.FILES[path].suffix]
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"


def test_what_the_browser_has_is_not_sent_again(server):
    first = httpx.get(server.url)
    tag = {"if-none-match": first.headers["etag"]}
    again = httpx.get(server.url, headers=tag)
    assert again.status_code == 304
    assert again.content == b""
    assert httpx.get(f"{server.url}/web/chat.js", headers=tag).status_code == 200


def test_everything_the_page_names_is_there():
    """No file is missing, none is left over, and nothing is asked of anyone else."""
    text = "".join(file.read_text(encoding="utf-8") for file in page.FILES.values())
    for path in page.PATHS - {"/"}:
        assert path.removeprefix("/web/") in text
    assert 'src="http' not in text
    assert "innerHTML" not in text
    assert 'style="' not in text


@pytest.mark.parametrize("path", ["/web/", "/web/no.js", "/web/..%2fapp.py", "/web/%2e%2e/app.py"])
def test_nothing_else_is_there(server, path):
    answer = httpx.get(server.url + path)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"]


def test_the_page_needs_no_key_but_the_api_does(locked):
    assert {httpx.get(locked.url + path).status_code for path in FILES} == {200}
    assert httpx.get(f"{locked.url}/v1/models").status_code == 401
    assert httpx.get(f"{locked.url}/web/no.js").status_code == 401
