"""Computes batches: the native program, or the same definition on torch."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from localllm.engine.batch import Batch
from localllm.errors import LocalLLMError, UsageError
from localllm.models.blocks import Model
from localllm.ops.low_rank import Terms
from localllm.ops.native import InputSquares, Place, input_squares, lower

Rows = npt.NDArray[np.float32]
Logits = Rows


class Runner(Protocol):
    """Owns the weights and the KV memory that the pages stand for."""

    pages: int
    page_size: int

    def step(self, batch: Batch, output: str = "logits") -> Rows:
        """Compute all rows, write their keys and values.

        Returns:
            float32[R, vocab] for "logits"; for "hidden" [R, width], and the head is not computed.
            A model that generates no text has no "logits".
        """

    def copy_page(self, source: int, target: int) -> None:
        """Copy the keys and values of a page, all layers."""

    def add_adapter(self, terms: Terms) -> int:
        """Take over an adapter; the number that batches name it by, never given twice."""

    def drop_adapter(self, number: int) -> None:
        """Free an adapter that no later batch names."""


class NativeRunner:
    """The traced program on the CPU, in one call a step with the interpreter lock released.

    Args:
        model: the definition.
        pages: pages of KV memory.
        page_size: tokens in a page.
        kv_type: "f32", "f16" or "int8".
        threads: worker threads, this one included.
        place: see `ops.native.lower`.
    """

    def __init__(
        self,
        model: Model,
        *,
        pages: int,
        page_size: int,
        kv_type: str,
        threads: int,
        place: Place | None = None,
    ) -> None:
        from localllm import _native
        from localllm.ops.tracer import trace

        config = model.config
        self.pages = pages
        self.page_size = page_size
        program = trace(model)
        self._program, self._weights = lower(program, threads, place=place)
        self._cache: Any = _native.Cache(
            config.layers, config.kv_heads, config.head_dim, pages, page_size, kv_type
        )

    def step(self, batch: Batch, output: str = "logits") -> Rows:
        """See ``Runner.step``."""
        outputs = self._program.step(
            self._cache,
            batch.tokens,
            batch.lengths,
            batch.past,
            batch.tables,
            batch.rows,
            only=output,
            adapters=batch.adapters,
        )
        rows: Rows = outputs[output]
        return rows

    def copy_page(self, source: int, target: int) -> None:
        """See ``Runner.copy_page``."""
        self._cache.copy_page(source, target)

    def add_adapter(self, terms: Terms) -> int:
        """See ``Runner.add_adapter``."""
        number: int = self._program.adapter(
            [self._weights[name] for name in terms],
            [term.a for term in terms.values()],
            [term.b for term in terms.values()],
        )
        return number

    def drop_adapter(self, number: int) -> None:
        """See ``Runner.drop_adapter``."""
        self._program.drop_adapter(number)

    def collect_squares(self) -> None:
        """Sum up the squares of what weights are multiplied with in all later steps, from zero."""
        self._program.collect_squares()

    def squares(self) -> dict[str, InputSquares]:
        """The sums since then, by the weights' names in the model file."""
        return input_squares(self._program, self._weights)


def eager_runner(model: Model, pages: int, page_size: int, device: str) -> Runner:
    """What computes on a device of torch.

    Raises:
        LocalLLMError: torch is not installed.
        UsageError: there is no such device.
    """
    try:
        import torch

        torch.empty(0, device=device)
    except ImportError as error:
        raise LocalLLMError(
            f"--device {device}: needs torch", "pip install 'localllm[torch]'"
        ) from error
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {device}: {str(error).splitlines()[0]}") from error
    from localllm.engine.eager_runner import EagerRunner

    return EagerRunner(model, pages=pages, page_size=page_size, device=device)
