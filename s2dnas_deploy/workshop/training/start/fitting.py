"""Divided weights that give what the static network gave, as nearly as they can, before any training.

Place in the flow: `carry_over`'s network + `StaticNetwork` + images ──fit──▶ the same network, other weights.

Divided, a layer reads fewer channels, and those are no longer what they were. Layer after layer, in the order
of the network, the weights W that a mask leaves of a kernel W₀ become those that come nearest, on features x
that now arrive, to what the static network's layer gave, y:

    min over W   Σ ‖(y - ȳ) - W (x - x̄)‖² + λ ‖W - W₀‖²

a linear system for each layer and stage. Batch norms get the means and variances of what now arrives. The
exits' classifiers are fitted in the same way, to the static network's own logits.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from s2dnas_deploy.plan import OUTPUT
from s2dnas_deploy.reporter import Progress
from s2dnas_deploy.workshop.network.division import Division, Exit
from s2dnas_deploy.workshop.network.graph import INPUT, Node
from s2dnas_deploy.workshop.network.network import MultiStageNetwork
from s2dnas_deploy.workshop.network.operators import OPERATORS
from s2dnas_deploy.workshop.network.static_network import StaticNetwork, run_node

Indices = npt.NDArray[np.int64]
Values = dict[str, Tensor]

MOST_IMAGES, FEWEST_IMAGES = 512, 32
_MOST_BYTES = 2**29  # of features that are held at a time
_POSITIONS = 8192  # a layer is fitted at so many places of images, or a few more
_RIDGE, _RIDGE_OF_EXITS = 1e-2, 1e-1  # λ, as a share of the features' mean square
_PART = 32


@torch.no_grad()
def fit(network: MultiStageNetwork, static: StaticNetwork, images: Tensor, progress: Progress) -> None:
    """Fit the weights of `network` in place, on images as it reads them, [N, C, H, W]."""
    network.eval()
    _Fit(network, static, images.device).run(images, progress)


def images_that_fit(division: Division) -> int:
    """How many images' features can be held, of both networks, where the network is widest."""
    last = _last_readers(division)
    live, most = 0, 0
    for i, node in enumerate(division.body):
        live += 2 * 4 * prod(node.shape)
        most = max(most, live)
        live -= sum(2 * 4 * prod(each.shape) for each in division.body if last.get(each.name) == i)
    return min(MOST_IMAGES, max(FEWEST_IMAGES, _MOST_BYTES // most))


def _last_readers(division: Division) -> dict[str, int]:
    """By node of the body, the place of the last one that reads it; those that exits read have none."""
    last = {name: i for i, node in enumerate(division.body) for name in node.inputs}
    for exit_ in division.exits:
        for node in exit_.nodes:
            for name in node.inputs:
                last.pop(name, None)
    return last


class _Fit:
    """A walk through both networks at once, in which the divided one's weights are changed."""

    def __init__(self, network: MultiStageNetwork, static: StaticNetwork, device: torch.device) -> None:
        self.network, self.division, self.static = network, network.division, static
        self.weights = network.weights()
        self.theirs = {
            key: tensor.detach().to(device, torch.float32) for key, tensor in static.weights.items()
        }
        self.generator = torch.Generator().manual_seed(0)
        self.readers = Counter(key for node in self.division.body for key in node.weights.values())

    def run(self, images: Tensor, progress: Progress) -> None:
        """The body, then the exits."""
        last, body = _last_readers(self.division), self.division.body
        ours: Values = {INPUT: images}
        wanted: Values = {INPUT: images}
        known = self.static.graph.by_name
        for i, node in enumerate(body[1:], 1):
            if node.name in known:
                wanted[node.name] = run_node(node, wanted, self.theirs)
            ours[node.name] = (
                wanted[node.name]
                if self._is_as_it_was(node, ours, wanted)
                else self._fitted(node, ours, wanted)
            )
            for values in (ours, wanted):
                for name in [each for each in values if last.get(each) == i]:
                    del values[name]
            progress(i, len(body) - 1, "")
        for node in self.static.divisible.head:
            wanted[node.name] = run_node(node, wanted, self.theirs)
        for exit_ in self.division.exits:
            self._fit_exit(exit_, dict(ours), wanted)

    def _is_as_it_was(self, node: Node, ours: Values, wanted: Values) -> bool:
        """Whether the node gives what it gives in the static network: it reads all that it did there."""
        same = node.name in wanted and all(ours[name] is wanted[name] for name in node.inputs)
        return same and not self.network.is_masked(node)

    def _fitted(self, node: Node, ours: Values, wanted: Values) -> Tensor:
        """What the node gives, once it is fitted."""
        if OPERATORS[node.operator].mixes:
            self._fit_layer(node, ours[node.inputs[0]], wanted[node.name])
        elif node.operator == "batch_norm":
            self._take_statistics(node, ours[node.inputs[0]])
        return self.network.run(node, ours, self.weights)

    # -- layers --------------------------------------------------------------------------------------

    def _fit_layer(self, node: Node, x: Tensor, y: Tensor) -> None:
        """A layer of the body, for each stage what its channels may read; one that is shared is left."""
        if self.readers[node.weights["weight"]] > 1:
            return
        system = _System.of(*self._patches(node, x, y))
        for level in sorted(set(self.division.levels[node.name].tolist())):
            rows = np.flatnonzero(self.division.levels[node.name] == level)
            columns = self.division.readable(node, level)
            if len(columns):
                self._solve(node, system, rows, columns, _RIDGE)

    def _fit_exit(self, exit_: Exit, values: Values, wanted: Values) -> None:
        """An exit's layers, on the features of its stage; one in the network's middle is to give logits."""
        like_the_network = self.division.plan.exits[exit_.stage] == OUTPUT
        logits = wanted[self.static.graph.output]
        for node in exit_.nodes:
            theirs = exit_.static_name(node.name)
            reads = self.division.exit_reads(exit_, node)
            same = all(values[name] is wanted.get(exit_.static_name(name)) for name in node.inputs)
            reads_all = reads is None or len(reads) == values[node.inputs[0]].shape[1]
            if like_the_network and same and reads_all:
                values[node.name] = wanted[theirs]
                continue
            if OPERATORS[node.operator].mixes:
                x = values[node.inputs[0]]
                x = x if reads is None else x[:, torch.from_numpy(reads).to(x.device)]
                y = wanted[theirs] if like_the_network else logits
                every = np.arange(node.channels), np.arange(x.shape[1])
                self._solve(node, _System.of(*self._patches(node, x, y)), *every, _RIDGE_OF_EXITS)
            elif node.operator == "batch_norm":
                self._take_statistics(node, values[node.inputs[0]])
            values[node.name] = self.network.run_in_exit(node, values, self.weights)

    def _solve(self, node: Node, system: "_System", rows: Indices, columns: Indices, ridge: float) -> None:
        """Put the weights that come nearest in the place of those that are there."""
        kernel = self.weights[node.weights["weight"]]
        at = torch.from_numpy(rows).to(kernel.device), torch.from_numpy(columns).to(kernel.device)
        block = kernel[at[0]][:, at[1]]  # [rows, columns, …]
        window = prod(block.shape[2:])
        features = (at[1][:, None] * window + torch.arange(window, device=kernel.device)).reshape(-1)
        before = block.reshape(len(rows), -1).T.double()  # [features, rows]
        found = system.solution(features, at[0], before, ridge)
        kernel[at[0][:, None], at[1][None, :]] = found.T.reshape(block.shape).to(kernel.dtype)
        if "bias" in node.weights:
            bias = self.weights[node.weights["bias"]]
            bias[at[0]] = (system.y_mean[at[0]] - system.x_mean[features] @ found).to(bias.dtype)

    def _take_statistics(self, node: Node, x: Tensor) -> None:
        """The means and variances of what a batch norm now gets."""
        over = [dim for dim in range(x.dim()) if dim != 1]
        variance, mean = torch.var_mean(x, over, correction=0)
        self.weights[node.weights["mean"]].copy_(mean)
        self.weights[node.weights["variance"]].copy_(variance)

    # -- what a layer reads --------------------------------------------------------------------------

    def _patches(self, node: Node, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What the layer reads at some places, [P, C · window], and what is wanted there, [P, C_out]."""
        if y.dim() == 2:
            return x, y
        a = node.attributes
        kernel = self.weights[node.weights["weight"]].shape[2:]
        padding = _padding(a["padding"], kernel, a["dilation"])
        places = y.shape[2] * y.shape[3]
        each = min(places, -(-_POSITIONS // len(x)))
        xs, ys = [], []
        for part, target in zip(torch.split(x, _PART), torch.split(y, _PART), strict=True):
            windows = F.unfold(F.pad(part, padding), kernel, tuple(a["dilation"]), 0, tuple(a["stride"]))
            chosen = torch.randperm(places, generator=self.generator)[:each].to(x.device)
            xs.append(windows[:, :, chosen].transpose(1, 2).flatten(0, 1))
            ys.append(target.flatten(2)[:, :, chosen].transpose(1, 2).flatten(0, 1))
        return torch.cat(xs), torch.cat(ys)


@dataclass(frozen=True, kw_only=True)
class _System:
    """What a layer's least squares are made of: means, Σ x xᵀ and Σ x yᵀ of what is left without them."""

    x_mean: Tensor
    y_mean: Tensor
    products: Tensor
    moments: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> "_System":
        """From features [P, F] and what is wanted of them, [P, C]."""
        x_mean, y_mean = x.mean(0), y.mean(0)
        x, y = x - x_mean, y - y_mean
        return cls(
            x_mean=x_mean.double(),
            y_mean=y_mean.double(),
            products=(x.T @ x).double(),
            moments=(x.T @ y).double(),
        )

    def solution(self, features: Tensor, outputs: Tensor, before: Tensor, ridge: float) -> Tensor:
        """Weights [features, outputs], drawn towards those `before`; these, if the features tell nothing."""
        products = self.products[features][:, features]
        weight = ridge * float(products.diagonal().mean())
        if not weight > 0:
            return before
        missing = self.moments[features][:, outputs] - products @ before
        products.diagonal().add_(weight)
        factor, failed = torch.linalg.cholesky_ex(products)
        return before if failed else before + torch.cholesky_solve(missing, factor)


def _padding(padding: str | Sequence[int], kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """As `F.pad` takes it: left, right, top, bottom."""
    if padding == "valid":
        return [0, 0, 0, 0]
    if padding == "same":
        whole = [spread * (size - 1) for size, spread in zip(kernel, dilation, strict=True)]
        return [whole[1] // 2, whole[1] - whole[1] // 2, whole[0] // 2, whole[0] - whole[0] // 2]
    top, left = (int(each) for each in padding)
    return [left, left, top, top]
