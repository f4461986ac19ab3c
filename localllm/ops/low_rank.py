"""Low-rank additions to linear weights (LoRA, https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from localllm.ops.spec import Float32


@dataclass(frozen=True, eq=False)
class LowRank:
    """What is added to a linear weight: x W^T becomes x W^T + (x A^T) B^T.

    Args:
        a: float32 [rank, in].
        b: float32 [out, rank], the adapter's scale included.
    """

    a: Float32
    b: Float32

    def rows(self, start: int, stop: int) -> LowRank:
        """What is added to the rows [start, stop) of the weight."""
        return LowRank(self.a, np.ascontiguousarray(self.b[start:stop]))


Terms = Mapping[str, LowRank]
"""An adapter: what is added, by the name of the `Weight`."""
