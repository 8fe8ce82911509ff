"""What `s2dnas-export` is asked for, read: the network, its labels and the images, and then the export.

Place in the flow: paths and options ──▶ `StagedNetwork` and `ExportImages` ──▶ `assemble.write_bundle`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from s2dnas_deploy.bundle.bundle import is_bundle, load_bundle, source_digest, static_beside
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.bundle.saving import check_replaceable
from s2dnas_deploy.bundle.signature import SIGNATURE, Signer
from s2dnas_deploy.errors import BundleError, DataError, OptionError
from s2dnas_deploy.files.atomic import check_writable, write_atomically
from s2dnas_deploy.files.bounds import Length, Printable
from s2dnas_deploy.files.plain_file import read_file
from s2dnas_deploy.plan import ends_in_static
from s2dnas_deploy.quoting import in_a_line, shown, spelled_out
from s2dnas_deploy.reporter import Reporter, counted
from s2dnas_deploy.workshop.data.labelled import ImageSplits
from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.export.assemble import make_bundle, write_bundle
from s2dnas_deploy.workshop.export.batches import at_once, largest_of
from s2dnas_deploy.workshop.export.chain import chain_of
from s2dnas_deploy.workshop.export.deployed import deployed
from s2dnas_deploy.workshop.export.draft import Export
from s2dnas_deploy.workshop.export.held_out import held_out_file, save_held_out
from s2dnas_deploy.workshop.export.options import ExportOptions
from s2dnas_deploy.workshop.export.own.protocol import network_with_own_exits, stages_of
from s2dnas_deploy.workshop.export.samples import ExportImages, Normalised, Stored
from s2dnas_deploy.workshop.export.staged import STATIC, StagedNetwork, followed_by
from s2dnas_deploy.workshop.network.model_file import Model, load_model
from s2dnas_deploy.workshop.reading.source import build_network, load_weights
from s2dnas_deploy.workshop.training.normalise import preprocessing_for

LastExit = Literal["own", "static"]
_CALIBRATION_IMAGES = 512
_LARGEST_LABELS_BYTES = 16 * 2**20
_VALIDATION_IMAGES = 2000
_BATCH = 256
_CLEARLY, _BY_CHANCE = 0.005, 2
"""The static network answers after the last exit if it is right on more images than that by so much of all,
and by more than so many."""


@dataclass(frozen=True, kw_only=True)
class OwnNetwork:
    """A network with exits of its own, as a person names it."""

    model: str
    model_arguments: Mapping[str, Any]
    input_shape: tuple[int, int, int] | None
    weights: Path | None
    weights_key: str | None
    labels: Path | None
    normalize: str
    resize: str | None


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export, and how; `network` is a `model.pt` or a network with exits of its own."""

    network: Path | OwnNetwork
    data: str | None
    held_out: Path | None
    """Where the validation and test images of the data go."""
    limit: int | None
    name: str | None
    resize: str | None
    """How the device fits images of another size, if not as in training."""
    split: bool
    options: ExportOptions
    out: Path
    static: Path | None = None
    """A `model.pt` of one stage, the static network: it is written beside the bundle, to be compared with."""
    sign: Path | None = None
    """The private key that signs the bundle."""
    in_turn: tuple[str, ...] | None = None
    """Of nested widths, tried one after the other; (): the caller picks one. None: as the plan says."""
    last_exit: LastExit | None = None
    """None: the static network's of widths in turn that leave out a part of it, if it is there."""


def export_model(request: ExportRequest, reporter: Reporter) -> Manifest:
    """Do what is asked; the manifest of the bundle, which is at `request.out`."""
    check_writable(request.out)
    check_replaceable(request.out)
    signer = None if request.sign is None else Signer(request.sign)
    was_calibrated, was_signed = _is_calibrated(request.out), (request.out / SIGNATURE).exists()
    if request.held_out is not None and request.data is None:
        raise OptionError("--held-out keeps images of the data: give --data")
    if request.held_out is not None:
        check_writable(held_out_file(request.held_out, "validation"), "--held-out")
    static_model = None if request.static is None else _static_model(request.static)
    if isinstance(request.network, Path):
        network, images = _of_model(request, request.network, static_model, reporter)
        sources = {"model": source_digest(request.network.read_bytes())}
    else:
        network, images = _of_own_network(request, request.network, reporter)
        sources = {"model": spelled_out(request.network.model)}
        if request.network.weights is not None:
            sources["weights"] = source_digest(request.network.weights.read_bytes())
        if request.last_exit == "static":
            network = _then_static(request, network, static_model)
    if request.data is not None:
        sources["data"] = spelled_out(request.data)
    export = Export(network=network, options=request.options, images=images, sources=sources)
    static, beside = None, static_beside(request.out)
    if static_model is not None:
        reporter.say(f"exporting the static network, {request.static}")
        static = _graph_of(_staged_static(request, static_model, network), export, reporter)
        export = replace(export, sources={**sources, "static": source_digest(static)})
    manifest = write_bundle(export, request.out, reporter, signer)
    if was_calibrated:
        reporter.say(f"{request.out} was calibrated: its thresholds are gone, calibrate the new one")
    if was_signed and signer is None:
        reporter.say(f"{request.out} was signed: the new one is not (give --sign)")
    if static is not None:
        write_atomically(beside, lambda stream: stream.write(static))
        reporter.say(f"{beside}: the static network, for s2dnas-bench")
    elif beside.exists():
        reporter.say(
            f"{beside} is of an earlier export: s2dnas-bench leaves it out (give --static-model anew)"
        )
    return manifest


def _is_calibrated(out: Path) -> bool:
    """Whether a bundle there has thresholds that took somebody's images."""
    if not is_bundle(out):
        return False
    try:
        return load_bundle(out).manifest.promise is not None
    except BundleError:  # damaged, or of another version: being replaced may be what it needs
        return False


def _static_model(path: Path) -> Model:
    model = load_model(path)
    if model.network.stages != 1:
        raise OptionError(
            f"--static-model {path}: it has {model.network.stages} stages; expected the static network, a "
            "model.pt of one stage, such as s2dnas-train leaves in model.run/static.pt"
        )
    return model


def _staged_static(request: ExportRequest, model: Model, network: StagedNetwork) -> StagedNetwork:
    """The static network, for the images and classes of the network to export."""
    if model.class_names != network.class_names or not _reads_alike(model, network):
        raise OptionError(
            f"--static-model {request.static}: it is for other images or classes than the network to export"
        )
    alike = replace(model, preprocessing=network.preprocessing)
    return chain_of(alike, name=STATIC, split=request.split, blocks=request.options.in_blocks)


def _then_static(request: ExportRequest, network: StagedNetwork, static: Model | None) -> StagedNetwork:
    """The network, and where none of its exits is sure, the static one."""
    if static is None:
        raise OptionError(
            "--last-exit static: give the static network, too, by --static-model, such as s2dnas-train "
            "leaves in model.run/static.pt"
        )
    return followed_by(network, _staged_static(request, static, network))


def _graph_of(network: StagedNetwork, export: Export, reporter: Reporter) -> bytes:
    """A network of one stage in one graph that takes and gives what the bundle does."""
    options = replace(export.options, thresholds=(), temperatures=(), single_file=False, gather=False)
    made = make_bundle(replace(export, network=network, options=options), reporter)
    (stage,) = made.manifest.stages
    return made.files[stage.graph.file]


def _reads_alike(model: Model, network: StagedNetwork) -> bool:
    """Both normalise images of one shape alike; how others are fitted is for the device to say."""
    return replace(model.preprocessing, resize=network.preprocessing.resize) == network.preprocessing


def _of_model(
    request: ExportRequest, path: Path, static: Model | None, reporter: Reporter
) -> tuple[StagedNetwork, ExportImages | None]:
    model = load_model(path)
    if request.resize is not None:
        model = replace(model, preprocessing=replace(model.preprocessing, resize=request.resize))
    chain = _staged(request, model, _name(request.name or path.stem))
    if _ends_in_static(request, model, reporter):
        chain = _then_static(request, chain, static)
    if request.data is None:
        return chain, None
    splits = load_images(
        request.data,
        input_shape=chain.preprocessing.input_shape,
        seed=model.seed,
        val_fraction=model.val_fraction,
        resize=model.preprocessing.resize,
        limit=request.limit,
        on_disk=model.images_on_disk,
        on_progress=counted(reporter.phase("reading images")),
    )
    _check_same_images(request, model, splits)
    images = _images(request, splits, chain.class_names, reporter)
    if chain.links[-1].name != STATIC and _falls_short(request, chain, static, images, reporter):
        chain = _then_static(request, chain, static)
    return chain, images


def _staged(request: ExportRequest, model: Model, name: str) -> StagedNetwork:
    """The model's stages as a chain, or its widths."""
    blocks = request.options.in_blocks
    return deployed(model, name=name, split=request.split, blocks=blocks, in_turn=request.in_turn)


def _ends_in_static(request: ExportRequest, model: Model, reporter: Reporter) -> bool:
    """Whether the static network answers last: as asked, or if no width in turn has all of it."""
    if request.last_exit is not None:
        return request.last_exit == "static"
    division = model.network.division
    if request.in_turn is not None or not ends_in_static(division.plan, division.divisible.space):
        return False
    if request.static is None:
        reporter.say(
            "no width has all of the network, and the last one answers what none is sure of: give "
            "--static-model model.run/static.pt to let the network itself do so (--last-exit own: never)"
        )
    return request.static is not None


def _falls_short(
    request: ExportRequest,
    chain: StagedNetwork,
    static: Model | None,
    images: ExportImages,
    reporter: Reporter,
) -> bool:
    """Whether the static network is clearly better than the last exit, so that it had better answer last."""
    if request.last_exit is not None or static is None or chain.reference is None or chain.flow is not None:
        return False
    both = (chain, _staged_static(request, static, chain))
    largest = largest_of(node.shape for node in static.network.division.graph.nodes)
    batch = at_once(_BATCH, largest=largest)
    own, theirs = (_right(network, images, batch) for network in both)
    count = len(images.labels)
    if theirs - own <= max(_CLEARLY * count, _BY_CHANCE):
        return False
    reporter.say(
        f"the last exit is right on {100 * own / count:.1f}% of the validation images and the static network "
        f"on {100 * theirs / count:.1f}%: that answers what no exit is sure of (--last-exit own: it does not)"
    )
    return True


@torch.no_grad()
def _right(network: StagedNetwork, images: ExportImages, batch: int) -> int:
    """On how many of the validation images the last exit is right."""
    assert network.reference is not None, "it is a chain's"
    right = 0
    read = Normalised(images=images.validation, preprocessing=network.preprocessing)
    for start in range(0, len(read), batch):
        rows = slice(start, start + batch)
        answers = network.reference(torch.from_numpy(read[rows]))[-1].argmax(1).numpy()
        right += int((answers == images.labels[rows]).sum())
    return right


def _name(text: str) -> str:
    """A name that a bundle may have."""
    if not (Length(1, 1000).fits(text) and Printable().fits(text)):
        raise OptionError(
            f"expected a name without control characters, got {shown(text)}; give another --name"
        )
    return text


def _check_same_images(request: ExportRequest, model: Model, splits: ImageSplits) -> None:
    """Of other images, those held out need not be those that training held out; promises need these."""
    about = model.provenance.get("data", {})
    whole = request.limit is None and request.resize is None and about.get("limit", 0) is None
    if request.held_out is not None and whole and model.images_digest != splits.digest:
        raise DataError(
            f"--held-out {request.held_out}: {request.data} is not, or no longer, what the network was "
            "trained on (an image more or less divides all of them otherwise), so it is not known what "
            "training held out; give the same images, or calibrate on others that it has not seen"
        )


def _of_own_network(
    request: ExportRequest, own: OwnNetwork, reporter: Reporter
) -> tuple[StagedNetwork, ExportImages | None]:
    network = build_network(own.model, own.model_arguments).float()
    stages_of(network)  # one that has none is told so before anything else is asked for
    if own.input_shape is None:
        raise OptionError("the shape of the images is not known: give --input, for example --input 3x32x32")
    if own.weights is not None:
        load_weights(network, own.weights, own.weights_key)
    else:
        reporter.say("no --weights were given: the network is exported with the weights its factory gives it")
    if own.normalize == "data":
        raise OptionError(
            "--normalize data measures the training images; give the means and stds it was trained with"
        )
    preprocessing = preprocessing_for(own.normalize, own.input_shape, resize=own.resize)
    splits = None
    if request.data is not None:
        splits = load_images(
            request.data,
            input_shape=own.input_shape,
            seed=0,
            resize=own.resize,
            limit=request.limit,
            on_progress=counted(reporter.phase("reading images")),
        )
    names = _class_names(own, splits)
    staged = network_with_own_exits(
        network.eval(), preprocessing, names, name=_name(request.name or own.model.rpartition(":")[2])
    )
    return staged, None if splits is None else _images(request, splits, staged.class_names, reporter)


def _class_names(own: OwnNetwork, splits: ImageSplits | None) -> tuple[str, ...]:
    """From --labels, else from the data."""
    if own.labels is not None:
        try:
            text = read_file(own.labels, _LARGEST_LABELS_BYTES).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise OptionError(f"--labels {own.labels} is not text in UTF-8: {in_a_line(error)}") from error
        return tuple(line for line in text.splitlines() if line)
    if splits is not None:
        return splits.class_names
    raise OptionError("the classes have no names: give --labels FILE (a class a line), or --data")


def _images(
    request: ExportRequest, splits: ImageSplits, class_names: tuple[str, ...], reporter: Reporter
) -> ExportImages:
    """Calibrate on training images, judge on validation images; the test images are not looked at."""
    if splits.class_names != class_names:
        raise DataError(
            f"{request.data} has the classes {', '.join(splits.class_names[:5])}…, the network "
            f"{', '.join(class_names[:5])}…; they must be the same, in the same order"
        )
    if request.held_out is not None:
        for path in save_held_out(splits, request.held_out):
            reporter.say(f"{path}: images that training held out")
    validation = splits.val.evenly(_VALIDATION_IMAGES)
    return ExportImages(
        source=str(request.data),
        calibration=Stored(images=splits.train.evenly(_CALIBRATION_IMAGES)),
        validation=Stored(images=validation),
        labels=validation.labels.numpy(),
    )
