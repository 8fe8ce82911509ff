"""Where training begins: the static network, ranked, divided and fitted; kept in the run's folder.

Place in the flow: trained `StaticNetwork` + images ──▶ channels ranked ──▶ divided by a plan, fitted ──▶ the
network that is trained. Sums come out otherwise on another number of cores, so what they came to is kept: a
run that goes on begins where it began.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import CheckpointError
from s2dnas_deploy.files.atomic import write_text_atomically
from s2dnas_deploy.files.bounds import Count
from s2dnas_deploy.files.document import Form
from s2dnas_deploy.files.plain_file import read_file
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.workshop.data.labelled import ImageSplits
from s2dnas_deploy.workshop.network.blocks import blocks_of
from s2dnas_deploy.workshop.network.groups import Divisible
from s2dnas_deploy.workshop.network.model_file import Model, in_order, load_model, order_of, save_model
from s2dnas_deploy.workshop.network.nested import planned
from s2dnas_deploy.workshop.network.network import MultiStageNetwork
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.training.batches import normalised
from s2dnas_deploy.workshop.training.checkpoint import add_order, add_weights
from s2dnas_deploy.workshop.training.devices import placed
from s2dnas_deploy.workshop.training.loop import accuracy
from s2dnas_deploy.workshop.training.start.block_order import by_loss_without
from s2dnas_deploy.workshop.training.start.fitting import fit, images_that_fit
from s2dnas_deploy.workshop.training.start.ranking import by_importance

Start = Literal["fitted", "ranked", "copied"]
_ORDER, _BLOCKS, _START = "order.json", "blocks.json", "start.pt"
_ALL_BLOCKS = "blocks"
_LARGEST_BYTES = 2**26


@dataclass(frozen=True, kw_only=True)
class _KeptOrder:
    """The order of a network's channels or blocks, and what it was found from."""

    of: str
    order: Mapping[str, tuple[Count, ...]]


_FORM = Form(record=_KeptOrder, error=CheckpointError)


@dataclass(frozen=True, kw_only=True)
class Beginner:
    """What a beginning is made from, beside the network: images, a device, and where it is kept."""

    start: Start
    splits: ImageSplits
    preprocessing: Preprocessing
    device: torch.device
    folder: Path

    def ranked(self, static: StaticNetwork, reporter: Reporter) -> StaticNetwork:
        """The same network, whose stages take the channels that matter most first."""
        if self.start == "copied":
            return static
        path, of = self.folder / _ORDER, self._identity(static)
        found = _in_kept_order(path, of, static.divisible)
        if found is None:
            reporter.say("ranking channels by how much the static network's loss depends on them")
            order = by_importance(static, self.splits.train, self.preprocessing, self.device)
            found = static.divisible.in_order(order)
            write_text_atomically(path, json.dumps({"of": of, "order": order_of(found)}) + "\n")
        return replace(static, divisible=found)

    def ranked_blocks(self, static: StaticNetwork, reporter: Reporter) -> tuple[int, ...]:
        """The places of the network's residual blocks, the one that matters most first."""
        places = tuple(range(len(blocks_of(static.graph))))
        if self.start == "copied":
            return places
        path, of = self.folder / _BLOCKS, self._identity(static)
        found = _kept_order(path, of).get(_ALL_BLOCKS, ())
        if tuple(sorted(found)) != places:
            reporter.say("ranking blocks by what the static network loses without each")
            found = by_loss_without(static, self.splits.train, self.preprocessing, self.device)
            write_text_atomically(path, json.dumps({"of": of, "order": {_ALL_BLOCKS: found}}) + "\n")
        return found

    def beginning(self, static: StaticNetwork, plan: Plan, reporter: Reporter) -> MultiStageNetwork:
        """The network that a plan makes, with weights that give what the static network gave."""
        network = planned(static, plan)
        if self.start != "fitted" or plan.nested:  # of a width, nothing is left out that could be made up for
            return network
        path, of = self.folder / _START, self._identity(static, plan)
        kept = _kept_start(path, of)
        if kept is None:
            self._fit(network, static, reporter)
            kept = Model(
                network=network,
                class_names=self.splits.class_names,
                preprocessing=self.preprocessing,
                provenance={"start": of},
            )
            save_model(kept, path)
        # Weights that no node reads are not kept, so a beginning is what the file holds, the first time, too.
        return MultiStageNetwork(network.division, kept.network.masked_weights())

    def _fit(self, network: MultiStageNetwork, static: StaticNetwork, reporter: Reporter) -> None:
        images = self.splits.train.evenly(images_that_fit(network.division)).read()
        layout = torch.contiguous_format
        network = placed(network, self.device, layout)
        pixels = normalised(images, self.preprocessing, self.device)
        fit(network, static, pixels, reporter.phase("fitting the stages to the static network", "nodes"))
        placed(network, torch.device("cpu"), layout)
        found = accuracy(network, self.splits.val, self.preprocessing)
        shares = " / ".join(f"{100 * each:.1f}%" for each in found)
        reporter.say(f"fitted, and not trained yet, the exits have {shares} of the validation images right")

    def _identity(self, static: StaticNetwork, plan: Plan | None = None) -> str:
        """A digest of all that a beginning is found from."""
        digest = hashlib.sha256(f"1|{self.splits.digest}|{self.preprocessing!r}".encode())
        add_weights(digest, static.weights)
        if plan is not None:
            digest.update(plan.digest.encode())
            add_order(digest, static.divisible)
        return digest.hexdigest()


def _in_kept_order(path: Path, of: str, divisible: Divisible) -> Divisible | None:
    """The network in the order that was found before, if it fits."""
    order = _kept_order(path, of)
    try:
        return in_order(divisible, order) if order else None
    except CheckpointError:
        return None


def _kept_order(path: Path, of: str) -> Mapping[str, tuple[int, ...]]:
    """The order that was found before, if from the same; a damaged file is written anew."""
    if not path.is_file():
        return {}
    try:
        kept = _FORM.read(read_file(path, _LARGEST_BYTES).decode(), str(path))
    except (CheckpointError, UnicodeDecodeError):
        return {}
    return kept.order if kept.of == of else {}


def _kept_start(path: Path, of: str) -> Model | None:
    """The beginning that was found before, if from the same; a damaged file is written anew."""
    if not path.is_file():
        return None
    try:
        kept = load_model(path)
    except CheckpointError:
        return None
    return kept if kept.provenance.get("start") == of else None
