"""What export reads: stages as modules that hand tensors on, and where samples go, whoever made them.

Place in the flow: `model.pt` (see `chain`) or a network with exits of its own (see `own`) ──▶ `StagedNetwork`
──▶ bundle.

    link k: (image, *tensors it reads) → (logits if it answers, *tensors it gives)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.decide.flow import IMAGE, Flow
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.plan import Plan

LOGITS, STATIC = "logits", "static"
Shapes = Mapping[str, tuple[int, ...]]
"""Tensors by name, in order, each with its shape without the batch."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """One stage: a module in evaluation mode, and the tensors that it reads and gives, in order."""

    name: str
    module: nn.Module
    reads_image: bool
    reads: Shapes
    gives: Shapes
    answers: bool = True
    macs: int

    @property
    def read_names(self) -> tuple[str, ...]:
        """All that it reads, by name."""
        return (*([IMAGE] if self.reads_image else []), *self.reads)


@dataclass(frozen=True, kw_only=True)
class StagedNetwork:
    """All stages, and what a device must know to use them."""

    name: str
    links: tuple[Link, ...]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    flow: Flow | None = None
    """Where samples go, if the network says that; else its stages are a chain with an exit each."""
    reference: Callable[[Tensor], Sequence[Tensor]] | None = None
    """Of a chain: every exit's logits for normalised images, as the network itself has them."""
    spent: Callable[[Tensor], Tensor] | None = None
    """Of one stage that leaves blocks out: the share of its MACs that normalised images take, [N]."""
    plan: Plan | None = None
    """By which the network was divided; a network with exits of its own was by none."""


def followed_by(network: StagedNetwork, static: StagedNetwork) -> StagedNetwork:
    """A chain whose last exit is the static network's, which reads the image alone.

    What the chain answers otherwise than the static network, it does at an exit that was sure. So any promise
    against the static network can be kept, if need be by letting nobody exit.
    """
    if network.flow is not None or network.spent is not None:
        raise OptionError(
            "--last-exit static is for a chain of stages, and for widths that are tried in turn (--in-turn): "
            "the routes of this network are its own"
        )
    (link,) = static.links
    own, last = network.reference, static.reference
    both = None if own is None or last is None else lambda images: [*own(images), *last(images)]
    return replace(network, links=(*network.links, replace(link, name=STATIC)), reference=both)
