"""Probes: bundles of drawn plans for a device to time, so that its clock can price any plan of the space.

Place in the flow: `StaticNetwork` + `SearchSpace` ──▶ a folder of bundles ──`s2dnas-bench` on the
device──▶ device.json ──▶ `latency`. Whole stages are timed, not layers alone: what a kernel costs depends
on what it is fused with and on the layout that its neighbours leave.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from s2dnas_deploy.bundle.device_profile import IMAGES, PROBES, PROBES_FORMAT, STATIC
from s2dnas_deploy.files.atomic import write_atomically, write_text_atomically
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.plan import static as static_plan
from s2dnas_deploy.reporter import Progress, Reporter
from s2dnas_deploy.workshop.export.assemble import write_bundle
from s2dnas_deploy.workshop.export.chain import chain_of
from s2dnas_deploy.workshop.export.draft import Export
from s2dnas_deploy.workshop.export.options import ExportOptions
from s2dnas_deploy.workshop.export.samples import pixels_of
from s2dnas_deploy.workshop.network.model_file import Model
from s2dnas_deploy.workshop.network.network import as_network, carry_over
from s2dnas_deploy.workshop.search.space.by_hand import all_uniform_choices, largest, smallest
from s2dnas_deploy.workshop.search.space.space import SearchSpace
from s2dnas_deploy.workshop.training.run import Prepared

COUNT = 20
_SHOWN_IMAGES = 32


def probe_plans(space: SearchSpace, count: int = COUNT, *, seed: int = 0) -> dict[str, Plan]:
    """The plans that are timed, by name: the static network, the extremes, uniform plans, and drawn ones.

    Drawn plans are seldom narrow in all layers, and a model fitted to them alone prices a uniform plan badly.
    """
    rng = np.random.default_rng(seed)
    known = [smallest(space), largest(space), *all_uniform_choices(space)]
    chosen = dict.fromkeys([*known, *(space.draw(rng) for _ in range(count - len(known)))])
    probes = {f"probe_{i:02}": space.plan(choices) for i, choices in enumerate(chosen)}
    return {STATIC: static_plan(space.plans), **probes}


def write_probes(prepared: Prepared, plans: Mapping[str, Plan], folder: Path, progress: Progress) -> None:
    """Write a bundle for each plan, some real images to run them on, and what they are."""
    static, preprocessing = prepared.static, prepared.preprocessing
    for done, (name, plan) in enumerate(plans.items()):
        network = as_network(static) if name == STATIC else carry_over(static, plan)
        model = Model(
            network=network.eval(),
            class_names=tuple(f"class {i}" for i in range(static.graph.classes)),
            preprocessing=preprocessing,
            provenance={},
        )
        chain = chain_of(model, name=name, split=True)
        write_bundle(Export(network=chain, options=ExportOptions(), images=None), folder / name, _Silent())
        progress(done + 1, len(plans), "")
    shown = pixels_of(prepared.splits.val.evenly(_SHOWN_IMAGES))
    write_atomically(folder / IMAGES, lambda stream: np.savez(stream, images=shown))
    document = {
        "format": PROBES_FORMAT,
        "version": 1,
        "probes": {name: json.loads(plan.to_json()) for name, plan in plans.items()},
    }
    write_text_atomically(folder / PROBES, json.dumps(document, indent=1) + "\n")


class _Silent(Reporter):
    """Nobody wants to hear of each of twenty exports."""

    def say(self, message: str) -> None:
        """Say nothing."""

    def phase(self, name: str) -> Progress:
        """Show nothing."""
        return lambda done, total, note: None
