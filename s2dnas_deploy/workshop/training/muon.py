"""Muon: kernels of convolutions turn, with momentum, by the same angle in all directions at once.

    M ← β·M + (1 - β)·G         U = β·M + (1 - β)·G        (Nesterov)
    O ≈ (U·Uᵀ)^(-1/2)·U         its singular values are about 1: directions that gradients hardly show count
    W ← (W - η·‖W‖·O/‖O‖) / sqrt(1 + η²)

A kernel is a matrix [C_out, C_in·h·w], and η is the angle of a step, whatever weights the network came with.
Where a norm follows, the lengths of its rows w mean nothing, and each of the N rows turns by itself:

    v = w/‖w‖ - η·√N·o/‖O‖      w ← ‖w‖·v/‖v‖

M is of gradients at right angles to earlier weights, not to these, so without that kernels would grow by some
thousandths a step: beyond all numbers in 20,000 steps, and the rows that grow most would turn least.

Everything else goes down its gradients with Nesterov momentum. After K. Jordan et al., "Muon" (2024), and
B. Heo et al., "AdamP" (2021), for lengths. Torch has its own Muon since 2.9, for whole matrices and without
an angle; here a kernel has parts that must not disturb each other.
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
    """Groups with `parts` turn by `angle`, row by row if `normed`; others go down their gradients at `lr`."""

    def __init__(self, groups: Iterable[Mapping[str, Any]], *, lr: float, momentum: float) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "parts": None, "angle": 0.0}
        defaults |= {"normed": False}
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
        turned, turn = before.clone(), _turned_by_rows if group["normed"] else _turned
        for rows in group["parts"]:
            own, direction = before.index_select(0, rows), orthogonal(ahead.index_select(0, rows))
            direction.div_(direction.norm().clamp_min(_SMALLEST))
            turned.index_copy_(0, rows, turn(own, direction, group["angle"]))
        channels_last = kernel.movedim(1, -1)
        channels_last.copy_(turned.view(channels_last.shape))

    def _memory(self, weight: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        return state["momentum_buffer"]


def _turned(own: Tensor, direction: Tensor, angle: float) -> Tensor:
    return own.sub(direction.mul_(angle * own.norm())).div_(math.sqrt(1 + angle**2))


def _turned_by_rows(own: Tensor, direction: Tensor, angle: float) -> Tensor:
    lengths = own.norm(dim=1, keepdim=True)
    ahead = own.div(lengths.clamp_min(_SMALLEST)).sub_(direction, alpha=angle * math.sqrt(len(own)))
    return ahead.mul_(lengths / ahead.norm(dim=1, keepdim=True).clamp_min(_SMALLEST))


def _matrix(kernel: Tensor) -> Tensor:
    """A kernel [C_out, C_in, h, w] as rows [C_out, h·w·C_in]: in memory as it is, if channels lie last."""
    return kernel.movedim(1, -1).flatten(1)


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix X [N, M] with singular values of about 1 (0.7 to 1.2), and the same singular vectors.

    Five times X ← P·X, with P = a·I + b·G + c·G² of G = X·Xᵀ. As G ← P·G·P, [N, N], tells all that follows,
    X itself is multiplied once, by the product of all P: less than half the work where M is several N.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.mT if is_tall else matrix
    x = wide / wide.norm().clamp_min(_SMALLEST)
    gram = x @ x.mT
    factor = product = _polynomial(gram)
    for _ in range(_ITERATIONS - 1):
        gram = factor @ (factor @ gram)
        factor = _polynomial(gram)
        product = factor @ product
    found: Tensor = product @ x
    return found.mT if is_tall else found


def _polynomial(gram: Tensor) -> Tensor:
    found: Tensor = torch.addmm(gram, gram, gram, beta=_B, alpha=_C)
    found.diagonal().add_(_A)
    return found
