"""From the MODEL argument to a file: paths, aliases, the Hugging Face cache read in place."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from localllm.errors import LocalLLMError
from localllm.hub.names import resolve
from localllm.hub.references import quantisation_of
from localllm.hub.store import cached_files


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "hub"


def put(
    cache: Path, repository: str, *names: str, revision: str = "abc", main: bool = True
) -> Path:
    folder = cache / f"models--{repository.replace('/', '--')}"
    for name in names:
        path = folder / "snapshots" / revision / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"GGUF")
    if main:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(revision)
    return folder / "snapshots" / revision


def test_a_path_is_itself(tmp_path: Path) -> None:
    path = tmp_path / "some model.gguf"
    path.write_bytes(b"GGUF")
    assert resolve(str(path)).path == path
    assert resolve(str(path)).name == "some model"


@pytest.mark.parametrize(
    "name",
    [
        "Some/Model-GGUF",
        "some/model-gguf",
        "hf.co/Some/Model-GGUF",
        "hf://Some/Model-GGUF",
        "https://huggingface.co/Some/Model-GGUF/",
    ],
)
def test_a_repository_in_the_cache(cache: Path, name: str) -> None:
    here = put(cache, "Some/Model-GGUF", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "mmproj-F16.gguf")
    assert resolve(name).path == here / "m-Q4_K_M.gguf"
    assert resolve(name + ":q8_0").path == here / "m-Q8_0.gguf"
    assert resolve(name).name == "Some/Model-GGUF:Q4_K_M"


def test_without_the_default_the_first_file(cache: Path) -> None:
    here = put(cache, "a/b", "m-Q8_0.gguf", "m-Q6_K.gguf")
    assert resolve("a/b").path == here / "m-Q6_K.gguf"


def test_dynamic_quantisations(cache: Path) -> None:
    here = put(cache, "a/b", "m-UD-Q4_K_XL.gguf", "m-UD-Q4_K_M.gguf")
    assert resolve("a/b").path == here / "m-UD-Q4_K_M.gguf"
    assert resolve("a/b:Q4_K_XL").path == here / "m-UD-Q4_K_XL.gguf"
    assert resolve("a/b:UD-Q4_K_XL").path == here / "m-UD-Q4_K_XL.gguf"


def test_shards_are_one_model(cache: Path) -> None:
    here = put(cache, "a/b", *(f"q/m-Q4_K_M-0000{n}-of-00003.gguf" for n in (1, 2, 3)))
    assert [file.path for file in cached_files()] == [here / "q/m-Q4_K_M-00001-of-00003.gguf"]
    assert len(next(iter(cached_files())).shards) == 3


def test_the_current_revision_comes_first(cache: Path) -> None:
    put(cache, "a/b", "m-Q4_K_M.gguf", "old-Q8_0.gguf", revision="1old", main=False)
    new = put(cache, "a/b", "m-Q4_K_M.gguf", revision="2new")
    assert resolve("a/b").path == new / "m-Q4_K_M.gguf"
    assert resolve("a/b:Q8_0").path.name == "old-Q8_0.gguf"


def test_an_alias_finds_its_repository(cache: Path) -> None:
    here = put(cache, "bartowski/Llama-3.2-1B-Instruct-GGUF", "Llama-3.2-1B-Instruct-Q4_K_M.gguf")
    assert resolve("llama-3.2-1b").path.parent == here
    assert resolve("LLAMA-3.2-1B:q4_k_m").path.parent == here


def test_the_cache_follows_hugging_face(tmp_path: Path) -> None:
    code = "from localllm.hub.folders import hugging_face_cache as f; print(f())"
    environment = {"HF_HOME": "$BASE/home", "BASE": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(tmp_path / "home" / "hub")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nobody/nothing:Q4_K_M", "nobody/nothing:Q4_K_M is not here"),
        ("llama-3.2-1b", "`localllm pull llama-3.2-1b` downloads it"),
        ("lama-3.2-1b", "did you mean llama-3.2-1b"),
        ("a/b:Q2_K", "a/b is here, but not as Q2_K (there is Q8_0; `localllm pull a/b:Q2_K`"),
        ("./none.gguf", "no such file: ./none.gguf"),
        ("/no/where/none.gguf", "the folder /no/where is not there either"),
        ("completely unknown", "`localllm list` shows"),
    ],
)
def test_what_is_not_there(cache: Path, name: str, problem: str) -> None:
    put(cache, "a/b", "m-Q8_0.gguf")
    with pytest.raises(LocalLLMError) as error:
        resolve(name)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_a_directory_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(LocalLLMError, match="is a directory"):
        resolve(str(tmp_path))
    (tmp_path / "a.gguf").touch()
    with pytest.raises(LocalLLMError, match=r"it holds a\.gguf"):
        resolve(str(tmp_path))


def test_a_near_file_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "model-Q4_K_M.gguf").touch()
    with pytest.raises(LocalLLMError, match=r"did you mean model-Q4_K_M\.gguf"):
        resolve(str(tmp_path / "model-Q4_KM.gguf"))


@pytest.mark.parametrize(
    ("filename", "quantisation"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2.5-7b-instruct-q4_k_m-00001-of-00002.gguf", "Q4_K_M"),
        ("X-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("m.IQ4_XS.gguf", "IQ4_XS"),
        ("Mixtral-8x7B-Instruct-v0.1-q6-k.gguf", "Q6_K"),
        ("BF16/x-BF16-00001-of-00002.gguf", "BF16"),
        ("model.gguf", ""),
    ],
)
def test_quantisation_from_the_name(filename: str, quantisation: str) -> None:
    assert quantisation_of(filename) == quantisation
