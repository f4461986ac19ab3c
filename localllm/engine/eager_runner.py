"""The definition on torch tensors: the reference in tests, and the path of ``--device``."""

from __future__ import annotations

from functools import cached_property
from itertools import count

import numpy as np
import torch
from torch import Tensor

from localllm.engine.batch import Batch
from localllm.engine.runner import Rows
from localllm.models.blocks import Model
from localllm.ops.eager import EagerCache, WeightStore, run
from localllm.ops.low_rank import Terms
from localllm.ops.program import Output
from localllm.ops.tracer import drop_unused, record

_Memory = dict[int, tuple[Tensor, Tensor]]  # by layer: [pages * page_size, kv_heads, head_dim]


class EagerRunner:
    """See ``Runner``; KV memory in the dtype of the weights.

    Args:
        model: the definition.
        pages: pages of KV memory.
        page_size: tokens in a page.
        device: of torch: "cpu", "cuda", "mps".
        dtype: of weights and activations.
    """

    def __init__(
        self,
        model: Model,
        *,
        pages: int,
        page_size: int,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.pages = pages
        self.page_size = page_size
        recorded = record(model)
        names = [one.name for one in recorded.instructions if isinstance(one, Output)]
        self._programs = {name: drop_unused(recorded, [name]) for name in names}
        self._store = WeightStore(device, dtype)
        self._memory: _Memory = {}
        self._adapters: dict[int, Terms] = {}
        self._numbers = count()

    @torch.no_grad()
    def step(self, batch: Batch, output: str = "logits") -> Rows:
        """See ``Runner.step``."""
        # A definition computes at least one row to the end; where none is wanted, it is dropped.
        rows = batch.rows if len(batch.rows) else batch.lengths[:1] - 1
        outputs = run(
            self._programs[output],
            torch.from_numpy(batch.tokens).long(),
            self._store,
            lengths=batch.lengths.tolist(),
            cache=_PagedCache(self._memory, batch, self.pages, self.page_size),
            rows=torch.from_numpy(rows).long(),
            adapters=None
            if batch.adapters is None
            else [None if one < 0 else self._adapters[one] for one in batch.adapters.tolist()],
        )
        found: Rows = outputs[output].float().cpu().numpy()
        return found[: len(batch.rows)]

    def copy_page(self, source: int, target: int) -> None:
        """See ``Runner.copy_page``."""
        size = self.page_size
        for stored in self._memory.values():
            for slots in stored:
                slots[target * size : (target + 1) * size] = slots[
                    source * size : (source + 1) * size
                ]

    def add_adapter(self, terms: Terms) -> int:
        """See ``Runner.add_adapter``."""
        number = next(self._numbers)
        self._adapters[number] = terms
        return number

    def drop_adapter(self, number: int) -> None:
        """See ``Runner.drop_adapter``."""
        del self._adapters[number]


class _PagedCache(EagerCache):
    """One step's view of the memory through the block tables."""

    def __init__(self, memory: _Memory, batch: Batch, pages: int, page_size: int) -> None:
        self._memory = memory
        self._batch = batch
        self._page_size = page_size
        self._total = pages * page_size

    def length(self, sequence: int) -> int:
        return int(self._batch.past[sequence])

    @cached_property
    def _slots(self) -> list[Tensor]:
        """Where the tokens of each sequence are in the memory, past ones and new ones."""
        found = []
        batch, size = self._batch, self._page_size
        for table, past, length in zip(batch.tables, batch.past, batch.lengths, strict=True):
            position = np.arange(past + length)
            slots = table[position // size].astype(np.int64) * size + position % size
            found.append(torch.from_numpy(slots))
        return found

    def append(self, sequence: int, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if layer not in self._memory:
            shape = (self._total, *k.shape[1:])
            self._memory[layer] = (k.new_zeros(shape), v.new_zeros(shape))
        keys, values = self._memory[layer]
        slots = self._slots[sequence].to(k.device)
        new = slots[self.length(sequence) :]
        keys[new], values[new] = k, v
        return keys[slots], values[slots]
