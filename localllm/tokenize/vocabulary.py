"""A vocabulary out of GGUF metadata: tokens, their kinds, and the ids with a meaning of their own.

The meaning of the fields, the defaults and the search for end-of-generation tokens by their text
are llama.cpp's (`llama_vocab::impl::load` in src/llama-vocab.cpp), so that files made for it behave
alike here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from localllm.errors import ModelFileError
from localllm.gguf import GGUFFile, StringArray

PREFIX = "tokenizer.ggml."


class Attribute:
    """Bits that say what a token is; a token may have several."""

    UNKNOWN = 1
    UNUSED = 2
    NORMAL = 4
    CONTROL = 8
    USER_DEFINED = 16
    BYTE = 32
    UNDEFINED = 64
    LSTRIP = 128  # white space before it, in a text, belongs to it
    RSTRIP = 256  # white space after it
    SPECIAL = UNKNOWN | CONTROL | USER_DEFINED


# by the number in tokenizer.ggml.token_type; larger ones are undefined
_ATTRIBUTE_OF_TYPE = np.array(
    [
        Attribute.UNDEFINED,
        Attribute.NORMAL,
        Attribute.UNKNOWN,
        Attribute.CONTROL,
        Attribute.USER_DEFINED,
        Attribute.UNUSED,
        Attribute.BYTE,
        Attribute.UNDEFINED,
    ],
    np.uint16,
)

# ids that a file of this tokenizer model has where its metadata does not say otherwise
_DEFAULT_IDS: dict[str, dict[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unknown": 0},
    "gpt2": {"bos": 11, "eos": 11},
    "t5": {"eos": 1, "unknown": 2, "padding": 0},
    "bert": {"bos": 101, "unknown": 100, "seperator": 102, "padding": 0, "mask": 103},
    "gemma4": {},
}
_ID_KEYS: tuple[tuple[str, str], ...] = (
    *((name, f"{name}_token_id") for name in ("bos", "eos", "eot", "eom", "unknown")),
    *((name, f"{name}_token_id") for name in ("seperator", "padding", "mask")),
    *((name, f"{name}_token_id") for name in ("fim_pre", "fim_suf", "fim_mid")),
    *((name, f"{name}_token_id") for name in ("fim_pad", "fim_rep", "fim_sep")),
    ("fim_pre", "prefix_token_id"),  # deprecated names
    ("fim_suf", "suffix_token_id"),
    ("fim_mid", "middle_token_id"),
)
# spellings of tokens which files name too seldom by id
_KNOWN_TEXTS: dict[str, tuple[str, ...]] = {
    "eot": (
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "<｜end▁of▁sentence｜>",
        "<end_of_utterance>",
    ),
    "eom": ("<|eom_id|>",),
    "fim_pre": (
        "<|fim_prefix|>",
        "<fim-prefix>",
        "<fim_prefix>",
        "<｜fim▁begin｜>",
        "<PRE>",
        "▁<PRE>",
        "<|code_prefix|>",
        "<|prefix|>",
    ),
    "fim_suf": (
        "<|fim_suffix|>",
        "<fim-suffix>",
        "<fim_suffix>",
        "<｜fim▁hole｜>",
        "<SUF>",
        "▁<SUF>",
        "<|code_suffix|>",
        "<|suffix|>",
    ),
    "fim_mid": (
        "<|fim_middle|>",
        "<fim-middle>",
        "<fim_middle>",
        "<｜fim▁end｜>",
        "<MID>",
        "▁<MID>",
        "<|code_middle|>",
        "<|middle|>",
    ),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}
_END_OF_GENERATION = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
)
_BYTE_TOKEN = re.compile(rb"<0x[0-9A-Fa-f]{2}>")


@dataclass
class Vocabulary:
    """What the metadata say, checked.

    Attributes:
        path: the file, for messages.
        model: tokenizer.ggml.model.
        pre: tokenizer.ggml.pre; empty where it is missing.
        tokens: each token as stored (byte-level or with U+2581 for a space), all different.
        ids: id by stored token.
        attributes: `Attribute` bits by id, uint16 [tokens].
        scores: by id, float32 [tokens]; None where the file has none.
        special: id by role: bos, eos, eot, eom, unknown, seperator, padding, mask, fim_*.
        eog: ids after which generation ends.
        file: the model file, for the fields that only one kind of tokenizer reads.
    """

    path: Path
    model: str
    pre: str
    tokens: list[bytes]
    ids: dict[bytes, int]
    attributes: npt.NDArray[np.uint16]
    scores: npt.NDArray[np.float32] | None
    special: dict[str, int]
    eog: frozenset[int]
    file: GGUFFile

    def flag(self, name: str, default: bool) -> bool:
        """The yes-or-no field `tokenizer.ggml.<name>`."""
        return self.file.get(PREFIX + name, bool, default)

    def fail(self, name: str, message: str) -> ModelFileError:
        """The error for a wrong field `tokenizer.ggml.<name>`."""
        return ModelFileError(f"{self.path}: {PREFIX}{name}: {message}")


def read_vocabulary(file: GGUFFile) -> Vocabulary:
    """Reads and checks a file's vocabulary.

    Raises:
        ModelFileError: naming the field that is missing or wrong.
    """
    model = file.get(PREFIX + "model", str)
    if model not in _DEFAULT_IDS:
        raise ModelFileError(
            f"{file.path}: {PREFIX}model: unknown tokenizer {model[:40]!r}",
            "supported: " + ", ".join(_DEFAULT_IDS),
        )
    tokens = string_array(file, "tokens")
    if b"" in tokens:
        tokens = [token or b"[EMPTY_%d]" % index for index, token in enumerate(tokens)]
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    vocabulary = Vocabulary(
        path=file.path,
        model=model,
        pre=file.get(PREFIX + "pre", str, ""),
        tokens=tokens,
        ids=ids,
        attributes=np.full(len(tokens), Attribute.NORMAL, np.uint16),
        scores=None,
        special={},
        eog=frozenset(),
        file=file,
    )
    if not tokens:
        raise vocabulary.fail("tokens", "the vocabulary is empty")
    if len(ids) != len(tokens):
        again = next(i for i, token in enumerate(tokens) if ids[token] != i)
        raise vocabulary.fail(
            "tokens", f"{tokens[again]!r} stands twice, as {again} and {ids[tokens[again]]}"
        )
    types = _numbers(vocabulary, "token_type", "iu")
    if types is not None:
        known = (types >= 0) & (types < 7)
        vocabulary.attributes = _ATTRIBUTE_OF_TYPE[np.where(known, types, 7)]
    scores = _numbers(vocabulary, "scores", "iuf")
    if scores is not None:
        if not np.isfinite(scores).all():
            raise vocabulary.fail("scores", "a score is infinite or no number")
        vocabulary.scores = scores.astype(np.float32)
    for index in np.flatnonzero(vocabulary.attributes & Attribute.BYTE).tolist():
        if model != "gpt2" and not _BYTE_TOKEN.fullmatch(tokens[index]):
            raise vocabulary.fail("tokens", f"{tokens[index]!r} ({index}) is no byte token <0xXX>")
    _read_special_ids(vocabulary)
    _find_by_text(vocabulary)
    _set_strip_attributes(vocabulary)
    return vocabulary


def check_strings(file: GGUFFile, name: str) -> Sequence[bytes]:
    """The field `tokenizer.ggml.<name>`, which must be an array of strings."""
    value: Any = file.get(PREFIX + name, list)
    if len(value) and not isinstance(value[0], bytes):
        raise ModelFileError(f"{file.path}: {PREFIX}{name}: expected an array of strings")
    strings: Sequence[bytes] = value
    return strings


def string_array(file: GGUFFile, name: str) -> list[bytes]:
    """All strings of the field `tokenizer.ggml.<name>`."""
    strings = check_strings(file, name)
    return strings.tolist() if isinstance(strings, StringArray) else list(strings)


def _numbers(vocabulary: Vocabulary, name: str, kinds: str) -> npt.NDArray[Any] | None:
    value = vocabulary.file.get(PREFIX + name, list, None)
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds:
        raise vocabulary.fail(name, "expected an array of numbers")
    if len(value) != len(vocabulary.tokens):
        raise vocabulary.fail(
            name, f"{len(value)} entries for a vocabulary of {len(vocabulary.tokens)} tokens"
        )
    return value


def _read_special_ids(vocabulary: Vocabulary) -> None:
    special = vocabulary.special
    count = len(vocabulary.tokens)
    for role, token in _DEFAULT_IDS[vocabulary.model].items():
        if token >= count:
            continue
        # 11 is <|endoftext|> in Falcon and a plain comma or so in most others: llama.cpp would
        # let it end the generation, which no one can want
        if vocabulary.model == "gpt2" and not vocabulary.attributes[token] & Attribute.CONTROL:
            continue
        special[role] = token
    for role, name in _ID_KEYS:
        token = vocabulary.file.get(PREFIX + name, int, -1)
        if PREFIX + name not in vocabulary.file.metadata:
            continue
        if not 0 <= token < count:
            raise vocabulary.fail(name, f"{token} is outside the vocabulary of {count} tokens")
        special[role] = token


def _find_by_text(vocabulary: Vocabulary) -> None:
    """Finds special tokens by their spelling, and with them the end-of-generation set."""
    special, ids, attributes = vocabulary.special, vocabulary.ids, vocabulary.attributes
    for role, texts in _KNOWN_TEXTS.items():
        if role in special:
            continue
        for text in texts:
            token = ids.get(text.encode())
            if token is not None:
                special[role] = token
                attributes[token] |= Attribute.CONTROL
                break
    eog = {special[role] for role in ("fim_pad", "fim_rep", "fim_sep") if role in special}
    for text in _END_OF_GENERATION:
        token = ids.get(text.encode())
        if token is not None:
            eog.add(token)
            attributes[token] |= Attribute.CONTROL
    for text in ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"):  # gpt-oss shows them
        token = ids.get(text.encode())
        if token is not None:
            attributes[token] = Attribute.USER_DEFINED
    eog.update(special[role] for role in ("eos", "eot", "eom") if role in special)
    names = {vocabulary.tokens[token] for token in eog}
    calls = bool(names & {b"<|call|>", b"<|calls|>"})
    # gpt-oss and solar-open: <|end|> ends a message, not the generation
    if b"<|end|>" in names and calls and names & {b"<|return|>", b"<|flush|>"}:
        _demote(vocabulary, eog, b"<|end|>", Attribute.USER_DEFINED)
    # gemma4 and plamo: </s> is an ordinary token
    if b"</s>" in names and names & {b"<|tool_response>", b"<|plamo:eos|>"}:
        _demote(vocabulary, eog, b"</s>", Attribute.NORMAL)
    vocabulary.eog = frozenset(eog)


def _demote(vocabulary: Vocabulary, eog: set[int], text: bytes, attribute: int) -> None:
    token = vocabulary.ids[text]
    eog.discard(token)
    vocabulary.attributes[token] = attribute


def _set_strip_attributes(vocabulary: Vocabulary) -> None:
    """Which special tokens swallow white space beside them: known by the model's name only."""
    file, ids, attributes = vocabulary.file, vocabulary.ids, vocabulary.attributes
    name = file.get("general.name", str, "").lower()
    architecture = file.get("general.architecture", str, "")
    if any(part in vocabulary.pre for part in ("jina-v2-de", "jina-v2-es", "jina-v2-code")) or any(
        part in architecture for part in ("nomic-bert-moe", "jina-bert-v3")
    ):
        if b"<mask>" in ids:
            attributes[ids[b"<mask>"]] |= Attribute.LSTRIP
    elif "phi-3" in name or "phi3" in name:
        attributes[(attributes & Attribute.SPECIAL) != 0] |= Attribute.RSTRIP
        if b"</s>" in ids:
            attributes[ids[b"</s>"]] |= Attribute.RSTRIP
        for text in (b"<unk>", b"<s>", b"<|endoftext|>"):
            if text in ids:
                attributes[ids[text]] &= 0xFFFF ^ Attribute.RSTRIP
    elif "modern-bert" in name and b"[MASK]" in ids:
        attributes[ids[b"[MASK]"]] |= Attribute.LSTRIP
