"""`rm`, `alias`, `list` and `show`, and presets where models are run."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Result, Run
from tests.cli.hub_client import Client, content
from tests.hub.standin import Repo

NAME = "user/model-GGUF"


@pytest.fixture
def here(client: Client) -> Client:
    """`localllm` with a repository of three models in its cache, one of them split."""
    shards = {f"q/m-Q8_0-0000{n}-of-00002.gguf": content(600, n) for n in (1, 2)}
    files = {"m-Q4_K_M.gguf": content(500), "m-Q6_K.gguf": content(700, 9), **shards}
    client.hub.repos[NAME] = Repo(files)
    for kind in ("Q4_K_M", "Q6_K", "Q8_0"):
        assert client("pull", f"{NAME}:{kind}").code == 0
    return client


def names(client: Client) -> list[str]:
    return [model["name"] for model in json.loads(client("list", "--here", "--json").out)["local"]]


def refused(result: Result, *parts: str, code: int = 2) -> None:
    assert result.code == code, result
    assert result.error.count("\n") == 1
    for part in parts:
        assert part in result.error


def test_rm_takes_all_shards_and_nothing_else(here: Client) -> None:
    document = json.loads(here("rm", f"{NAME}:Q8_0", "--yes", "--json").out)
    assert document["freed"] == 1200
    assert len(document["files"]) == 2
    assert names(here) == [f"{NAME}:Q4_K_M", f"{NAME}:Q6_K"]
    assert here("rm", f"{NAME}:Q6_K", "--yes").out == f"{NAME}:Q6_K removed, 700 bytes freed\n"
    assert here("rm", NAME, "--yes").code == 0
    assert not list(here.cache.glob("models--*"))


def test_rm_keeps_what_another_revision_or_name_uses(here: Client) -> None:
    data = content(500)
    here.hub.repos[NAME].files = {"other-Q5_K_M.gguf": data}  # the next commit, the same bytes
    assert here("pull", f"{NAME}:Q5_K_M").code == 0
    assert sum(sent for _, sent in here.hub.sent("other-Q5_K_M.gguf")) == 0
    assert json.loads(here("rm", f"{NAME}:Q4_K_M", "--yes", "--json").out)["freed"] == 0
    left = json.loads(here("pull", f"{NAME}:Q5_K_M", "--offline", "--json").out)
    assert Path(left["path"]).read_bytes() == data
    assert json.loads(here("rm", f"{NAME}:Q5_K_M", "--yes", "--json").out)["freed"] == 500


def test_what_rm_refuses(here: Client) -> None:
    own = here.folder / "own.gguf"
    own.write_bytes(b"GGUF")
    refused(here("rm", NAME, "--yes"), f"{NAME} is here as {NAME}:Q4_K_M, {NAME}:Q6_K")
    refused(here("rm", f"{NAME}:Q8_0"), "would be removed", "--yes")
    refused(here("rm", "tiny-chat", "--yes"), "comes with the program")
    refused(here("rm", own, "--yes"), "outside the cache")
    refused(here("rm", f"{NAME}:Q2_K", "--yes"), "not as Q2_K", code=1)
    assert len(names(here)) == 3
    assert own.exists()


def test_rm_clears_downloads_that_were_interrupted(client: Client) -> None:
    client.hub.repos[NAME] = Repo({"m-Q4_K_M.gguf": content(2_000_000)})
    client.hub.faults.rate = 2e5  # bytes a second
    process = client.start("pull", NAME)
    while not client.unfinished():
        time.sleep(0.01)
    refused(client("rm", NAME, "--yes"), f"{NAME} is being downloaded", code=1)
    process.kill()
    process.communicate()
    (part,) = client.unfinished()
    refused(client("rm", f"{NAME}:Q8_0", "--yes"), "is not here", code=1)
    document = json.loads(client("rm", NAME.upper(), "--yes", "--json").out)
    assert document["files"] == [str(part)]
    assert not client.unfinished()
    refused(client("rm", NAME, "--yes"), "is not here", code=1)


def test_rm_by_path(here: Client) -> None:
    path = json.loads(here("pull", f"{NAME}:Q6_K", "--offline", "--json").out)["path"]
    assert here("rm", path, "--yes").code == 0
    assert names(here) == [f"{NAME}:Q4_K_M", f"{NAME}:Q8_0"]


def test_show_says_where_a_model_is_from(client: Client, model: Path) -> None:
    client.hub.repos[NAME] = Repo({"m-Q8_0.gguf": model.read_bytes()})
    pulled = json.loads(client("pull", NAME, "--json").out)
    document = json.loads(client("show", NAME, "--ctx", 100, "--json").out)
    assert document["origin"] == {
        "repository": NAME,
        "revision": pulled["revision"],
        "sha256": pulled["sha256"],
    }
    small, large = (
        json.loads(client("show", NAME, "--ctx", n, "--json").out)["memory"] for n in (100, 200)
    )
    assert small["total"] == small["weights"] + small["kv"] + small["working"]
    assert large["kv"] == 2 * small["kv"] > 0
    [local] = json.loads(client("list", "--here", "--json").out)["local"]
    assert (local["architecture"], local["context"]) == ("qwen3", 256)


def test_an_alias_works_wherever_a_model_is_named(client: Client, model: Path) -> None:
    local = client.folder / "m.gguf"
    local.write_bytes(model.read_bytes())
    assert client("alias", "mine", "m.gguf").code == 0
    assert client("alias").out.split() == ["mine", str(local)]
    assert str(local) in client("list", "--here").out
    assert json.loads(client("show", "mine", "--json").out)["path"] == str(local)
    assert json.loads(client("tokenize", "mine", "hello", "--json").out)["ids"]
    refused(client("alias", "mine", "m.gguf"), "stands for", "--remove mine")
    refused(client("alias", "other", "./none.gguf"), "no such file", code=1)
    refused(client("alias", "other"), "for which MODEL?")
    assert client("alias", "--remove", "mine").code == 0
    refused(client("show", "mine"), "no model or file called 'mine'", code=1)


def test_presets_stand_below_flags_and_environment(
    localllm: Run, model: Path, endless: list[str], tmp_path: Path
) -> None:
    own = tmp_path / "localllm" / "models.toml"
    own.parent.mkdir()
    own.write_text(f'[[model]]\nalias = "mine"\ntarget = "{model}"\nmax_tokens = 4\nctx = 64\n')
    (own.parent / "config.toml").write_text("max_tokens = 5\n")

    def count(name: object, *flags: object, **variables: str) -> int:
        home = {"XDG_CONFIG_HOME": str(tmp_path)}
        arguments = ("run", name, "hi", "--seed", 1, "--json", *endless, *flags)
        return len(json.loads(localllm(*arguments, **home, **variables).out)["token_ids"])

    assert count(model) == 5
    assert count("mine") == 4
    assert count("mine", LOCALLLM_MAX_TOKENS="3") == 3
    assert count("mine", "--max-tokens", 2, LOCALLLM_MAX_TOKENS="3") == 2


def test_presets_change_the_prompt(localllm: Run, model: Path, tmp_path: Path) -> None:
    own = tmp_path / "localllm" / "models.toml"
    own.parent.mkdir()
    entry = f'[[model]]\nalias = "mine"\ntarget = "{model}"\n'
    (own.parent / "t.jinja").write_text("{{ messages | map(attribute='role') | join(' ') }}")

    def used(*lines: str) -> int:
        own.write_text(entry + "\n".join(lines))
        run = ("run", "mine", "hi", "--max-tokens", 1, "--json")
        result = localllm(*run, XDG_CONFIG_HOME=str(tmp_path))
        return int(json.loads(result.out)["usage"]["prompt_tokens"])

    plain = used()
    assert used('system = "Be brief."') > plain > used('template = "t.jinja"')
    own.write_text(entry + 'template = "none.jinja"\n')
    result = localllm("run", "mine", "hi", XDG_CONFIG_HOME=str(tmp_path))
    refused(result, "none.jinja: No such file", "has it as its template", code=1)
