"""What a network that was trained elsewhere becomes: a `model.pt`, or a bundle.

Place in the flow: a user's loop ──▶ `Model` ──▶ `model.pt`, or ──▶ `StagedNetwork` ──▶ bundle, by the same
steps as the commands.
"""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2dnas_deploy import __version__
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import CheckpointError, DataError, OptionError, TrainingError
from s2dnas_deploy.plan import ends_in_static
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.workshop.export.chain import chain_of
from s2dnas_deploy.workshop.export.deployed import deployed
from s2dnas_deploy.workshop.export.draft import Export
from s2dnas_deploy.workshop.export.options import ExportOptions
from s2dnas_deploy.workshop.export.samples import ExportImages, Pixels
from s2dnas_deploy.workshop.export.staged import STATIC, StagedNetwork, followed_by
from s2dnas_deploy.workshop.network.model_file import Model, description_of
from s2dnas_deploy.workshop.network.nested import divided_network
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, as_network
from s2dnas_deploy.workshop.network.static_network import StaticNetwork


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a device must know beside the weights: the classes' names, and how images become numbers."""

    class_names: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    resize: str | None = None

    def preprocessing(self, input_shape: Sequence[int]) -> Preprocessing:
        """How images of that shape [C, H, W] are read; an `OptionError` if it cannot be so."""
        channels, height, width = input_shape
        if any(value > 1 for value in self.mean):
            raise OptionError(
                f"mean {shown(tuple(self.mean))}: expected means of pixels from 0 to 1, not to 255; divide "
                "mean and std by 255"
            )
        try:
            return Preprocessing(
                input_shape=(channels, height, width),
                mean=tuple(float(value) for value in self.mean),
                std=tuple(float(value) for value in self.std),
                resize=self.resize,
            )
        except CheckpointError as error:
            raise OptionError(f"mean, std or resize: {error}") from error


def model_of(network: MultiStageNetwork, made_of: str, reading: Reading) -> Model:
    """A network as it stands, on the CPU: the user's goes on training where it is."""
    division = network.division
    names = tuple(map(str, reading.class_names))
    if len(names) != division.graph.classes:
        raise OptionError(
            f"class_names: expected a name for each of {division.graph.classes} outputs, in their order, got "
            f"{len(names)}"
        )
    model = Model(
        network=divided_network(division, _finished(network)).eval(),
        class_names=names,
        preprocessing=reading.preprocessing(division.graph.input_shape),
        provenance=_provenance(made_of),
    )
    try:
        description_of(model)
    except CheckpointError as error:
        raise OptionError(f"class_names: such a model could not be read again: {error}") from error
    return model


def _finished(network: MultiStageNetwork) -> dict[str, Tensor]:
    """The weights that answer: hidden ones are zeros, and gates say what they do of plain features."""
    weights = {
        key: tensor.float().cpu().contiguous().clone() for key, tensor in network.masked_weights().items()
    }
    broken = [key for key, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise TrainingError(
            f"expected finite weights, got others in {shown(broken[:3])}: the training has diverged; a "
            "smaller learning rate, gradient clipping or a warm-up may help"
        )
    return weights


def _provenance(made_of: str) -> dict[str, Any]:
    return {
        "tool": f"s2dnas_deploy {__version__}",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "network": f"{made_of}, trained in a loop of its own",
    }


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Images for an export: uint8 [N, H, W, C] with labels [N] to judge on, others to measure ranges on."""

    images: npt.ArrayLike | None = None
    labels: npt.ArrayLike | None = None
    calibration: npt.ArrayLike | None = None

    def for_export(self, model: Model, precision: str) -> ExportImages | None:
        """The same as export takes them."""
        if (self.images is None) != (self.labels is None):
            raise OptionError("images and labels: expected both or neither, got one of them")
        if precision == "int8" and (self.images is None or self.calibration is None):
            raise OptionError(
                "precision 'int8' measures the range of every feature on real images: give some hundred "
                "that were trained on as calibration, and images with labels to judge on"
            )
        if self.images is None or self.labels is None:
            return None
        images = _pixels(self.images, model.preprocessing, "images")
        labels = np.asarray(self.labels)
        _check_labels(labels, len(images), len(model.class_names))
        return ExportImages(
            source="arrays given to export",
            calibration=images
            if self.calibration is None
            else _pixels(self.calibration, model.preprocessing, "calibration"),
            validation=images,
            labels=labels.astype(np.int64),
        )


def _pixels(images: npt.ArrayLike, preprocessing: Preprocessing, what: str) -> Pixels:
    array = np.asarray(images)
    channels, height, width = preprocessing.input_shape
    wanted = (height, width, channels)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != wanted or not len(array):
        raise DataError(
            f"{what}: expected pixels, uint8 [N, {height}, {width}, {channels}], not normalised, got "
            f"{array.dtype} {list(array.shape)}"
        )
    return array


def _check_labels(labels: npt.NDArray[Any], count: int, classes: int) -> None:
    whole = labels.ndim == 1 and len(labels) == count and np.issubdtype(labels.dtype, np.integer)
    if not whole or labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"labels: expected {count} numbers of classes, 0 to {classes - 1}, got {labels.dtype} "
            f"{list(labels.shape)}" + (f" from {labels.min()} to {labels.max()}" if whole else "")
        )


def export_of(
    model: Model,
    *,
    name: str,
    options: ExportOptions,
    judging: Judging,
    in_turn: Sequence[str] | None,
    static: StaticNetwork | None,
) -> Export:
    """All that decides a bundle's content."""
    division = model.network.division
    network = deployed(model, name=name, blocks=options.in_blocks, in_turn=in_turn)
    if static is not None:
        network = followed_by(network, _staged_static(model, static, options))
    elif in_turn is None and ends_in_static(division.plan, division.divisible.space):
        raise OptionError(
            "no width of this plan has all of the network, so what none is sure of is for the network itself "
            "to answer: give static=module, the trained network that was divided (without it, in_turn names "
            "the widths that answer)"
        )
    images = judging.for_export(model, options.precision)
    return Export(network=network, options=options, images=images, sources={"model": name})


def _staged_static(model: Model, static: StaticNetwork, options: ExportOptions) -> StagedNetwork:
    if static.graph.classes != len(model.class_names):
        raise OptionError(
            f"static: expected a network with {len(model.class_names)} outputs, as the divided one has, got "
            f"{static.graph.classes}"
        )
    alike = Model(
        network=as_network(static).eval(),
        class_names=model.class_names,
        preprocessing=model.preprocessing,
        provenance={},
    )
    return chain_of(alike, name=STATIC, split=True, blocks=options.in_blocks)
