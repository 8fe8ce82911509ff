"""Probes: bundles of plans for a device to time, so that its clock can price these plans, or any like them.

Place in the flow: `StaticNetwork` + plans ──▶ a folder of bundles ──`s2dnas-bench` on the device──▶
device.json ──▶ `latency`. Whole stages are timed, not layers alone: what a kernel costs depends on what it
is fused with and on the layout that its neighbours leave.
"""

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2dnas_deploy.bundle.device_profile import IMAGES, PROBES, PROBES_FORMAT
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.files.atomic import write_atomically, write_text_atomically
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.reporter import Progress, Silent
from s2dnas_deploy.workshop.export.assemble import write_probe
from s2dnas_deploy.workshop.export.chain import chain_of
from s2dnas_deploy.workshop.export.draft import Export
from s2dnas_deploy.workshop.export.options import ExportOptions
from s2dnas_deploy.workshop.export.samples import ExportImages, Pixels, Stored, made_up
from s2dnas_deploy.workshop.network.model_file import Model
from s2dnas_deploy.workshop.network.network import as_network, carry_over
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.training.request import Prepared

_SHOWN_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What probes are made of: the network that plans divide, and some images, which stages are run on."""

    static: StaticNetwork
    preprocessing: Preprocessing
    images: Pixels

    @classmethod
    def of(cls, prepared: Prepared) -> "Probed":
        """The network of a training or a search, and some of its validation images."""
        images = Stored(images=prepared.splits.val.evenly(_SHOWN_IMAGES))[:]
        return cls(static=prepared.static, preprocessing=prepared.preprocessing, images=images)

    @classmethod
    def made_up(cls, static: StaticNetwork) -> "Probed":
        """The network alone, with made-up images: what stages take does not depend on what they show."""
        channels, height, width = static.graph.input_shape
        preprocessing = Preprocessing(
            input_shape=(channels, height, width), mean=(0.5,) * channels, std=(0.25,) * channels
        )
        return cls(static=static, preprocessing=preprocessing, images=made_up(preprocessing))


def write_probes(
    probed: Probed,
    plans: Mapping[str, Plan],
    folder: Path,
    progress: Progress,
    *,
    in_int8: Container[str] = (),
) -> None:
    """Write a bundle for each plan, some images to run them on, and what they are; some in INT8."""
    static, images = probed.static, probed.images
    measured_on = ExportImages(
        source="probes", calibration=images, validation=images, labels=np.zeros(len(images), np.int64)
    )
    for done, (name, plan) in enumerate(plans.items()):
        network = as_network(static) if plan.stages == 1 else carry_over(static, plan)
        model = Model(
            network=network.eval(),
            class_names=tuple(f"class {i}" for i in range(static.graph.classes)),
            preprocessing=probed.preprocessing,
            provenance={},
        )
        chain = chain_of(model, name=name, split=False)
        export = (
            Export(network=chain, options=ExportOptions(precision="int8"), images=measured_on)
            if name in in_int8
            else Export(network=chain, options=ExportOptions(), images=None)
        )
        write_probe(export, folder / name, Silent())
        progress(done + 1, len(plans), "")
    write_atomically(folder / IMAGES, lambda stream: np.savez(stream, images=images))
    document = {
        "format": PROBES_FORMAT,
        "version": 1,
        "probes": {name: json.loads(plan.to_json()) for name, plan in plans.items()},
    }
    write_text_atomically(folder / PROBES, json.dumps(document, indent=1) + "\n")
