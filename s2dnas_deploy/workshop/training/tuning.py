"""How a network learns whose classifier is new and whose body is not: the body at a lower rate, and later.

Place in the flow: `Task` ──tuning──▶ `make_optimizer`. What the new layer asks of the body at first is
chance: until it has learnt something, the body waits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from s2dnas_deploy.workshop.network.network import MultiStageNetwork

_WAITS = 0.2  # of the run at the most
BODYS_SHARE = 0.1
"""Of the classifier's learning rate, where nobody says another."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Which weights are new, and the body's share of their learning rate."""

    classifier: tuple[str, ...]
    share: float

    def at(self, step: int, *, steps: int, steps_per_epoch: int) -> float:
        """The body's share at a step: nothing in the first epoch, or the first fifth of a short run."""
        return 0.0 if step < min(steps_per_epoch, int(_WAITS * steps)) else self.share

    def parted(self, groups: Sequence[Mapping[str, Any]], network: MultiStageNetwork) -> list[dict[str, Any]]:
        """An optimizer's groups, each divided into what is new and what is the body's."""
        new = {id(weight) for weight in self._new_in(network)}
        parts = []
        for is_new in (False, True):
            for group in groups:
                own = [p for p in group["params"] if (id(p) in new) is is_new]
                parts.append({**group, "params": own, "is_body": not is_new})
        return [part for part in parts if part["params"]]

    def _new_in(self, network: MultiStageNetwork) -> Iterator[Tensor]:
        weights = network.weights()
        for exit_ in network.division.exits:
            for node in exit_.nodes:
                for key in node.weights.values():
                    if exit_.static_name(key) in self.classifier:
                        yield weights[key]
