"""`localllm pull` against a stand-in of the hub: what it fetches, and what it never shows."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from localllm.hub.partial import PartialFile
from tests.cli.conftest import Result
from tests.cli.hub_client import Client, content, finish
from tests.hub.standin import TOKEN, Repo

NAME = "user/model-GGUF"
SIZE = 9_000_000  # two segments
MODEL = content(SIZE)
HASH = hashlib.sha256(MODEL).hexdigest()


@pytest.fixture
def pull(client: Client) -> Client:
    """`localllm` in front of a hub with one repository of two quantisations."""
    client.hub.repos[NAME] = Repo({"m-Q4_K_M.gguf": MODEL, "m-Q8_0.gguf": content(3000, 1)})
    return client


def one_line(result: Result, *parts: str) -> None:
    """The command has failed, and said why in one line."""
    assert result.code == 1, result
    assert result.error.count("\n") == 1
    for part in parts:
        assert part in result.error


def test_a_model_is_pulled_once(pull: Client) -> None:
    result = finish(pull.start("pull", NAME, "--json"))
    assert result.code == 0, result.error
    assert result.error == ""
    document = json.loads(result.out)
    path = Path(document["path"])
    assert path.read_bytes() == MODEL
    assert path.parts[-3:] == ("snapshots", pull.hub.repos[NAME].sha, "m-Q4_K_M.gguf")
    assert document["sha256"] == HASH == path.resolve().name
    assert (document["bytes"], document["repository"]) == (SIZE, NAME)
    assert document["revision"] == pull.hub.repos[NAME].sha
    assert sum(sent for _, sent in pull.hub.sent("m-Q4_K_M.gguf")) == SIZE
    assert not pull.unfinished()

    again = pull("pull", NAME)
    assert again.code == 0
    assert again.out == f"{NAME}:Q4_K_M: 9 MB, {path}\n"
    assert sum(sent for _, sent in pull.hub.sent("m-Q4_K_M.gguf")) == SIZE  # nothing more
    local = json.loads(pull("list", "--here", "--json").out)["local"]
    assert [model["name"] for model in local] == [f"{NAME}:Q4_K_M"]


def test_a_pull_killed_at_ten_moments_goes_on_where_it_was(pull: Client) -> None:
    numbers = random.Random(5)
    pull.hub.faults.rate = 15e6  # bytes a second of each of two connections
    part = pull.cache / "models--user--model-GGUF" / "blobs" / f"{HASH}.parts.incomplete"
    moments = sorted(numbers.uniform(0, 0.95) for _ in range(10))
    places: set[int] | None = None
    for moment in moments:
        seen = len(pull.hub.asked("^/cdn/"))
        process = pull.start("pull", NAME)
        while process.poll() is None and (not part.exists() or done(part) < moment * SIZE):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not pull.visible()
        asked = {request.first for request in pull.hub.asked("^/cdn/")[seen:]}
        if places is not None:  # what the disk holds was not asked for again
            assert asked <= places
        with PartialFile(part, SIZE) as kept:
            places = {kept.place(segment) for segment in kept.missing}
    pull.hub.faults.rate = None
    seen = len(pull.hub.asked("^/cdn/"))
    assert pull("pull", NAME).code == 0
    assert {request.first for request in pull.hub.asked("^/cdn/")[seen:] if request.sent} == places
    [path] = pull.visible()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == HASH
    assert not pull.unfinished()


def done(part: Path) -> int:
    """Bytes that an unfinished file holds, read while it is written."""
    with part.open("rb") as file:
        file.seek(SIZE)
        tail = file.read()
    return sum(int.from_bytes(tail[i : i + 8], "little") for i in range(0, len(tail), 8))


def test_a_corrupted_byte_is_caught(pull: Client) -> None:
    pull.hub.faults.corrupt = 5_000_000
    one_line(pull("pull", NAME), "m-Q4_K_M.gguf arrived damaged", "it was removed")
    assert not pull.visible()
    assert not pull.unfinished()
    one_line(pull("show", NAME), "not here")
    pull.hub.faults.corrupt = None
    assert pull("pull", NAME).code == 0


def test_a_server_that_vanishes(pull: Client) -> None:
    pull.hub.faults.rate = 4e6

    def vanish() -> None:
        while not pull.hub.sent("m-Q4_K_M.gguf"):
            time.sleep(0.01)
        pull.hub.faults.gone = True

    thread = threading.Thread(target=vanish)
    thread.start()
    one_line(pull("pull", NAME), NAME, "was lost", "what was downloaded is kept")
    thread.join()
    assert not pull.visible()
    assert "m-Q4" not in pull("list", "--here").out
    pull.hub.faults.gone = False
    pull.hub.faults.rate = None
    assert pull("pull", NAME).code == 0


def test_a_server_that_is_not_there(pull: Client) -> None:
    pull.hub.faults.gone = True
    one_line(pull("pull", NAME), NAME, "was lost")


def test_a_disk_without_room_is_told_at_once(pull: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10_000_000))
    one_line(pull("pull", NAME), "not enough room", "76.1 MB are needed, 10 MB are free", "HF_HUB")
    assert not pull.hub.asked("/resolve/")


def test_a_disk_that_fills_up(pull: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    put = PartialFile._put

    def full(self: PartialFile, place: int, data: bytes) -> None:
        if 2_000_000 < place < self.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(self, place, data)

    with monkeypatch.context() as patch:
        patch.setattr(PartialFile, "_put", full)
        one_line(pull("pull", NAME), "No space left on device", "make room, and pull again")
    assert not pull.visible()
    assert "user/model" not in pull("list", "--here").out
    assert pull("pull", NAME).code == 0
    assert sum(sent for _, sent in pull.hub.sent("m-Q4_K_M.gguf")) > SIZE


def test_two_pulls_at_once(pull: Client) -> None:
    pull.hub.faults.rate = 20e6
    processes = [pull.start("pull", NAME, "--json") for _ in range(2)]
    results = [finish(process) for process in processes]
    assert [result.code for result in results] == [0, 0], results
    assert {json.loads(result.out)["sha256"] for result in results} == {HASH}
    assert sum(sent for _, sent in pull.hub.sent("m-Q4_K_M.gguf")) == SIZE
    [path] = pull.visible()
    assert path.read_bytes() == MODEL


def test_ctrl_c_leaves_what_is_there(pull: Client) -> None:
    pull.hub.faults.rate = 2e6
    process = pull.start("pull", NAME)
    while sum(sent for _, sent in pull.hub.sent("m-Q4_K_M.gguf")) < 1_000_000:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    result = finish(process)
    assert result.code == 130
    assert result.error == "stopped; the same command goes on where this one was\n"
    assert pull.unfinished()
    assert not pull.visible()


def test_gated_and_private_repositories(pull: Client) -> None:
    pull.hub.repos[NAME].gated = True
    one_line(pull("pull", NAME), f"{NAME} is gated", f"{pull.hub.url}/{NAME}", "HF_TOKEN")
    one_line(pull("pull", NAME, HF_TOKEN="hf_other"), "is gated", "of that account")
    pull.hub.repos[NAME].private = True
    one_line(pull("pull", NAME), "there is no repository", "HF_TOKEN")
    assert pull("pull", NAME, HF_TOKEN=TOKEN).code == 0
    # the token is for the hub alone
    assert all("Authorization" not in r.headers for r in pull.hub.asked("^/cdn/"))


def test_a_mirror_that_sends_files_from_their_beginning_only(pull: Client) -> None:
    pull.hub.faults.ranges = False
    pull.hub.faults.cut_after = [1_000_000]
    assert pull("pull", NAME).code == 0
    [path] = pull.visible()
    assert path.read_bytes() == MODEL
