"""A stand-in of the Hugging Face hub on loopback: what its clients ask of it, over real HTTP.

It keeps repositories in memory and answers as huggingface.co does: metadata of a repository and of
its files, redirects of large files to a CDN (another port, so another origin), ranges, ETags and
hashes of LFS, gated and private repositories. Every request is noted; faults happen on request.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

TOKEN = "hf_a_token_that_may_read"
_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_SMALL = 4096  # bytes; below it a file that is no model lies in git itself


@dataclass
class Repo:
    """A repository with one revision."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    branch: str = "main"

    @property
    def sha(self) -> str:
        text = "".join(f"{name} {_sha256(data)}\n" for name, data in sorted(self.files.items()))
        return hashlib.sha1(text.encode()).hexdigest()


@dataclass
class Request:
    """One request, and what of a file it was sent."""

    method: str
    path: str
    headers: dict[str, str]
    first: int = 0
    sent: int = 0


@dataclass
class Faults:
    """What goes wrong, each while it is set.

    Attributes:
        status: answer so many requests whose path matches with that status: (pattern, status, n).
        retry_after: of those answers.
        cut_after: break the connection after so many bytes of a file, once for each in the list.
        answer: what is said of a repository, as bytes.
        etag: what a large file is said to have for a hash when it is asked for.
        corrupt: flip a bit of a file's byte with this number.
        rate: bytes a second of each answer; None: as fast as it goes.
        ranges: False: files are sent from their beginning, whatever is asked.
        gone: whether connections are closed at once.
    """

    status: tuple[str, int, int] | None = None
    retry_after: str | None = None
    cut_after: list[int] = field(default_factory=list)
    answer: bytes | None = None
    etag: str | None = None
    corrupt: int | None = None
    rate: float | None = None
    ranges: bool = True
    gone: bool = False


class StandIn:
    """The hub: `repos` may be changed while it runs, as may `faults`."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults = Faults()
        self.requests: list[Request] = []
        self.lock = threading.Lock()
        hub = self

        class Bound(_Handler):
            standin = hub

        self.servers = [_Server(("127.0.0.1", 0), Bound) for _ in range(2)]
        self.url, self.cdn = (f"http://127.0.0.1:{one.server_port}" for one in self.servers)

    def sent(self, name: str) -> list[tuple[int, int]]:
        """(first byte, bytes sent) of every answer with bytes of a file."""
        with self.lock:
            return [
                (r.first, r.sent)
                for r in self.requests
                if r.method == "GET" and r.sent and r.path.endswith(quote(name))
            ]

    def asked(self, pattern: str) -> list[Request]:
        """The requests whose path matches."""
        with self.lock:
            return [r for r in self.requests if re.search(pattern, r.path)]


@contextmanager
def standin() -> Iterator[StandIn]:
    """A stand-in that serves until the block ends."""
    hub = StandIn()
    for server in hub.servers:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        for server in hub.servers:
            server.shutdown()
            server.server_close()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_blob(data: bytes) -> str:
    """Git's name for a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _pointer(data: bytes) -> bytes:
    """What git keeps of a file in LFS."""
    lines = ["version https://git-lfs.github.com/spec/v1"]
    lines += [f"oid sha256:{_sha256(data)}", f"size {len(data)}"]
    return "".join(f"{line}\n" for line in lines).encode()


def _in_lfs(name: str, data: bytes) -> bool:
    return name.endswith((".gguf", ".safetensors", ".bin")) or len(data) > _SMALL


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may go in the middle of a file; the tests' stderr is the program's alone."""


class _Handler(BaseHTTPRequestHandler):
    standin: StandIn
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.standin
        self.noted = Request(self.command, self.path, dict(self.headers))
        with hub.lock:
            hub.requests.append(self.noted)
        if hub.faults.gone:
            self.close_connection = True
            return
        if self._fails():
            return
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        if hub.faults.answer is not None and path.startswith("/api/"):
            self._send(200, hub.faults.answer, {"Content-Type": "application/json"})
        elif found := _API.fullmatch(path):
            self._metadata(found[1], found[2] or "", found[3] or "main", parse_qs(parts.query))
        elif found := _RESOLVE.fullmatch(path):
            self._resolve(found[1], found[2], found[3])
        elif path.startswith("/cdn/"):
            user, repo, name = path.removeprefix("/cdn/").split("/", 2)
            self._bytes(hub.repos[f"{user}/{repo}"].files[name], name)
        else:
            self._refuse(404, "", "there is nothing here")

    def _fails(self) -> bool:
        """Answer with the fault that was asked for, if this request is to have it."""
        faults = self.standin.faults
        with self.standin.lock:
            if faults.status is None:
                return False
            pattern, status, left = faults.status
            if not re.search(pattern, self.path) or not left:
                return False
            faults.status = (pattern, status, left - 1)
        more = {} if faults.retry_after is None else {"Retry-After": faults.retry_after}
        self._send(status, b"", more)
        return True

    def _metadata(self, name: str, kind: str, revision: str, query: dict[str, list[str]]) -> None:
        spelled = {known.lower(): known for known in self.standin.repos}.get(name.lower(), name)
        if spelled != name:
            self._send(307, b"", {"Location": self.path.replace(name, spelled, 1)})
            return
        repo = self._readable(name, revision, files=False)
        if repo is None:
            return
        if kind == "tree":
            self._json([self._entry(n, d) for n, d in repo.files.items()])
            return
        blobs = "blobs" in query
        self._json(
            {
                "id": name,
                "modelId": name,
                "sha": repo.sha,
                "private": repo.private,
                "gated": "manual" if repo.gated else False,
                "tags": ["gguf"],
                "cardData": {"license": "apache-2.0"},
                "siblings": [self._sibling(n, d, blobs) for n, d in repo.files.items()],
            }
        )

    def _sibling(self, name: str, data: bytes, blobs: bool) -> dict[str, object]:
        found: dict[str, object] = {"rfilename": name}
        if blobs and _in_lfs(name, data):
            pointer = _pointer(data)
            lfs = {"sha256": _sha256(data), "size": len(data), "pointerSize": len(pointer)}
            found |= {"size": len(data), "blobId": git_blob(pointer), "lfs": lfs}
        elif blobs:
            found |= {"size": len(data), "blobId": git_blob(data)}
        return found

    def _entry(self, name: str, data: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(data)}
        if _in_lfs(name, data):
            pointer = _pointer(data)
            lfs = {"oid": _sha256(data), "size": len(data), "pointerSize": len(pointer)}
            return entry | {"oid": git_blob(pointer), "lfs": lfs}
        return entry | {"oid": git_blob(data)}

    def _resolve(self, name: str, revision: str, file: str) -> None:
        repo = self._readable(name, revision, files=True)
        if repo is None:
            return
        commit = {"X-Repo-Commit": repo.sha}
        data = repo.files.get(file)
        if data is None:
            self._refuse(404, "EntryNotFound", "Entry not found", commit)
        elif _in_lfs(file, data):
            headers = {
                **commit,
                "X-Linked-Etag": f'"{self.standin.faults.etag or _sha256(data)}"',
                "X-Linked-Size": str(len(data)),
                "ETag": f'"{git_blob(_pointer(data))}"',
                "Location": f"{self.standin.cdn}/cdn/{name}/{quote(file)}",
            }
            self._send(302, b"", headers)
        else:
            self._bytes(data, file, {**commit, "ETag": f'"{git_blob(data)}"'})

    def _readable(self, name: str, revision: str, files: bool) -> Repo | None:
        """The repository, if it is there and this client may read it; else that is answered."""
        repo = self.standin.repos.get(name)
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.private and not allowed):
            status = 404 if allowed else 401
            self._refuse(status, "RepoNotFound", "Repository not found")
        elif repo.gated and files and not allowed:
            # without a token 401, with that of somebody who has not accepted the terms 403
            status = 403 if "Authorization" in self.headers else 401
            text = f"Access to model {name} is restricted and you are not in the authorized list."
            self._refuse(status, "GatedRepo", text)
        elif revision not in (repo.branch, repo.sha):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repo
        return None

    def _bytes(self, data: bytes, name: str, headers: dict[str, str] | None = None) -> None:
        """A file, or the range of it that was asked for, with the faults that are due."""
        faults = self.standin.faults
        asked = _RANGE.fullmatch(self.headers.get("Range", "")) if faults.ranges else None
        first = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1, len(data)) if asked and asked[2] else len(data)
        if first >= end and asked:
            self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        self.noted.first = first
        more = {"Accept-Ranges": "bytes", "ETag": f'"{_sha256(data)}"', **(headers or {})}
        if asked:
            more["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
        if faults.corrupt is not None and first <= faults.corrupt < end:
            at = faults.corrupt
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        cut = None
        with self.standin.lock:
            if self.command == "GET" and faults.cut_after and end - first > faults.cut_after[0]:
                cut = faults.cut_after.pop(0)
        self._send(206 if asked else 200, data[first:end], more, cut)

    def _json(self, document: object) -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _refuse(
        self, status: int, code: str, text: str, headers: dict[str, str] | None = None
    ) -> None:
        more = {"X-Error-Code": code, "X-Error-Message": text, **(headers or {})}
        self._send(status, json.dumps({"error": text}).encode(), more)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        rate = self.standin.faults.rate
        step = len(body) if rate is None else max(1, int(rate / 50))
        try:
            for at in range(0, len(body) if cut is None else cut, max(1, min(step, 2**16))):
                piece = body[at : at + min(step, 2**16)]
                if cut is not None:
                    piece = piece[: cut - at]
                self.wfile.write(piece)
                self.noted.sent += len(piece)
                if rate is not None:
                    time.sleep(len(piece) / rate)
                if self.standin.faults.gone:
                    break
        except OSError:
            self.close_connection = True
        if cut is not None or self.standin.faults.gone:
            self.close_connection = True
