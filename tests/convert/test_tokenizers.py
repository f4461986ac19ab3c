"""Converted tokenizers against the libraries they come from: the same ids for random text."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from localllm.convert.checkpoint import Checkpoint
from localllm.convert.fields import Fields
from localllm.convert.tokenizers import tokenizer_metadata
from tests.tokenize.building import random_texts

pytestmark = pytest.mark.peer
pytest.importorskip("transformers")

from . import building  # noqa: E402
from .building import LLAMA3, QWEN2, SPECIAL, configure, tokenizers  # noqa: E402
from .comparing import COUNT, ROWS, compare, converted  # noqa: E402


def texts(special: Iterable[str] = (), allowed: Callable[[str], bool] | None = None) -> list[str]:
    """Random texts of characters that are assigned, and so mean the same in every version."""
    made = (
        "".join(c for c in text if unicodedata.category(c) not in ("Cn", "Co", "Cs"))
        for text in random_texts(11, 3 * COUNT, list(special))
    )
    return [text for text in made if allowed is None or allowed(text)][:COUNT]


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("name", ["llama-bpe", "dbrx", "deepseek-r1-qwen", "gpt-2", "smollm"])
def test_byte_level(tmp_path: Path, name: str, bos: bool) -> None:
    pattern = {"llama-bpe": LLAMA3, "dbrx": LLAMA3, "deepseek-r1-qwen": QWEN2}.get(name, "")
    theirs = building.byte_level(pattern, whole=name == "llama-bpe")
    if name == "smollm":
        pre = tokenizers.pre_tokenizers
        theirs.pre_tokenizer = pre.Sequence(
            [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]
        )
    if bos:
        theirs = building.begins_with_bos(theirs, SPECIAL[0], 0)
    theirs.save(str(tmp_path / "tokenizer.json"))
    pad = {"content": SPECIAL[2]}
    configure(tmp_path, bos_token=SPECIAL[0], eos_token=SPECIAL[1], pad_token=pad)
    ours = converted(tmp_path)
    assert ours.vocabulary.pre == name
    assert (ours.bos_id, ours.eos_id, ours.add_bos, ours.add_eos) == (0, 1, bos, False)
    assert ours.vocabulary.special["padding"] == 2
    assert [ours.is_control(ours.vocabulary.ids[t.encode()]) for t in SPECIAL] == [1, 1, 1, 0]
    assert not compare(ours, lambda text: theirs.encode(text).ids, texts(SPECIAL))


@pytest.mark.parametrize("name", ["qwen2", "deepseek-r1-qwen", "llama-bpe"])
def test_normalised_text(tmp_path: Path, name: str) -> None:
    """Qwen's tokenizers bring a text into the form NFC first, which their name says."""
    nfc = None if name == "deepseek-r1-qwen" else tokenizers.normalizers.NFC()
    whole = name == "llama-bpe"
    theirs = building.byte_level(LLAMA3 if whole else QWEN2, normalizer=nfc, whole=whole)
    theirs.save(str(tmp_path / "tokenizer.json"))
    fields = Fields({}, "config.json")
    _, notes = tokenizer_metadata(Checkpoint(tmp_path, "model", fields, {}), ROWS)
    ours = converted(tmp_path)
    assert ours.vocabulary.pre == name
    if whole:  # no name says it of these
        assert notes == ["the tokenizer's normalisation of a text (NFC) is left out"]
        return
    assert not notes
    cases = texts(SPECIAL)
    composed = [text for text in cases if not unicodedata.is_normalized("NFC", text)]
    assert len(composed) > COUNT / 20
    assert not compare(ours, lambda text: theirs.encode(text).ids, cases)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_model(tmp_path: Path, prefix: bool) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    path = building.sentencepiece_model(tmp_path, prefix=prefix)
    library = sentencepiece.SentencePieceProcessor(model_file=str(path))
    configure(tmp_path, bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_bos_token=True)
    ours = converted(tmp_path)
    assert (ours.bos_id, ours.eos_id, ours.add_bos) == (1, 2, True)
    # where SentencePiece puts a space before a text, it puts none before what follows a token
    special = [] if prefix else ["<note>"]
    cases = texts(special, lambda text: "\0" not in text)
    assert not compare(ours, lambda text: [1, *library.encode(text)], cases)


@pytest.mark.parametrize("prefix", [True, False])
def test_byte_fallback(tmp_path: Path, prefix: bool) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    path = building.sentencepiece_model(tmp_path)
    theirs = llama(sentencepiece.SentencePieceProcessor(model_file=str(path)), prefix)
    path.unlink()
    theirs.save(str(tmp_path / "tokenizer.json"))
    configure(tmp_path, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    ours = converted(tmp_path)
    assert (ours.bos_id, ours.eos_id, ours.add_bos) == (1, 2, True)
    cases = texts(["<note>", "</s>"])
    assert not compare(ours, lambda text: theirs.encode(text).ids, cases)


def llama(library: Any, prefix: bool) -> Any:
    """A tokenizer.json as checkpoints of Llama 2 have it."""
    from transformers.convert_slow_tokenizer import generate_merges

    ids = {library.id_to_piece(number): number for number in range(library.vocab_size())}
    scores = {piece: library.get_score(number) for piece, number in ids.items()}
    merges = generate_merges(ids, scores)
    made = tokenizers.Tokenizer(
        tokenizers.models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    steps = [tokenizers.normalizers.Prepend("▁")] if prefix else []
    made.normalizer = tokenizers.normalizers.Sequence(
        [*steps, tokenizers.normalizers.Replace(" ", "▁")]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.add_tokens([tokenizers.AddedToken("<note>", normalized=False)])
    return building.begins_with_bos(made, "<s>", 1)


def test_unigram(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    path = building.sentencepiece_model(tmp_path, "unigram", 400)
    library = sentencepiece.SentencePieceProcessor(model_file=str(path))
    configure(tmp_path, bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_eos_token=False)
    ours = converted(tmp_path)
    assert type(ours).__name__ == "UnigramTokenizer"
    cases = texts(allowed=lambda text: "\0" not in text)
    assert not compare(ours, library.encode, cases)
