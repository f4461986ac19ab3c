"""The texts that a model is measured on, in chunks of one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import localllm
from localllm.errors import UsageError
from localllm.tokenize import Tokenizer

Tokens = npt.NDArray[np.int32]

_SHIPPED = ("prose", "mixed")  # assets/eval-NAME.txt


@dataclass(frozen=True)
class Text:
    """A text; `name` says in messages and reports which."""

    name: str
    content: str


def shipped_texts() -> list[Text]:
    """The two texts that come with the program: English prose, and code with what stands around it.

    None of it is in the text that importance matrices are measured on.
    """
    folder = Path(localllm.__file__).parent / "assets"
    return [
        Text(name, (folder / f"eval-{name}.txt").read_text(encoding="utf-8")) for name in _SHIPPED
    ]


def read_text(path: str | Path) -> Text:
    """The text of a file.

    Raises:
        UsageError: it is no regular file, empty, or not UTF-8.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe could be waited for forever
        raise UsageError(f"--data {path}: not a regular file")
    try:
        data = path.read_bytes()  # bytes: line ends stay what they are
    except OSError as error:
        raise UsageError(f"--data {path}: {error.strerror}") from None
    try:
        content = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"--data {path}: not UTF-8: byte {error.start} is 0x{data[error.start]:02x}",
            "convert the text first, for instance with iconv",
        ) from None
    if not content.strip():
        raise UsageError(f"--data {path}: the file is empty")
    return Text(str(path), content)


def cut(
    tokenizer: Tokenizer, text: Text, length: int, most: int | None = None, least: int = 2
) -> Tokens:
    """The text in chunks that follow each other, as llama-perplexity and llama-imatrix cut it.

    A last line's end is left out, and what is left over for no whole chunk. Where the vocabulary
    begins texts with a BOS token, that replaces the first token of each chunk.

    Args:
        tokenizer: of the model.
        text: what to cut.
        length: tokens of a chunk.
        most: chunks, from the start; None: all.
        least: chunks that the text must make, whatever `most` is.

    Returns:
        int32 [chunks, length].

    Raises:
        UsageError: the text is too short.
    """
    ids = tokenizer.encode(text.content.removesuffix("\n"))
    if len(ids) < least * length:
        raise UsageError(
            f"{text.name}: {len(ids)} tokens; {least * length} are the least with --ctx {length}",
            f"a longer text, or a --ctx of {len(ids) // least} or less",
        )
    whole = ids[: len(ids) // length * length]
    chunks = np.array(whole, np.int32).reshape(-1, length)[:most]
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        chunks[:, 0] = tokenizer.bos_id
    return chunks


def same_vocabulary(tokenizers: Sequence[Tokenizer]) -> bool:
    """Whether all of them have the same tokens under the same ids."""
    first, *others = tokenizers
    return all(
        other.vocab_size == first.vocab_size
        and all(first.token_bytes(t) == other.token_bytes(t) for t in range(first.vocab_size))
        for other in others
    )
