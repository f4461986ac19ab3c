"""`localllm pull`: which file a NAME means, and what becomes of answers that are not files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Result
from tests.cli.hub_client import Client, content
from tests.hub.standin import Repo, standin

NAME = "user/model-GGUF"
TINY = Path(__file__).resolve().parents[2] / "localllm" / "assets" / "tiny-chat.gguf"


@pytest.fixture
def pull(client: Client) -> Client:
    """`localllm` in front of a hub with one repository of three quantisations."""
    kinds = ("Q2_K", "UD-Q4_K_XL", "IQ2_XXS", "F16")
    files = {f"sub/m-{kind}.gguf": content(3000 + at, at) for at, kind in enumerate(kinds)}
    others = {"mmproj-F16.gguf": b"GGUF", "README.md": b"# A model\n", "imatrix.gguf": b"GGUF"}
    client.hub.repos[NAME] = Repo({**files, **others})
    return client


def refused(result: Result, *parts: str, code: int = 1) -> None:
    """The command has failed, and said why in one line."""
    assert result.code == code, result
    assert result.error.count("\n") == 1
    for part in parts:
        assert part in result.error


@pytest.mark.parametrize(
    "name",
    [
        f"{NAME}:Q2_K",
        "USER/model-gguf:q2_k",
        f"hf.co/{NAME}:Q2_K",
        f"hf://{NAME}:m-Q2_K.gguf",
        f"hf://{NAME}@main/sub/m-Q2_K.gguf",
        f"https://huggingface.co/{NAME}/resolve/main/sub/m-Q2_K.gguf?download=true",
        f"https://huggingface.co/{NAME}/blob/main/sub/m-Q2_K.gguf",
    ],
)
def test_all_ways_to_name_a_file(pull: Client, name: str) -> None:
    result = pull("pull", name, "--json")
    assert result.code == 0, result.error
    assert json.loads(result.out)["name"] == f"{NAME}:Q2_K"
    assert json.loads(pull("pull", name, "--offline", "--json").out)["bytes"] == 3000


def test_several_quantisations_are_listed_where_nobody_can_be_asked(pull: Client) -> None:
    listed = "Q2_K (3 kB), UD-Q4_K_XL (3 kB), IQ2_XXS (3 kB), F16 (3 kB)"
    refused(pull("pull", NAME), f"{NAME} has {listed}", "--fit", code=2)
    refused(pull("pull", f"{NAME}:Q5_K_M"), f"has no Q5_K_M (it has {listed})", code=2)
    assert not pull.visible()


def test_fit_takes_the_best_that_fits_and_runs(
    pull: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 2**28
    for memory, kind in ((room + 3305, "UD-Q4_K_XL"), (room + 3301, "Q2_K"), (2**40, "UD-Q4_K_XL")):
        monkeypatch.setattr("localllm.engine.machine.available_memory", lambda size=memory: size)
        assert json.loads(pull("pull", NAME, "--fit", "--json").out)["name"] == f"{NAME}:{kind}"
    monkeypatch.setattr("localllm.engine.machine.available_memory", lambda: room)
    refused(pull("pull", NAME, "--fit"), "nothing of user/model-GGUF fits 268 MB", "IQ2_XXS")


def test_shards_come_together_or_not_at_all(pull: Client) -> None:
    shards = {f"q/m-Q4_K_M-0000{n}-of-00003.gguf": content(5_000_000, n) for n in (1, 2, 3)}
    pull.hub.repos[NAME] = Repo(shards)
    pull.hub.faults.corrupt = 4_999_999
    refused(pull("pull", NAME), "arrived damaged")
    assert not pull.visible()
    pull.hub.faults.corrupt = None
    document = json.loads(pull("pull", NAME, "--json").out)
    assert document["bytes"] == 15_000_000
    assert [Path(file["path"]).read_bytes() for file in document["files"]] == [*shards.values()]
    assert document["path"].endswith("-00001-of-00003.gguf")


def test_the_catalogs_names(pull: Client) -> None:
    name = "bartowski/SmolLM2-135M-Instruct-GGUF"
    files = {f"SmolLM2-135M-Instruct-{q}.gguf": content(9, 1) for q in ("Q4_K_M", "Q8_0")}
    pull.hub.repos[name] = Repo(files)
    result = pull("pull", "smollm2-135m")  # whose default is not Q4_K_M
    assert result.out.startswith(f"{name}:Q8_0: 9 bytes")
    assert pull("alias", "small", "smollm2-135m:Q4_K_M").code == 0
    assert pull("pull", "small").out.startswith(f"{name}:Q4_K_M: 9 bytes")


def test_a_busy_hub_is_waited_for(pull: Client) -> None:
    pull.hub.faults.status, pull.hub.faults.retry_after = ("", 429, 2), "0"
    assert pull("pull", f"{NAME}:Q2_K").code == 0
    pull.hub.faults.status, pull.hub.faults.retry_after = ("/cdn/", 503, 3), None
    assert pull("pull", f"{NAME}:F16").code == 0


def test_a_hub_that_stays_busy(pull: Client) -> None:
    pull.hub.faults.status = ("", 503, 99)
    refused(pull("pull", f"{NAME}:Q2_K"), "answers 503", "5 times", "try again later")
    pull.hub.faults.status, pull.hub.faults.retry_after = ("", 429, 99), "3600"
    refused(pull("pull", f"{NAME}:Q2_K"), "answers 429", "asks to wait 3600 s")


def test_a_connection_that_breaks_is_taken_up_again(pull: Client) -> None:
    data = content(9_000_000)
    pull.hub.repos[NAME] = Repo({"m-Q4_K_M.gguf": data})
    pull.hub.faults.cut_after = [2_000_000] * 3
    document = json.loads(pull("pull", NAME, "--json").out)
    assert Path(document["path"]).read_bytes() == data
    assert sum(sent for _, sent in pull.hub.sent("m-Q4_K_M.gguf")) == len(data)


def test_what_is_not_there(pull: Client) -> None:
    refused(pull("pull", "user/none"), "there is no repository user/none", "HF_TOKEN")
    refused(pull("pull", f"hf://{NAME}@v2/sub/m-Q2_K.gguf"), "has no such revision")
    refused(pull("pull", f"hf://{NAME}/m-Q2_K.gguf"), "has no m-Q2_K.gguf", code=2)
    refused(pull("pull", "nothing"), "nothing to download", code=2)
    refused(pull("pull", "https://example.org/a.zip"), "not the address of a .gguf file", code=2)
    refused(pull("pull", f"{NAME}:Q2_K", "--offline"), "is not here", "ask no server")
    refused(pull("run", f"{NAME}:Q2_K", "hello"), "`localllm pull user/model-GGUF:Q2_K`")


def test_a_hostile_hub_gets_no_file_outside_the_cache(pull: Client) -> None:
    pull.hub.repos[NAME] = Repo({"../../../../evil-Q4_K_M.gguf": b"x", "a/../b-Q4_K_M.gguf": b"x"})
    refused(pull("pull", NAME), "holds no model")
    assert not list(pull.folder.rglob("*evil*"))


FILES: list[Any] = ["x", [1], [{}], [{"rfilename": 5, "size": 1}]]


@pytest.mark.parametrize(
    "change",
    [
        *({"siblings": one} for one in FILES),
        *({"id": name} for name in (5, None, "model", "../../../evil", "/tmp/evil", "u/\x1b[31m")),
        *(
            {"siblings": [{"rfilename": "m-Q4_K_M.gguf", "lfs": lfs}]}
            for lfs in ("x", {}, {"sha256": 5})
        ),
        {"siblings": [{"rfilename": "m-Q4_K_M.gguf", "lfs": {"sha256": "../x", "size": 1}}]},
        *([], "x", None),
    ],
)
def test_an_answer_that_is_none_is_one_line(pull: Client, change: Any) -> None:
    answer = {"id": NAME, "sha": "a" * 40, "siblings": []}
    answer = answer | change if isinstance(change, dict) else change
    pull.hub.faults.answer = json.dumps(answer).encode()
    refused(pull("pull", NAME), f"{NAME}: the answer is no list of its files")
    assert not list(pull.folder.rglob("*evil*"))


@pytest.mark.parametrize("answer", [b"", b"<html>", b"\xff", b"[" * 100_000])
def test_an_answer_that_is_no_json_is_one_line(pull: Client, answer: bytes) -> None:
    pull.hub.faults.answer = answer
    refused(pull("pull", NAME), f"{NAME}: the answer is no list of its files")


def test_an_answer_without_end_is_not_read_to_its_end(
    pull: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localllm.hub.listing._LARGEST_ANSWER", 10_000)
    pull.hub.faults.answer = b" " * 20_000_000
    pull.hub.faults.rate = 5e6  # bytes a second
    refused(pull("pull", NAME), f"{NAME}: the answer is no list of its files")
    assert pull.hub.asked("^/api/")[-1].sent < 10_000_000


def test_a_hash_that_changes_between_two_questions_is_caught(pull: Client) -> None:
    pull.hub.faults.etag = "d" * 64
    refused(pull("pull", f"{NAME}:Q2_K"), "m-Q2_K.gguf arrived damaged")
    assert not pull.visible()


def test_a_model_that_lacks_a_shard_is_not_fetched(pull: Client) -> None:
    pull.hub.repos[NAME] = Repo({"m-Q8_0-00001-of-00003.gguf": content(500)})
    refused(pull("pull", f"{NAME}:Q8_0"), "Q8_0 is not whole: 1 of 3 files are there")
    assert not pull.visible()


def test_another_server(pull: Client) -> None:
    with standin() as other:
        other.repos["a/b"] = Repo({"some-F16.gguf": TINY.read_bytes(), "bad.gguf": content(5000)})
        url = f"{other.url}/cdn/a/b/some-F16.gguf"
        other.faults.cut_after = [1_000_000]
        document = json.loads(pull("pull", url, "--json").out)
        assert Path(document["path"]).read_bytes() == TINY.read_bytes()
        assert sum(sent for _, sent in other.sent("some-F16.gguf")) == document["bytes"] + 1
        name = document["name"]
        assert name == f"{other.url[7:].replace(':', '_')}/some-F16:F16"
        assert pull("pull", url).code == 0  # asks for its length and its ETag only
        assert sum(sent for _, sent in other.sent("some-F16.gguf")) <= document["bytes"] + 2
        refused(pull("pull", f"{other.url}/cdn/a/b/bad.gguf"), "arrived damaged")
        assert all("Authorization" not in request.headers for request in other.requests)
    for given in (url, name):
        assert pull("show", given).out.splitlines()[0].endswith("tiny-chat")
    assert name in pull("list", "--here").out
    assert pull("rm", name, "--yes").code == 0
    assert not list((pull.folder / "data").rglob("*.gguf"))
