"""Before a training: network, weights and images are read; the static network is trained, ranked and judged.

Place in the flow: `Request` ──▶ `Prepared`, from which stages, widths or gates are made.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

import torch

from s2dnas_deploy import __version__
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import CheckpointError, ModelError, OptionError
from s2dnas_deploy.reporter import Reporter, counted
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.data.shape import shape_of_images
from s2dnas_deploy.workshop.data.ways import CROP, FLIP, RESIZED_CROP, augmentations
from s2dnas_deploy.workshop.network.model_file import Model, save_model
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, as_network, as_static
from s2dnas_deploy.workshop.network.operators import NORMS
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.reading.classifier import NewClassifier
from s2dnas_deploy.workshop.reading.judged import Judged
from s2dnas_deploy.workshop.reading.static_source import open_source
from s2dnas_deploy.workshop.training.classes import new_classifier
from s2dnas_deploy.workshop.training.devices import choose_device
from s2dnas_deploy.workshop.training.first_words import (
    cautions,
    static_words,
)
from s2dnas_deploy.workshop.training.kept import read_there, train_and_save
from s2dnas_deploy.workshop.training.likelier import likelier_words
from s2dnas_deploy.workshop.training.loop import Task, accuracy, check_images
from s2dnas_deploy.workshop.training.normalise import preprocessing_for, spelled
from s2dnas_deploy.workshop.training.request import Prepared, Request
from s2dnas_deploy.workshop.training.settings import Settings
from s2dnas_deploy.workshop.training.start.begin import Beginner
from s2dnas_deploy.workshop.training.tuning import BODYS_SHARE, Tuning

_RATE_WITHOUT_NORMS = 0.01
_LEAST_SIDE_OF_PHOTOS = 65
JudgeStatic = Callable[[], Mapping[str, float]]
"""Tells how good the static network is: judged when it is first asked, and said then."""


def prepare(
    request: Request, reporter: Reporter, check: Callable[[StaticNetwork], object] | None = None
) -> Prepared:
    """Read the network, its weights and the images; `check` may refuse the network before images are read."""
    settings, source = request.settings, request.source
    choose_device(settings.device)
    opened = open_source(source)
    request = _as_judged(request, opened.judged, reporter)
    kept, static = opened.kept, opened.read(_input_of(request, reporter))
    if check is not None:
        check(static)
    shape = static.graph.input_shape
    splits = load_images(
        request.data,
        input_shape=(shape[0], shape[1], shape[2]),
        seed=settings.seed,
        val_fraction=request.val_fraction,
        resize=request.resize,
        limit=request.limit,
        on_disk=_are_cut_anew(request, shape, request.resize) or None,
        on_progress=counted(reporter.phase("reading images")),
    )
    new = new_classifier(static, request.classes, splits.class_names, seed=settings.seed)
    static = static if new is None else new.static
    check_images(splits, static.graph.classes)
    is_trained = source.is_trained() and new is None
    is_guessed = source.is_trained() and kept is None and request.normalize is None
    for words in _first_words(request, new):
        reporter.say(words)
    for caution in cautions(
        splits,
        normalize_guessed=is_guessed,
        weights_may_know_val=is_trained and not _held_out_alike(kept, splits),
        to_be_divided=request.plan != "static",
        limited=request.limit is not None,
    ):
        reporter.say(caution)
    return Prepared(
        static=static,
        is_trained=is_trained,
        splits=splits,
        preprocessing=_preprocessing(request, splits, shape, kept),
        new_classifier=new,
        normalize_is_guessed=is_guessed,
    )


def _first_words(request: Request, new: NewClassifier | None) -> Iterator[str]:
    """What becomes of weights, and of the classifier."""
    source = request.source
    if source.weights is None and source.is_loaded_by_factory():
        yield "weights: those that the factory loads, as --model-args asks"
    if new is None:
        if request.static_epochs and source.is_trained():
            yield "the weights given are taken as trained: --static-epochs is not needed and not used"
        return
    if request.static_epochs == 0 and request.plan != "static":
        raise OptionError(
            f"{new.in_words()}, which has learnt nothing: give --static-epochs above 0, or leave it out"
        )
    yield new.in_words() + ("" if source.is_trained() else "; without --weights, all else is new as well")


def _as_judged(request: Request, judged: Judged | None, reporter: Reporter) -> Request:
    """With images prepared as when the network's weights were judged, where nobody says otherwise."""
    if judged is None:
        return request
    shape, source = request.source.input_shape or judged.input_shape, request.source
    said: dict[str, str] = {}
    if source.input_shape is None and shape is not None:
        said["--input"] = "x".join(map(str, shape))
    fits = judged.mean is not None and (shape is None or len(judged.mean) == shape[0])
    if request.normalize is None and fits and judged.std is not None:
        said["--normalize"] = spelled(judged.mean or (), judged.std)
    if request.resize is None and shape is not None and judged.resize is not None:
        said["--resize"] = judged.resize
    if said:
        words = " ".join(f"{name} {value}" for name, value in said.items())
        reporter.say(f"{words}, as the weights were judged ({judged.source})")
    return replace(
        request,
        source=replace(source, input_shape=shape),
        normalize=said.get("--normalize", request.normalize),
        resize=said.get("--resize", request.resize),
    )


def _input_of(request: Request, reporter: Reporter) -> tuple[int, int, int] | None:
    """The shape of the network's input: that of the images, if nobody says another."""
    source = request.source
    if source.model is None or source.input_shape is not None:
        return source.input_shape
    if request.resize is not None:
        raise OptionError("--resize is given, and --input is not: give the size that images are to get")
    shape = shape_of_images(request.data)
    reporter.say(f"--input {'x'.join(map(str, shape))}, as the images are")
    return shape


def _held_out_alike(kept: Model | None, splits: ImageSplits) -> bool:
    """Whether weights come from a training here that held the same images out."""
    if kept is None:
        return False
    about = kept.provenance  # what it was tuned from is of other classes, and so of other images
    if about.get("weights") is not None and "tuning" not in about:
        return False
    return kept.images_digest == splits.digest


def _preprocessing(
    request: Request, splits: ImageSplits, shape: tuple[int, ...], kept: Model | None
) -> Preprocessing:
    """How images are normalised: as asked, as the `model.pt` given as weights says, or as for ImageNet."""
    if request.normalize is None and kept is not None:
        return kept.preprocessing
    asked = preprocessing_for(
        request.normalize or "imagenet",
        (shape[0], shape[1], shape[2]),
        images=splits.train,
        resize=request.resize,
    )
    if kept is not None and (asked.mean, asked.std) != (kept.preprocessing.mean, kept.preprocessing.std):
        raise ModelError(
            f"{request.source.weights} was trained with mean {kept.preprocessing.mean} and std "
            f"{kept.preprocessing.std}; --normalize {request.normalize} gives {asked.mean} and {asked.std}"
        )
    return asked


def suited(request: Request, prepared: Prepared) -> Request:
    """With what suits the network, where nobody has said it: how images are varied, and a learning rate.

    Photos are cut anew each time, as for the networks that come pretrained; without norms, the rate is less.
    """
    static, preprocessing = prepared.static, prepared.preprocessing
    if request.augment_is_open and _are_cut_anew(request, preprocessing.input_shape, preprocessing.resize):
        settings = replace(request.settings, augment=f"{RESIZED_CROP},{FLIP}")
        request = replace(request, settings=settings, augment_is_open=False)
    if not request.rate_is_open or any(node.operator in NORMS for node in static.graph.nodes):
        return request
    settings = replace(request.settings, lr=_RATE_WITHOUT_NORMS)
    return replace(request, settings=settings, rate_is_open=False)


def _are_cut_anew(request: Request, shape: Sequence[int], resize: str | None) -> bool:
    """Whether training cuts parts out of pictures, each time others: as asked, or of photos made smaller."""
    if not request.augment_is_open:
        return resize is not None and RESIZED_CROP in augmentations(request.settings.augment)
    return resize is not None and min(shape[1:]) >= _LEAST_SIDE_OF_PHOTOS


def settings_for(request: Request, *, is_taught: bool) -> Settings:
    """How to train a network: what a teacher says of an image is worth more than crops of it, else crops are.

    Measured on the narrow ResNet of `benchmarks/ways_to_learn.py`: 2 points each way.
    """
    if is_taught or not request.augment_is_open:
        return request.settings
    return replace(request.settings, augment=f"{CROP},{FLIP}")


def with_trained_static(request: Request, prepared: Prepared, reporter: Reporter) -> Prepared:
    """Train the static network itself, if that is asked for, into the run's folder.

    It is the teacher and the start of the rest.
    """
    if not request.trains_static(prepared):
        return prepared
    if prepared.new_classifier is not None:
        request = suited(request, prepared)
    lr = request.settings.lr if request.static_lr is None else request.static_lr
    settings = settings_for(request, is_taught=False)
    settings = replace(settings, epochs=request.static_epochs, lr=lr, exit_weights=())
    folder = request.folder / "static"
    task = Task(
        network=as_network(prepared.static),
        teacher=None,
        splits=prepared.splits,
        preprocessing=prepared.preprocessing,
        settings=settings,
        folder=folder,
        tuning=tuning_of(request, prepared, lr),
    )
    model = train_and_save(task, request, request.folder / "static.pt", lambda: None, reporter)
    return replace(prepared, static=as_static(model.network), is_trained=True)


def tuning_of(request: Request, prepared: Prepared, lr: float) -> Tuning | None:
    """How the body learns beside a new classifier; None if the classifier is not new, or all else is, too."""
    new = prepared.new_classifier
    if new is None or (request.body_lr is None and not request.source.is_trained()):
        return None
    share = BODYS_SHARE if request.body_lr is None else request.body_lr / lr
    return Tuning(classifier=new.weights, share=share)


def keep_static(request: Request, prepared: Prepared) -> None:
    """The static network in the run's folder, as if it had been trained there: what to compare with later.

    One that was trained there took time, and is not replaced by another unasked.
    """
    path, network = request.folder / "static.pt", as_network(prepared.static).eval()
    if path.exists() and not request.restart and "run" in (there := read_there(path)).provenance:
        if not _same_weights(there.network, network):
            given = request.source.weights or request.source.model
            raise CheckpointError(
                f"{path} was trained here and is not the network of {given}; "
                "move it away, give another --out, or --restart to replace it"
            )
        return
    about = {
        "tool": f"s2dnas_deploy {__version__}",
        "network": request.source.model or str(request.source.weights),
        "weights": request.source.weights_in_words(),
    }
    model = Model(
        network=network,
        class_names=prepared.splits.class_names,
        preprocessing=prepared.preprocessing,
        provenance=about,
    )
    save_model(model, path)


def _same_weights(one: MultiStageNetwork, other: MultiStageNetwork) -> bool:
    mine, others = one.weights(), other.weights()
    return mine.keys() == others.keys() and all(torch.equal(mine[name], others[name]) for name in mine)


def ranked(request: Request, prepared: Prepared, reporter: Reporter) -> Prepared:
    """With the channels that matter most first; an untrained network does not tell which these are."""
    if not prepared.is_trained:
        return prepared
    return replace(prepared, static=beginner_for(request, prepared).ranked(prepared.static, reporter))


def ranked_blocks(request: Request, prepared: Prepared, reporter: Reporter) -> tuple[int, ...] | None:
    """Which blocks matter most; an untrained network does not tell."""
    if not prepared.is_trained:
        return None
    return beginner_for(request, prepared).ranked_blocks(prepared.static, reporter)


def beginner_for(request: Request, prepared: Prepared) -> Beginner:
    """What makes the beginning of a run."""
    return Beginner(
        start=request.start,
        splits=prepared.splits,
        preprocessing=prepared.preprocessing,
        device=choose_device(request.settings.device),
        folder=request.folder,
    )


def judge_of_static(prepared: Prepared, reporter: Reporter) -> JudgeStatic:
    """Judges the static network once."""

    @cache
    def judge() -> Mapping[str, float]:
        found = static_accuracy(prepared.static, prepared.splits, prepared.preprocessing)
        reporter.say(static_words(found, prepared.splits))
        if prepared.normalize_is_guessed and prepared.new_classifier is None:
            network = as_network(prepared.static).eval()

            def judge_by(images: LabelledImages, preprocessing: Preprocessing) -> float:
                return accuracy(network, images, preprocessing)[0]

            for words in likelier_words(found["val"], prepared.splits, prepared.preprocessing, judge_by):
                reporter.say(words)
        return found

    return judge


def static_accuracy(
    static: StaticNetwork, splits: ImageSplits, preprocessing: Preprocessing
) -> dict[str, float]:
    """How good the static network is on the validation images, and on the test images if there are any."""
    network = as_network(static).eval()
    judged = {"val": accuracy(network, splits.val, preprocessing)[0]}
    if splits.test is not None:
        judged["test"] = accuracy(network, splits.test, preprocessing)[0]
    return judged
