"""One vector for a text: its tokens' final hidden states, pooled."""

from __future__ import annotations

from collections.abc import Sequence as Ids

import numpy as np

from localllm.engine.engine import Engine
from localllm.engine.runner import Rows
from localllm.errors import LocalLLMError
from localllm.gguf import GGUFFile

POOLINGS = ("mean", "cls", "last")  # GGUF numbers them from 1


def default_pooling(file: GGUFFile) -> str:
    """What the file says in `<arch>.pooling_type`; else, and where that is no pooling, "mean"."""
    arch = file.get("general.architecture", str)
    number = file.get(f"{arch}.pooling_type", int, 0)
    return POOLINGS[number - 1] if 1 <= number <= len(POOLINGS) else "mean"


class Embedding:
    """Texts on their way to vectors, many in a step.

    A vector does not depend on the texts beside it: on the CPU it is the same bit for bit.

    Args:
        engine: computes the hidden states; nobody else may use it during a step.
        texts: token ids.
        pooling: "mean" of all tokens, "last" token, or "cls": the first.

    Attributes:
        vectors: float32 [texts, width], complete once nothing is waiting.

    Raises:
        UsageError, ContextFullError: a text cannot be computed.
    """

    def __init__(self, engine: Engine, texts: Ids[Ids[int]], pooling: str) -> None:
        self.vectors: Rows = np.zeros((len(texts), engine.config.width), np.float32)
        self._pooling = pooling
        self._reader = engine.read(texts, "hidden")
        self._number = {id(text): number for number, text in enumerate(self._reader.waiting)}

    @property
    def waiting(self) -> bool:
        """Whether there is more to compute."""
        return bool(self._reader.waiting)

    def step(self) -> None:
        """Compute the next batch.

        Raises:
            OutOfPagesError: others hold the pages; nothing was changed.
        """
        for text, rows in self._reader.step():
            vector = self.vectors[self._number[id(text)]]
            if self._pooling == "mean":
                # Row after row, so that it does not matter where a text is cut.
                vector[:] = np.concatenate([vector[None], rows]).sum(0)
                if not text.missing:
                    vector /= len(text.tokens)
            elif self._pooling == "last":
                vector[:] = rows[-1]
            elif text.computed == len(rows):
                vector[:] = rows[0]

    def close(self) -> None:
        """Give all pages back."""
        self._reader.close()


def shortened(vectors: Rows, width: int | None, normalise: bool) -> Rows:
    """The first components (all for None), of length 1 where that is asked for.

    Models trained for it keep most of the meaning in the first components (Matryoshka
    representations, https://arxiv.org/abs/2205.13147). A vector of zeros stays one.

    Raises:
        LocalLLMError: a component is not finite.
    """
    if not np.isfinite(vectors).all():
        raise LocalLLMError("the model's hidden states are not finite")
    vectors = vectors[:, :width]
    if normalise:
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        vectors = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return vectors
