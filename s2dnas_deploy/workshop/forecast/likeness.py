"""How a plan's exits answer before they are trained: fitted to a few images, asked about others.

Place in the flow: `StaticNetwork` (ranked) + images to train on ──▶ `Likeness` ──a plan──▶ how unlike the
static network each exit answers. It takes a second or two for a plan, and no labels.
"""

from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from s2dnas_deploy.plan import Plan, has_all, narrowed
from s2dnas_deploy.workshop.data.labelled import LabelledImages
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, as_network, carry_over
from s2dnas_deploy.workshop.training.batches import normalised
from s2dnas_deploy.workshop.training.request import Prepared
from s2dnas_deploy.workshop.training.start.fitting import fit, images_that_fit

_FITTED_TO, _ASKED, _AT_ONCE = 256, 512, 128
_MOST_BYTES = 2**27  # of the images that are asked about, as numbers


@dataclass(frozen=True)
class Likeness:
    """Fits plans of a network, and tells how unlike the static network their exits answer."""

    prepared: Prepared
    _found: dict[str, tuple[float, ...]] = field(default_factory=dict, init=False)
    """By plan: nested plans have widths in common."""

    def __call__(self, plan: Plan) -> tuple[float, ...]:
        """For each exit: 0 as the static network does, 1 as chance would."""
        if plan.nested:
            space = self.prepared.static.divisible.space
            return tuple(
                0.0 if has_all(plan, k, space) else self(narrowed(plan, k, space))[0]
                for k in range(plan.stages)
            )
        if plan.digest not in self._found:
            self._found[plan.digest] = self._fitted(plan)
        return self._found[plan.digest]

    def _fitted(self, plan: Plan) -> tuple[float, ...]:
        network = carry_over(self.prepared.static, plan)
        count = min(_FITTED_TO, images_that_fit(network.division))
        fit(network, self.prepared.static, self._pixels(self._known.evenly(count)), lambda *_: None)
        said = self._answers(network)  # [K, N]
        unlike = (said != self._static_says).float().mean(1)
        most = 1 - 1 / self.prepared.static.graph.classes
        return tuple(min(1.0, float(each) / most) for each in unlike)

    def by_heart(self, error: float) -> float:
        """Of the static network's errors on other images, the part that it does not make on these."""
        wrong = float((self._static_says != self._others.labels).float().mean())
        return max(0.0, 1 - wrong / error)

    @cached_property
    def _known(self) -> LabelledImages:
        """Every second image of those to train on; the others are asked about."""
        return self.prepared.splits.train.select(torch.arange(0, len(self.prepared.splits.train), 2))

    @cached_property
    def _others(self) -> LabelledImages:
        images = self.prepared.splits.train
        others = images.select(torch.arange(1, len(images), 2)) if len(images) > 1 else images
        count = _MOST_BYTES // (4 * prod(others.image_shape))
        return others.evenly(max(1, min(_ASKED, count)))

    @cached_property
    def _asked(self) -> Tensor:
        return self._pixels(self._others)

    @cached_property
    def _static_says(self) -> Tensor:
        return self._answers(as_network(self.prepared.static))[-1]

    @torch.no_grad()
    def _answers(self, network: MultiStageNetwork) -> Tensor:
        """The class that each exit names, [K, N]."""
        network.eval()
        at_once = min(_AT_ONCE, images_that_fit(network.division))
        parts = [torch.stack(network(part)).argmax(2) for part in torch.split(self._asked, at_once)]
        return torch.cat(parts, 1)

    def _pixels(self, images: LabelledImages) -> Tensor:
        return normalised(images.read(), self.prepared.preprocessing, torch.device("cpu"))
