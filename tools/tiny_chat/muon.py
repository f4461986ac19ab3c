"""The optimiser of the matrices: Jordan et al., "Muon" (2024), https://kellerjordan.github.io/posts/muon."""

from __future__ import annotations

import torch
from torch import Tensor

MOMENTUM = 0.95
DECAY = 0.01  # of the weights, a step, times the learning rate


class Muon:
    """Momentum whose update is replaced by the nearest (semi-)orthogonal matrix.

    Matrices of one shape are orthogonalised together, by five Newton-Schulz steps in bfloat16.
    """

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        by_shape: dict[tuple[int, ...], list[torch.nn.Parameter]] = {}
        for parameter in parameters:
            by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
        self.groups = list(by_shape.values())
        self.momenta = [torch.zeros(len(g), *g[0].shape) for g in self.groups]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Change the parameters by one step of the given learning rate."""
        for group, state in zip(self.groups, self.momenta, strict=True):
            gradient = torch.stack([p.grad for p in group])
            state.lerp_(gradient, 1 - MOMENTUM)
            update = self._orthogonal(gradient.lerp(state, MOMENTUM))
            rows, columns = group[0].shape
            scale = rate * max(1.0, rows / columns) ** 0.5
            for parameter, change in zip(group, update.float(), strict=True):
                parameter.mul_(1 - rate * DECAY).add_(change, alpha=-scale)

    @staticmethod
    def _orthogonal(x: Tensor) -> Tensor:
        """x [n, rows, columns] with its singular values brought near one."""
        a, b, c = 3.4445, -4.7750, 2.0315
        turned = x.shape[1] > x.shape[2]
        x = x.transpose(1, 2) if turned else x
        x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
        for _ in range(5):
            square = x @ x.transpose(1, 2)
            x = a * x + (b * square + c * square @ square) @ x
        return x.transpose(1, 2) if turned else x
