"""From the user's module to a network that a plan has divided, as `s2dnas-train` begins.

Place in the flow: `nn.Module` + plan ──divide──▶ `DynamicNetwork`. With some images, channels are ranked and
stages fitted, by the same functions as in `training/start/`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from s2dnas_deploy.errors import DataError, OptionError
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.plan.text import blocks_share
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.workshop.network.blocks import gated
from s2dnas_deploy.workshop.network.gated import GatedNetwork
from s2dnas_deploy.workshop.network.nested import planned
from s2dnas_deploy.workshop.network.network import MultiStageNetwork
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.own_loop.dynamic import DynamicNetwork, read_static
from s2dnas_deploy.workshop.reading.static_source import read_plan
from s2dnas_deploy.workshop.training.start.block_order import by_loss_without_in
from s2dnas_deploy.workshop.training.start.fitting import fit, images_that_fit
from s2dnas_deploy.workshop.training.start.ranking import (
    batch_to_rank_by,
    by_importance_in,
    images_to_rank_by,
)


def divide(
    module: nn.Module,
    input_shape: Sequence[int],
    plan: str | Path | Plan,
    *,
    begin_with: tuple[Tensor, Tensor] | None = None,
    steps: int | None = None,
    align: int = 1,
    seed: int = 0,
) -> DynamicNetwork:
    """Divide a network by a plan, for a training loop of your own.

    The module is read once and left as it is; what comes of it has its weights, on its device. Keep the
    module, if it is trained: it is the teacher.

    Args:
        module: an image classifier, `forward(images [N, C, H, W])` giving logits [N, classes], in float32.
        input_shape: (C, H, W) of the images.
        plan: as `s2dnas-train --plan` takes it: `uniform:0.25,0.25,0.5`, `depth:layer1,layer2`,
            `in-turn:0.25,1`, `widths:0.25,0.5,1`, `gate:0.25,0.5,1`, `blocks:0.5` and others, the path of a
            JSON file, or a `Plan`. (`auto` and `paths:3` need a training of the tool's own.)
        begin_with: of a trained module, some hundred training images, as it reads them, and their labels
            [N]: one large batch. The channels that the loss depends on most come first then, and stages are
            fitted to what the module gives, so that exits are good before any training. Of more images than
            that takes, some are used. None: channels as they come, weights as they are.
        steps: for `blocks:SHARE` alone, how often `exit_loss` will be called in training: its gates shut
            little by little over the run.
        align: round the division to so many channels, such as 16.
        seed: draws the plan `random:3`.

    Returns:
        The divided network, in training mode.

    Raises:
        ModelError: the module cannot be read or divided.
        PlanError: the plan cannot be read, or is not legal for this network.
        DataError: the images or labels to begin with are of another shape or type.
        OptionError: another argument cannot be what it is.

    Example:
        >>> network = s2dnas_deploy.divide(module, (3, 32, 32), "uniform:0.25,0.25,0.5")
        >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        >>> for images, labels in loader:
        ...     loss = network.exit_loss(network(images), labels)
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        >>> network.export("bundle/", class_names=names, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    """
    static = read_static(module, input_shape)
    device = next((each.device for each in module.parameters()), torch.device("cpu"))
    beginning = None if begin_with is None else _Beginning(*begin_with, static=static, device=device)
    share = blocks_share(plan) if isinstance(plan, str) else None
    if (share is None) != (steps is None):
        raise OptionError(
            "steps: expected how often exit_loss will be called in training, as epochs * len(loader), with "
            f"the plan blocks:SHARE and with no other, got {shown(steps)} with {shown(str(plan)[:100])}"
        )
    if share is not None:
        network: MultiStageNetwork = _with_gates(static, beginning)
    else:
        point = plan if isinstance(plan, Plan) else read_plan(str(plan), static, align=align, seed=seed)
        network = _divided(static, point, beginning)
    return DynamicNetwork(network.train(), made_of=type(module).__qualname__, share=share, steps=steps).to(
        device
    )


def _divided(static: StaticNetwork, plan: Plan, beginning: "_Beginning | None") -> MultiStageNetwork:
    """Of stages or widths; of one stage, which is the network itself, nothing is to be ranked or fitted."""
    if beginning is None or plan.stages == 1:
        return planned(static, plan)
    static = beginning.ranked()
    network = planned(static, plan)
    if not plan.nested:
        fit(network.to(beginning.device), static, beginning.to_fit(network), lambda done, total, note: None)
    return network


def _with_gates(static: StaticNetwork, beginning: "_Beginning | None") -> GatedNetwork:
    if beginning is None:
        return GatedNetwork(gated(static), learns=True)
    return GatedNetwork(gated(beginning.ranked(), beginning.ranked_blocks()), learns=True)


@dataclass(frozen=True)
class _Beginning:
    """Images as the network reads them, float [N, C, H, W], and labels [N], to begin with."""

    images: Tensor
    labels: Tensor
    static: StaticNetwork
    device: torch.device

    def __post_init__(self) -> None:
        shape = self.static.graph.input_shape
        if not _are_read(self.images, shape) or not _are_labels(self.labels, len(self.images)):
            raise DataError(
                f"begin_with: expected (images, labels), float [N, {', '.join(map(str, shape))}] as the "
                f"network reads them and int64 [N], got {_described(self.images)} and "
                f"{_described(self.labels)}"
            )

    def ranked(self) -> StaticNetwork:
        """The network whose stages take the channels that matter most first."""
        order = by_importance_in(self.static, self._batches(), self.device)
        return replace(self.static, divisible=self.static.divisible.in_order(order))

    def ranked_blocks(self) -> tuple[int, ...]:
        """The places of the residual blocks, the one that matters most first."""
        return by_loss_without_in(self.static, self._batches(), self.device)

    def to_fit(self, network: MultiStageNetwork) -> Tensor:
        """As many images as are needed to fit a network to them."""
        return self.images[self._rows(images_that_fit(network.division))].to(self.device).float()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        chosen = self._rows(images_to_rank_by(self.static))
        for rows in torch.split(chosen, batch_to_rank_by(self.static)):
            yield self.images[rows].to(self.device).float(), self.labels[rows].to(self.device)

    def _rows(self, count: int) -> Tensor:
        """So many of the images, evenly spread."""
        return torch.linspace(0, len(self.images) - 1, min(count, len(self.images))).long()


def _are_read(images: object, shape: Sequence[int]) -> bool:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        return False
    return len(images) > 1 and tuple(images.shape[1:]) == tuple(shape)


def _are_labels(labels: object, count: int) -> bool:
    return isinstance(labels, Tensor) and labels.dtype == torch.int64 and labels.shape == (count,)


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"a {type(value).__name__}"
