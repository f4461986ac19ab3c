"""Token ids against llama.cpp: its recorded ones, and those it gives for random text."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localllm.gguf import GGUFFile
from localllm.gguf.writer import write_gguf
from localllm.tokenize import Tokenizer, load_tokenizer
from localllm.tokenize.pretokenizers import find_pretokenizer, pretokenizer_names
from localllm.tokenize.vocabulary import Attribute

from .building import all_pairs, model_file, random_texts, sentence_piece

VOCABULARIES = ("bert-bge", "deepseek-llm", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2")
SAME = VOCABULARIES[1:]  # WordPiece is the tokenizers package's here (test_bert_words.py)
ORDINARY, THOROUGH = 300, 5000


def path_of(vocabs: Path, name: str) -> Path:
    return vocabs / f"ggml-vocab-{name}.gguf"


def recorded(path: Path) -> list[tuple[str, list[int]]]:
    """The pairs of text and ids beside a vocabulary, read as llama.cpp's test-tokenizer-0 does."""
    texts = Path(f"{path}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    if not texts[-1]:
        texts.pop()
    lines = Path(f"{path}.out").read_text().splitlines()
    return [(text, list(map(int, line.split()))) for text, line in zip(texts, lines, strict=True)]


@pytest.mark.parametrize("name", VOCABULARIES)
def test_recorded_ids(vocabs: Path, name: str) -> None:
    tokenizer = load_tokenizer(GGUFFile.open(path_of(vocabs, name)))
    cases = recorded(path_of(vocabs, name))
    assert len(cases) > 40
    for text, ids in cases:
        assert tokenizer.encode(text, add_special=False) == ids, text


class Peer:
    """llama.cpp's tokenizer of a vocabulary file."""

    def __init__(self, path: Path) -> None:
        llama_cpp = pytest.importorskip("llama_cpp")
        self.api: Any = llama_cpp
        self.llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.llama._model.model)

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        ids: list[int] = self.llama.tokenize(text.encode(), add_special, parse_special)
        return ids


def special_texts(tokenizer: Tokenizer) -> list[str]:
    vocabulary = tokenizer.vocabulary
    ids = np.flatnonzero(vocabulary.attributes & Attribute.SPECIAL)[:300].tolist()
    return [vocabulary.tokens[token].decode() for token in ids]


def compare(path: Path, count: int) -> Tokenizer:
    """Asserts equal ids for `count` random texts, without and with special tokens."""
    peer = Peer(path)
    tokenizer = load_tokenizer(GGUFFile.open(path))
    kind = find_pretokenizer(tokenizer.vocabulary.pre)
    for text in random_texts(1, count, special_texts(tokenizer)):
        if kind is not None and kind.nfc:  # which llama.cpp leaves out
            text = unicodedata.normalize("NFC", text)
        for special in (False, True):
            ours = tokenizer.encode(text, add_special=special, parse_special=special)
            assert ours == peer.encode(text, special, special), (text, special)
    return tokenizer


@pytest.mark.peer
@pytest.mark.parametrize("name", SAME)
def test_random_text(vocabs: Path, name: str) -> None:
    compare(path_of(vocabs, name), ORDINARY)


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_much_random_text(vocabs: Path, name: str) -> None:
    compare(path_of(vocabs, name), THOROUGH)


@pytest.mark.peer
@pytest.mark.parametrize("name", VOCABULARIES)
def test_kinds_of_tokens(vocabs: Path, name: str) -> None:
    peer = Peer(path_of(vocabs, name))
    tokenizer = load_tokenizer(GGUFFile.open(path_of(vocabs, name)))
    api, vocabulary = peer.api, peer.vocabulary
    ids = range(tokenizer.vocab_size)
    assert {i for i in ids if api.llama_vocab_is_eog(vocabulary, i)} == tokenizer.eog_ids
    assert [api.llama_vocab_get_attr(vocabulary, i) for i in ids] == (
        tokenizer.vocabulary.attributes.tolist()
    )
    bos, eos = api.llama_vocab_bos(vocabulary), api.llama_vocab_eos(vocabulary)
    assert (bos, eos) == (tokenizer.bos_id, -1 if tokenizer.eos_id is None else tokenizer.eos_id)
    assert api.llama_vocab_get_add_bos(vocabulary) == tokenizer.add_bos
    assert api.llama_vocab_get_add_eos(vocabulary) == tokenizer.add_eos


def distinct_pretokenizers() -> list[str]:
    """One name of each way to cut a text."""
    return list({find_pretokenizer(name): name for name in reversed(pretokenizer_names())}.values())


def write(path: Path, fields: dict[str, Any]) -> Path:
    sizes = ("context_length", "embedding_length", "block_count", "feed_forward_length")
    metadata: dict[str, Any] = {f"llama.{size}": 32 for size in sizes}
    metadata |= {"general.architecture": "llama", "llama.attention.head_count": 1}
    metadata["llama.attention.layer_norm_rms_epsilon"] = 1e-5
    for key, value in model_file(fields).metadata.items():
        texts = isinstance(value, list) and value and isinstance(value[0], bytes)
        metadata[key] = [text.decode() for text in value] if texts else value
    write_gguf(path, metadata, {})
    return path


@pytest.mark.peer
@pytest.mark.parametrize("name", distinct_pretokenizers())
def test_pretokenizers(tmp_path: Path, name: str) -> None:
    pytest.importorskip("llama_cpp")
    compare(write(tmp_path / "pairs.gguf", all_pairs(name)), 60)


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("name", distinct_pretokenizers())
def test_pretokenizers_thoroughly(tmp_path: Path, name: str) -> None:
    pytest.importorskip("llama_cpp")
    compare(write(tmp_path / "pairs.gguf", all_pairs(name)), 1000)


PIECES = [
    *((piece, -float(rank)) for rank, piece in enumerate("▁etaoinshrdlu", 1)),
    *(("▁t", -1.5), ("he", -2.5), ("▁the", -3.5), ("ll", -20.0), ("hell", -21.0), ("▁hell", -9.0)),
    *(("▁▁", -4.0), ("▁▁▁▁", -5.0), ("aa", -30.0), ("aaaa", -31.0), ("o▁w", -40.0), ("W", -50.0)),
    *(("日", -60.0), ("本", -61.0), ("日本", -62.0), ("é", -63.0), ("'", -64.0), ("1", -65.0)),
]


@pytest.mark.peer
@pytest.mark.parametrize("spaces", [(True, False), (False, False), (True, True), (False, True)])
@pytest.mark.parametrize("model", ["llama", "t5"])
def test_sentence_piece(tmp_path: Path, model: str, spaces: tuple[bool, bool]) -> None:
    pytest.importorskip("llama_cpp")
    fields = sentence_piece(PIECES, model, add_space_prefix=spaces[0])
    fields["remove_extra_whitespaces"] = spaces[1]
    compare(write(tmp_path / "pieces.gguf", fields), 200)
