"""What the static network says of the images that are learned from: asked once, where each has few views.

Place in the flow: `Batches` tells which views a step shows ──▶ the static network's logits of them.

An image that is only mirrored has two views, and is shown many times. Asking for all views before the first
step spares a pass through the static network at every step, a third of the work where stages are thin.
Parts of images and other colours are never the same twice: then it is asked at each step.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from s2dnas_deploy.workshop.network.network import MultiStageNetwork
from s2dnas_deploy.workshop.training import several
from s2dnas_deploy.workshop.training.batches import Batches, at_once

_MOST_BYTES, _BYTES_EACH = 2**28, 4  # of answers, in float32


class Teacher:
    """The static network's logits for what a step shows."""

    def __init__(
        self,
        network: MultiStageNetwork,
        batches: Batches,
        autocast: Callable[[], AbstractContextManager[object]],
        *,
        steps: int,
    ) -> None:
        """Of a run of so many steps, which decide whether all is asked first: not how many are left.

        A run that goes on must hear the same to the last bit, and that depends on what is asked together.
        """
        self._network, self._batches, self._autocast = network.eval(), batches, autocast
        self._kept: Tensor | None = None
        views, each = batches.views, network.division.graph.classes * _BYTES_EACH
        pays = views is not None and views < steps * batches.size and views * each <= _MOST_BYTES
        self._views = views if pays else None

    def prepare(self, say: Callable[[str], None] = lambda note: None) -> None:
        """Ask for all views, where that is less than all that the steps show; say how far that is."""
        if self._views is None:
            return
        own = torch.arange(self._views)[several.rank() :: several.size()]
        kept = torch.zeros(self._views, self._network.division.graph.classes)
        for views in torch.split(own, at_once(self._network)):
            kept[views] = self._asked(self._batches.shown(views)).cpu()
            say(f"asking the static network first, {int(views[-1]) + 1:,} of {self._views:,} views")
        self._kept = several.summed(kept)

    def answers(self, step: int, images: Tensor) -> Tensor:
        """The logits [N, classes] of a step's images, float32."""
        if self._kept is None:
            return self._asked(images)
        return self._kept[self._batches.views_at(step)].to(images.device)

    @torch.no_grad()
    def _asked(self, images: Tensor) -> Tensor:
        with self._autocast():
            answer: Tensor = self._network(images)[-1]
        return answer.float()
