"""Whole paths: what gates before blocks decide for each image, as a few nested networks that one gate picks.

Place in the flow: trained network with gates + images ──▶ the network without them and a `Plan`, which is
trained as widths behind a gate are. Images are put in the order of what they take, and divided into one part
for each path but the widest, which has everything after the gate. Of a part,

    runs(c) = share of its images for which channel c is on and its block runs

Channels come in the order in which they run for all images, and a path has as many as run for half of its
part or more; of a block that hardly any image takes one channel is left, for no layer may be empty.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import PlanError
from s2dnas_deploy.plan import OUTPUT, Plan, check, usual_gate
from s2dnas_deploy.workshop.data.labelled import LabelledImages
from s2dnas_deploy.workshop.network.blocks import found_in, without_gates
from s2dnas_deploy.workshop.network.gated import GatedNetwork
from s2dnas_deploy.workshop.network.groups import Divisible
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.training.batches import at_once, in_order

Runs = npt.NDArray[np.float64]
"""For each part of the images and each atom, how often it runs, [parts, atoms]; NaN where it has no gate."""

_MOST_IMAGES = 5000
_OFTEN = 0.5


def paths_of(
    static: StaticNetwork, images: LabelledImages, preprocessing: Preprocessing, count: int, *, align: int = 1
) -> tuple[StaticNetwork, Plan]:
    """A network without the gates it has, its channels in order, and a plan of at most so many paths.

    Counts of channels are rounded up to multiples of `align`.
    """
    gated = found_in(static)
    if gated is None:
        raise PlanError(
            "paths are made of a network that has learned to leave blocks out: train one by --plan "
            "blocks:0.5, and give that model.pt as --weights"
        )
    plain = without_gates(static)
    on, spent = _asked(GatedNetwork(gated).eval(), images.evenly(_MOST_IMAGES), preprocessing)
    runs = _runs(plain.divisible, on, spent.argsort(stable=True).tensor_split(count - 1))
    order = {
        name: np.argsort(-np.nan_to_num(runs[:, np.sort(own)]).sum(0), kind="stable")
        for name, own in plain.divisible.group_atoms.items()
    }
    divisible = plain.divisible.in_order(order)
    return replace(plain, divisible=divisible), _plan(divisible, runs, align)


@torch.no_grad()
def _asked(
    network: GatedNetwork, images: LabelledImages, preprocessing: Preprocessing
) -> tuple[dict[str, Tensor], Tensor]:
    """Which channels run, by tensor, [N, C] of 0 and 1; and what each image takes, [N]."""
    on: dict[str, list[Tensor]] = {}
    spent: list[Tensor] = []
    for inputs, _ in in_order(images, preprocessing, at_once(network)):
        network(inputs)
        spent.append(network.spent)
        for name, channels in network.channels_on.items():
            on.setdefault(name, []).append(channels)
    return {name: torch.cat(each) for name, each in on.items()}, torch.cat(spent)


def _runs(divisible: Divisible, on: dict[str, Tensor], parts: tuple[Tensor, ...]) -> Runs:
    runs = np.full((len(parts), 1 + max(int(own.max()) for own in divisible.atoms.values())), np.nan)
    for name, channels in on.items():
        atoms = divisible.atoms[name]
        for k, rows in enumerate(parts):
            often = channels[rows].double().mean(0).numpy()
            np.fmax.at(runs[k], atoms, often)  # an atom may be several channels
    return runs


def _plan(divisible: Divisible, runs: Runs, align: int) -> Plan:
    """The paths, each with all that the one before has; those that would be equal are one."""
    space, gate = divisible.space, usual_gate(divisible.space)
    prefix = space.covered_by(gate)
    until = {}  # what each path has of each group
    for group in space.groups:
        own = runs[:, divisible.group_atoms[group.name]]
        if np.isnan(own).all():
            until[group.name] = [group.channels] * (len(runs) + 1)
            continue
        often = np.maximum.accumulate(np.maximum((own >= _OFTEN).sum(1), 1) * group.granule)
        portion = np.lcm(align, group.granule)
        has = [*np.minimum(-(-often // portion) * portion, group.channels).tolist(), group.channels]
        # Before the gate, all paths are as the first.
        until[group.name] = has[:1] * len(has) if group.nodes & prefix else has
    kept = [k for k in range(len(runs) + 1) if k == 0 or any(n[k] > n[k - 1] for n in until.values())]
    if len(kept) < 2:
        raise PlanError("the gates leave out nothing for most images, so there is one path only")
    channels = {name: tuple(np.diff([0, *(n[k] for k in kept)]).tolist()) for name, n in until.items()}
    plan = Plan(channels=channels, exits=(OUTPUT,) * len(kept), nested=True, gate=gate)
    check(plan, space)
    return plan
