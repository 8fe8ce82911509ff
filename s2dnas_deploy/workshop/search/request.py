"""What a person asks of `s2dnas-search`, and what tells one search from another.

Place in the flow: the command's options ──▶ `SearchRequest` ──▶ everything that `run` does.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from s2dnas_deploy.bundle.device_profile import digest_of
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.workshop.pricing.machine_clock import Timer, this_device
from s2dnas_deploy.workshop.search.space.space import Kind, PlanKind
from s2dnas_deploy.workshop.training.checkpoint import add_order, add_weights
from s2dnas_deploy.workshop.training.course import epochs_for
from s2dnas_deploy.workshop.training.request import Prepared, Request
from s2dnas_deploy.workshop.training.settings import Settings

SCORES = 3  # how plans are scored; another number where old scores must not be mixed with new ones


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """What a person asks of `s2dnas-search`; `training` is how the winner is trained, and on what."""

    training: Request
    plan_kind: PlanKind = "stages"
    stages: int
    """How many stages, or widths."""
    target: float
    """The average cost of an image; of widths, what the thinnest costs."""
    space: Kind
    align: int
    strategy: str
    evaluations: int
    evaluator: str
    shared_epochs: int | None
    """None: as many as the winner is trained for, or may be."""
    shared_lr: float
    cost: str
    """`macs`, `clock` (this machine's), or the path of a device profile."""
    write_probes: Path | None
    finalists: int
    """So many of the best plans are trained for a while and judged again; the winner is the best of them.

    0 and 1 train none: there is nothing to choose from.
    """
    finetune_epochs: int
    top: int
    timer: Timer
    """Times probes on this machine: it is for the device's wing to do."""
    left_open: frozenset[str] = frozenset()
    """Fields that nobody has said anything about: what suits the network and the images is taken."""
    begins_with: str | None = None
    """The digest of the plan that is tried first."""
    ray: str | None
    """The address of a Ray cluster whose machines judge plans; None: this one does."""

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise OptionError(
                f"expected a target between 0 and 1, a share of the static network's cost, got {self.target}"
            )
        weights, what = (
            self.training.settings.exit_weights,
            "exits" if self.plan_kind == "stages" else "widths",
        )
        if weights and len(weights) != self.stages and "stages" not in self.left_open:
            raise OptionError(f"{len(weights)} exit weights for {self.stages} {what}")
        if not 0 < self.shared_lr < inf:
            raise OptionError(f"--shared-lr: expected a finite number above 0, got {self.shared_lr:g}")

    @property
    def looks_closely(self) -> bool:
        """Whether some plans are trained and judged again before there is a winner."""
        return self.evaluator == "shared" and self.finalists > 1

    @property
    def looked_at(self) -> int:
        """How many these are."""
        return max(self.finalists, self.top)

    def passes(self, images: int) -> int:
        """How often the shared weights see so many images."""
        asked = self.training.settings.epochs if self.shared_epochs is None else self.shared_epochs
        return epochs_for(images) if asked is None else asked

    def shared_settings(self, images: int) -> Settings:
        """How the shared weights are trained on so many images."""
        return replace(
            self.training.settings, epochs=self.passes(images), lr=self.shared_lr, ema=0.99, exit_weights=()
        )

    def identity(self, prepared: Prepared) -> dict[str, Any]:
        """What must be the same for the plans tried to be those of one search."""
        elsewhere = {"training", "top", "write_probes", "ray", "timer", "left_open"}
        elsewhere |= {"finalists", "evaluations"}
        elsewhere |= {"plan_kind"} if self.plan_kind == "stages" else set()
        if self.evaluator == "shared":
            elsewhere.add("finetune_epochs")
        own = {key: value for key, value in asdict(self).items() if key not in elsewhere}
        weights = hashlib.sha256()
        add_weights(weights, prepared.static.weights)
        add_order(weights, prepared.static.divisible)
        if self.cost == "clock":
            own["device"] = this_device()
        elif self.cost != "macs":
            own["cost"] = digest_of(Path(self.cost))
        return {
            "scores": SCORES,
            **own,
            "shared_epochs": self.passes(len(prepared.splits.train)),
            "images": prepared.splits.digest,
            "preprocessing": prepared.preprocessing.to_document(),
            "weights": weights.hexdigest(),
            "settings": replace(self.training.settings, epochs=0).digest,
        }

    def identity_of_finalists(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """What must be the same besides, for finalists to have been trained and priced as these would be."""
        own = {"prices": "each finalist's own"} if self.cost == "clock" else {}
        return {**identity, "finetune_epochs": self.finetune_epochs, **own}
