"""The user's own models.toml: aliases and presets, what is wrong in it, and writing to it."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from localllm.cli.options import ChatOptions, EngineOptions, SamplingOptions
from localllm.errors import LocalLLMError, UsageError
from localllm.hub.names import resolve
from localllm.hub.user_models import (
    PRESET_FIELDS,
    add_alias,
    known_models,
    read_user_models,
    remove_alias,
    user_models,
)
from tests.hub.test_catalog import GOOD

TEXT = '''\
# mine
[[model]]
alias = "small"
target = "tiny-chat"  # the bundled one
system = """Be brief.
[[model]]
alias = "not one"
"""
temperature = 0
top_k = 7
stop = "END"
template = "short.jinja"
ctx = 512

# of a friend
[[model]]
alias = "tiny"
target = "small"
top_k = 9
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("LOCALLLM_CONFIG", raising=False)
    path = tmp_path / "localllm" / "models.toml"
    path.parent.mkdir()
    path.write_text(TEXT)
    return path


def test_an_alias_brings_its_settings(own: Path) -> None:
    small = resolve("SMALL")
    assert small.path == resolve("tiny-chat").path
    assert small.name == "small"
    assert small.preset == {
        "system": 'Be brief.\n[[model]]\nalias = "not one"\n',
        "temperature": 0.0,
        "top_k": 7,
        "stop": ["END"],
        "template": str(own.parent / "short.jinja"),
        "ctx": 512,
    }


def test_the_outer_alias_has_the_last_word(own: Path) -> None:
    assert resolve("tiny").preset == {**resolve("small").preset, "top_k": 9}


def test_aliases_in_a_ring(own: Path) -> None:
    own.write_text(TEXT.replace('"tiny-chat"', '"tiny"'))
    with pytest.raises(LocalLLMError, match="leads to itself"):
        resolve("small")


def test_a_model_of_the_catalogs_form(own: Path) -> None:
    own.write_text(GOOD + "temperature = 0.5\n")
    assert known_models()["a-1b"].shape.kv_heads == 8
    assert user_models()["a-1b"].preset == {"temperature": 0.5}
    with pytest.raises(LocalLLMError, match=r"user/repo-GGUF:Q4_K_M` downloads it"):
        resolve("a-1b")


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        ("top_k = 7", "topk = 7", 10, "topk: unknown field, did you mean top_k?"),
        ("top_k = 7", "top_k = 'many'", 10, "top_k: must be a whole number, is 'many'"),
        ("top_k = 7", "top_k = true", 10, "top_k: must be a whole number, is True"),
        ("top_k = 7", "top_k = -1", 10, "top_k: top-k -1"),
        ('"short.jinja"', '"\\u0000"', 12, "template: '\\x00' is no path"),
        ("ctx = 512", "ctx = 0", 13, "ctx: must be >= 1, is 0"),
        ('stop = "END"', "stop = [1]", 11, "stop: must be a list of texts"),
        ('alias = "tiny"', 'alias = "small"', 17, "alias: 'small' stands here twice"),
        ('alias = "tiny"', 'alias = "a/b"', 17, "alias: 'a/b' must be lower case"),
        ('alias = "tiny"', 'alias = "tiny-chat"', 17, "alias: tiny-chat is the bundled model"),
        ('target = "small"', "", 16, "target: is missing"),
        ("temperature = 0", "temperature =", 9, None),
    ],
)
def test_faults_name_line_and_field(
    own: Path, old: str, new: str, line: int, problem: str | None
) -> None:
    own.write_text(TEXT.replace(old, new))
    expected = f"line {line}" if problem is None else f"line {line}: {problem}"
    with pytest.raises(LocalLLMError, match=re.escape(expected)) as error:
        user_models()
    assert str(own) in str(error.value)


def test_lines_are_counted_as_toml_counts_them(own: Path) -> None:
    text = TEXT.replace("top_k = 7", "# a\u2028[[model]]\x85b\ntop_k = -7")
    own.write_text(text, encoding="utf-8")
    with pytest.raises(LocalLLMError, match="line 11: top_k"):
        user_models()
    own.write_text(text.replace("-7", "7"), encoding="utf-8")
    remove_alias("tiny")
    assert list(user_models()) == ["small"]


@pytest.mark.parametrize("text", ["model = 3", "[other]\nx = 1", "model = [{alias = 'a'}]", "\xff"])
def test_other_files_are_refused(own: Path, text: str) -> None:
    own.write_text(text, encoding="latin-1")
    with pytest.raises(LocalLLMError, match=str(own)):
        user_models()


def test_presets_are_the_flags_of_the_commands() -> None:
    flags = {
        name
        for group in (SamplingOptions, EngineOptions, ChatOptions)
        for name in group.__dataclass_fields__
    }
    machine = {"threads", "kv_type", "device", "kv_cache", "draft", "packed_cache"}
    assert PRESET_FIELDS.keys() == flags - machine | {"template", "adapter"}


def test_adding_and_removing_leaves_the_rest_alone(own: Path) -> None:
    add_alias("new", 'a/b:Q8_0 "quoted" \\ é 🦙')
    assert own.read_text().startswith(TEXT)
    assert user_models()["new"].target == 'a/b:Q8_0 "quoted" \\ é 🦙'
    remove_alias("small")
    left = own.read_text()
    assert left.startswith("# mine\n")
    assert "# of a friend\n[[model]]" in left
    assert list(read_user_models(own)) == ["tiny", "new"]
    remove_alias("new")
    remove_alias("tiny")
    assert user_models() == {}
    assert "# of a friend" in own.read_text()


def test_of_aliases_given_at_once_none_is_lost(own: Path) -> None:
    names = [f"m{i}" for i in range(32)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add_alias, names, names))
    assert sorted(read_user_models(own)) == sorted([*names, "small", "tiny"])


def test_the_file_is_made(own: Path) -> None:
    own.unlink()
    own.parent.rmdir()
    add_alias("new", "tiny-chat")
    assert resolve("new").path == resolve("tiny-chat").path


@pytest.mark.parametrize(
    ("name", "problem"),
    [("small", "stands for tiny-chat already"), ("a/b", "must be lower case"), ("", "alias")],
)
def test_names_that_cannot_be(own: Path, name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        add_alias(name, "tiny-chat")
    with pytest.raises(UsageError, match="did you mean small"):
        remove_alias("smal")
    assert own.read_text() == TEXT
