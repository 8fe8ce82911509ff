"""Muon: kernels of convolutions turn, with momentum, by the same angle in all directions at once.

    M ← β·M + (1 - β)·G         U = β·M + (1 - β)·G        (Nesterov)
    O ≈ (U·Uᵀ)^(-1/2)·U         its singular values are about 1: directions that gradients hardly show count
    W ← (W - η·‖W‖·O/‖O‖) / sqrt(1 + η²)

A kernel is a matrix [C_out, C_in·h·w]. After a norm its length means nothing, and η is the angle of a step,
whatever weights the network came with; what turns a kernel leaves it as long as it was. Everything else goes
down its gradients with Nesterov momentum. After K. Jordan et al., "Muon" (2024). Torch has its own since 2.9,
for whole matrices and without an angle; here a kernel has parts that must not disturb each other.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_ITERATIONS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315  # of the quintic that takes all singular values near 1 in five steps
_SMALLEST = 1e-12  # of a gradient's length: less is none

Parts = Sequence[Tensor]
"""Which rows of a kernel make a step together."""


class Muon(Optimizer):
    """Groups with `parts` turn by `angle`; the others go down their gradients at `lr`, with weight decay."""

    def __init__(self, groups: Iterable[Mapping[str, Any]], *, lr: float, momentum: float) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "parts": None, "angle": 0.0}
        super().__init__([dict(group) for group in groups], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step along the gradients that the weights have."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if group["parts"] is None:
                    self._go_down(parameter, parameter.grad, group)
                else:
                    self._turn(parameter, parameter.grad, group)

    def _go_down(self, weight: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        gradient = gradient.add(weight, alpha=group["weight_decay"])
        memory = self._memory(weight).mul_(group["momentum"]).add_(gradient)
        weight.sub_(gradient.add_(memory, alpha=group["momentum"]), alpha=group["lr"])

    def _turn(self, kernel: Tensor, gradient: Tensor, group: Mapping[str, Any]) -> None:
        memory = self._memory(kernel).lerp_(gradient, 1 - group["momentum"])
        ahead, before = _matrix(gradient.lerp(memory, group["momentum"])), _matrix(kernel)
        turned, angle = before.clone(), group["angle"]
        for rows in group["parts"]:
            own, direction = before.index_select(0, rows), orthogonal(ahead.index_select(0, rows))
            share = angle * own.norm() / direction.norm().clamp_min(_SMALLEST)
            turned.index_copy_(0, rows, own.sub_(direction.mul_(share)).div_(math.sqrt(1 + angle**2)))
        channels_last = kernel.movedim(1, -1)
        channels_last.copy_(turned.view(channels_last.shape))

    def _memory(self, weight: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return state["momentum_buffer"]


def _matrix(kernel: Tensor) -> Tensor:
    """A kernel [C_out, C_in, h, w] as rows [C_out, h·w·C_in]: in memory as it is, if channels lie last."""
    return kernel.movedim(1, -1).flatten(1)


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix [N, M] with singular values of about 1 (0.7 to 1.2), and the same singular vectors."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.mT if is_tall else matrix
    x: Tensor = wide / wide.norm().clamp_min(_SMALLEST)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        polynomial = torch.addmm(square, square, square, beta=_B, alpha=_C)
        polynomial.diagonal().add_(_A)
        x = polynomial @ x
    return x.mT if is_tall else x
