"""A whole training: from a static network and images to `model.pt`.

Place in the flow: what `s2dnas-train` does. Reads the network, the weights and the images, trains the static
network first if asked, divides it by the plan, trains that, judges it once on the test images and saves it.
"""

import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import inf, nan
from pathlib import Path
from typing import Any, Protocol

import torch

from s2dnas_deploy import __version__
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import CheckpointError, ModelError, OptionError, PlanError
from s2dnas_deploy.files.atomic import alone_in, check_writable
from s2dnas_deploy.plan import AUTO, Plan
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.reporter import Reporter, counted
from s2dnas_deploy.workshop.data import ImageSplits, load_images, shape_of_images
from s2dnas_deploy.workshop.network.blocks import gated
from s2dnas_deploy.workshop.network.gated import GatedNetwork
from s2dnas_deploy.workshop.network.model_file import Model, description_of, load_model, save_model
from s2dnas_deploy.workshop.network.nested import NestedNetwork, planned
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, as_network, as_static
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.reading.static_source import StaticSource, read_plan, read_source
from s2dnas_deploy.workshop.training.devices import choose_device
from s2dnas_deploy.workshop.training.first_words import (
    blocks_words,
    cautions,
    gate_words,
    outlook,
    shortfall,
    static_words,
)
from s2dnas_deploy.workshop.training.gate import train_gate
from s2dnas_deploy.workshop.training.loop import Task, accuracy, check_images, train
from s2dnas_deploy.workshop.training.normalise import preprocessing_for
from s2dnas_deploy.workshop.training.saved import saved_on
from s2dnas_deploy.workshop.training.settings import MOST_EPOCHS, Settings
from s2dnas_deploy.workshop.training.start.begin import Beginner, Start

_NORMS = frozenset({"batch_norm", "group_norm", "instance_norm"})
_RATE_WITHOUT_NORMS = 0.01


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asks of `s2dnas-train`."""

    source: StaticSource
    data: str
    val_fraction: float
    resize: str | None
    limit: int | None
    normalize: str | None
    plan: str
    """`auto`: it is left open."""
    align: int
    static_epochs: int
    static_lr: float | None
    start: Start = "fitted"
    settings: Settings
    rate_is_open: bool = False
    """Nobody has said anything about the learning rate: what suits the network is taken."""
    out: Path
    restart: bool

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if not 0 < self.val_fraction < 1:
            raise OptionError(f"--val-fraction: expected above 0 and below 1, got {shown(self.val_fraction)}")
        if not 0 <= self.static_epochs <= MOST_EPOCHS:
            raise OptionError(
                f"--static-epochs: expected 0 to {MOST_EPOCHS}, got {shown(self.static_epochs)}"
            )
        if self.static_lr is not None and not 0 < self.static_lr < inf:
            raise OptionError(f"--static-lr: expected a finite number above 0, got {shown(self.static_lr)}")

    @property
    def folder(self) -> Path:
        """Where the run keeps its checkpoint, log and plots."""
        return self.out.with_name(self.out.name.removesuffix(".pt") + ".run")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What every training starts from: the static network, whether it is trained, and images."""

    static: StaticNetwork
    is_trained: bool
    splits: ImageSplits
    preprocessing: Preprocessing


JudgeStatic = Callable[[], Mapping[str, float]]
"""Tells how good the static network is: judged when it is first asked, and said then."""


class DecidePlan(Protocol):
    """What decides on the plan of a training, before anything is divided."""

    def __call__(
        self,
        request: Request,
        prepared: Prepared,
        plan: Plan | None,
        judge_static: JudgeStatic,
        reporter: Reporter,
    ) -> Plan:
        """The plan that was given, or the one to take if it was left open."""


def train_model(request: Request, decide: DecidePlan, reporter: Reporter) -> Model:
    """Do what is asked; the model, which is also at `request.out`."""
    check_writable(request.out)
    prepared = prepare(request, reporter)
    request = suited(request, prepared.static)
    share = blocks_share(request.plan)
    # An illegal plan is refused before anything is trained.
    given = None
    if request.plan != AUTO and share is None:
        given = read_plan(request.plan, prepared.static, align=request.align, seed=request.settings.seed)
    _refuse_anothers(request, given, prepared)
    if not prepared.is_trained and not request.static_epochs and request.plan != "static":
        reporter.say(
            "no --weights: the network is taken as untrained, and what it becomes has no teacher. Weights "
            "that the factory loads itself count as none: save its state_dict and give the file"
        )
    if share is not None:
        return train_blocks(request, share, prepared, reporter)
    with alone_in(request.folder):
        prepared = with_trained_static(request, prepared, reporter)
        judge = judge_of_static(prepared, reporter)
        if given is None or given.stages > 1:
            prepared = ranked(request, prepared, reporter)
        plan = decide(request, prepared, given, judge, reporter)
        return train_plan(request, plan, prepared, judge, reporter)


def train_blocks(request: Request, share: float, prepared: Prepared, reporter: Reporter) -> Model:
    """Put gates before the residual blocks, and let them learn to close until a share of all MACs is left."""
    with alone_in(request.folder):
        prepared = with_trained_static(request, prepared, reporter)
        trained = prepared.is_trained
        network = GatedNetwork(gated(ranked(request, prepared, reporter).static), learns=True)
        task = Task(
            network=network,
            teacher=as_network(prepared.static).eval() if trained else None,
            splits=prepared.splits,
            preprocessing=prepared.preprocessing,
            settings=request.settings,
            folder=request.folder,
            share=share,
        )
        judge = judge_of_static(prepared, reporter)
        if request.source.is_trained():
            _keep_static(request, prepared)
        model = _train_and_save(task, request, request.out, lambda: judge() if trained else None, reporter)
        if model.network is network:  # else it was there already, and this one has learnt nothing
            reporter.say(blocks_words(saved_on(network, prepared.splits.val, prepared.preprocessing)))
        return model


_BLOCKS = "blocks:"


def blocks_share(plan: str) -> float | None:
    """Of `blocks:SHARE`, the share of the MACs that an image may take on average; None for any other plan."""
    if not plan.startswith(_BLOCKS):
        return None
    try:
        share = float(plan.removeprefix(_BLOCKS))
    except ValueError:
        share = nan
    if not 0 < share <= 1:
        raise PlanError(
            f"cannot read the plan {plan!r}; expected blocks:SHARE with the share of the MACs that an image "
            "may take on average, above 0 and at most 1, such as blocks:0.5"
        )
    return share


def suited(request: Request, static: StaticNetwork) -> Request:
    """With a learning rate that the network bears, where nobody has said one: without norms, less."""
    if not request.rate_is_open or any(node.operator in _NORMS for node in static.graph.nodes):
        return request
    settings = replace(request.settings, lr=_RATE_WITHOUT_NORMS)
    return replace(request, settings=settings, rate_is_open=False)


def judge_of_static(prepared: Prepared, reporter: Reporter) -> JudgeStatic:
    """Judges the static network once."""

    @cache
    def judge() -> Mapping[str, float]:
        found = static_accuracy(prepared.static, prepared.splits, prepared.preprocessing)
        reporter.say(static_words(found, prepared.splits))
        return found

    return judge


def prepare(request: Request, reporter: Reporter) -> Prepared:
    """Read the network, its weights and the images."""
    settings, source = request.settings, request.source
    choose_device(settings.device)
    if request.static_epochs and source.is_trained():
        reporter.say("the weights given are taken as trained: --static-epochs is not needed and not used")
    static, kept = read_source(_with_input(request, reporter))
    shape = static.graph.input_shape
    splits = load_images(
        request.data,
        input_shape=(shape[0], shape[1], shape[2]),
        seed=settings.seed,
        val_fraction=request.val_fraction,
        resize=request.resize,
        limit=request.limit,
        on_progress=counted(reporter.phase("reading images")),
    )
    check_images(splits, static.graph.classes)
    for caution in cautions(
        splits,
        normalize_guessed=source.is_trained() and kept is None and request.normalize is None,
        weights_may_know_val=source.is_trained() and not _held_out_alike(kept, splits),
        to_be_divided=request.plan != "static",
        limited=request.limit is not None,
    ):
        reporter.say(caution)
    return Prepared(
        static=static,
        is_trained=source.is_trained(),
        splits=splits,
        preprocessing=_preprocessing(request, splits, shape, kept),
    )


def _with_input(request: Request, reporter: Reporter) -> StaticSource:
    """The network asked for, with the shape of its input: that of the images, if nobody says another."""
    source = request.source
    if source.model is None or source.input_shape is not None:
        return source
    if request.resize is not None:
        raise OptionError("--resize is given, and --input is not: give the size that images are to get")
    shape = shape_of_images(request.data)
    reporter.say(f"--input {'x'.join(map(str, shape))}, as the images are")
    return replace(source, input_shape=shape)


def _held_out_alike(kept: Model | None, splits: ImageSplits) -> bool:
    """Whether weights come from a training here that held the same images out."""
    if kept is None or kept.provenance.get("weights") is not None:
        return False
    return kept.images_digest == splits.digest


def train_plan(
    request: Request,
    plan: Plan,
    prepared: Prepared,
    judge_static: JudgeStatic,
    reporter: Reporter,
) -> Model:
    """Divide the network by a plan, train it and save it."""
    static, trained = prepared.static, prepared.is_trained
    begins = trained and plan.stages > 1
    task = Task(
        network=_beginner(request, prepared).beginning(static, plan, reporter)
        if begins
        else planned(static, plan),
        teacher=as_network(static).eval() if trained and plan.stages > 1 else None,
        splits=prepared.splits,
        preprocessing=prepared.preprocessing,
        settings=request.settings,
        folder=request.folder,
    )

    def judge() -> Mapping[str, float] | None:
        if request.source.is_trained() and plan.stages > 1:
            _keep_static(request, prepared)
        return judge_static() if trained else None

    return _train_and_save(task, request, request.out, judge, reporter)


def ranked(request: Request, prepared: Prepared, reporter: Reporter) -> Prepared:
    """With the channels that matter most first; an untrained network does not tell which these are."""
    if not prepared.is_trained:
        return prepared
    return replace(prepared, static=_beginner(request, prepared).ranked(prepared.static, reporter))


def _beginner(request: Request, prepared: Prepared) -> Beginner:
    return Beginner(
        start=request.start,
        splits=prepared.splits,
        preprocessing=prepared.preprocessing,
        device=choose_device(request.settings.device),
        folder=request.folder,
    )


def _keep_static(request: Request, prepared: Prepared) -> None:
    """The static network in the run's folder, as if it had been trained there: what to compare with later.

    One that was trained there took time, and is not replaced by another unasked.
    """
    path, network = request.folder / "static.pt", as_network(prepared.static).eval()
    if path.exists() and not request.restart and "run" in (there := _read_there(path)).provenance:
        if not _same_weights(there.network, network):
            raise CheckpointError(
                f"{path} was trained here and is not the network of {request.source.weights}; "
                "move it away, give another --out, or --restart to replace it"
            )
        return
    about = {
        "tool": f"s2dnas_deploy {__version__}",
        "network": request.source.model or str(request.source.weights),
        "weights": str(request.source.weights),
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


def with_trained_static(request: Request, prepared: Prepared, reporter: Reporter) -> Prepared:
    """Train the static network itself, if that is asked for, into the run's folder.

    It is the teacher and the start of the rest.
    """
    if prepared.is_trained or not request.static_epochs:
        return prepared
    lr = request.settings.lr if request.static_lr is None else request.static_lr
    settings = replace(request.settings, epochs=request.static_epochs, lr=lr, exit_weights=())
    folder = request.folder / "static"
    task = Task(
        network=as_network(prepared.static),
        teacher=None,
        splits=prepared.splits,
        preprocessing=prepared.preprocessing,
        settings=settings,
        folder=folder,
    )
    model = _train_and_save(task, request, request.folder / "static.pt", lambda: None, reporter)
    return replace(prepared, static=as_static(model.network), is_trained=True)


def _train_and_save(
    task: Task,
    request: Request,
    out: Path,
    judge_static: Callable[[], Mapping[str, float] | None],
    reporter: Reporter,
) -> Model:
    identity = task.identity()
    finished = _finished(out, task, identity, restart=request.restart)
    if finished is not None:
        task.checkpoint.unlink(missing_ok=True)  # of a process that was killed when the model was saved
        reporter.say(f"{out} is there already, from this very run; nothing to do (--restart trains anew)")
        return finished
    if request.restart:
        task.checkpoint.unlink(missing_ok=True)
    _check_description(task, request)
    before = judge_static()
    name = (
        "training gates before blocks"
        if task.share is not None
        else "training the static network"
        if task.network.stages == 1
        else f"training {task.network.stages} {'widths' if task.network.division.plan.nested else 'stages'}"
    )

    def on_resume(step: int) -> None:
        most = "at most " if task.settings.epochs is None else ""
        reporter.say(f"resuming after step {step} of {most}{task.steps}")

    metrics = train(task, reporter.phase(name), on_resume) if task.steps else []
    if isinstance(task.network, NestedNetwork) and task.network.division.gate is not None:
        learnt = train_gate(
            task.network, task.batches(torch.device("cpu")), reporter.phase("training the gate")
        )
        reporter.say(gate_words(learnt))
    model = Model(
        network=task.network.eval(),
        class_names=task.splits.class_names,
        preprocessing=task.preprocessing,
        provenance=_provenance(task, request, identity, before, metrics),
    )
    save_model(model, out)
    task.checkpoint.unlink(missing_ok=True)
    for words in _last_words(task, before, model.provenance["val_accuracy"], metrics):
        if words is not None:
            reporter.say(words)
    return model


def _last_words(
    task: Task, static: Mapping[str, float] | None, exits: Sequence[float], metrics: list[dict[str, Any]]
) -> Iterator[str | None]:
    """What a person should know after a training."""
    epochs, most = len(metrics), task.course.epochs
    if epochs < most:
        yield f"the exits no longer gained, so the run ended after {epochs} of at most {most} epochs"
    yield outlook(metrics, len(task.splits.val))
    yield shortfall(static, exits, task.settings, epochs)


def _check_description(task: Task, request: Request) -> None:
    """Refuse options that no model could keep before anything is trained with them."""
    model = Model(
        network=task.network,
        class_names=task.splits.class_names,
        preprocessing=task.preprocessing,
        provenance=_origin(task, request),
    )
    try:
        description_of(model)
    except CheckpointError as error:
        raise OptionError(f"{request.out}: such a model could not be read again: {error}") from error


def _finished(out: Path, task: Task, identity: str, *, restart: bool) -> Model | None:
    """The model of this very run, if it is there; another's is not overwritten unasked."""
    if restart or not out.exists():
        return None
    model = _read_there(out)
    if model.provenance.get("run") != identity:
        raise _of_another_run(
            out, _differences(model, task.settings, task.network.division.plan, task.splits)
        )
    if _shapes(model.network) != _shapes(task.network):
        raise CheckpointError(f"{out} is not what its run makes: move it away, or --restart to replace it")
    return model


def _refuse_anothers(request: Request, plan: Plan | None, prepared: Prepared) -> None:
    """Find out before a static network is trained what is known by then: that `--out` is of another run.

    Whether it is of this very run is known when the weights are, which that begins with.
    """
    if prepared.is_trained or not request.static_epochs or request.restart or not request.out.exists():
        return
    model = _read_there(request.out)
    found = _differences(model, request.settings, plan, prepared.splits)
    about = model.provenance
    # One that begins with a static network trained there has been told how good that is, and no weights.
    if found or about.get("weights") is not None or about.get("static_accuracy") is None:
        raise _of_another_run(request.out, found)


def _of_another_run(out: Path, differences: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        f"{out} is there already and comes from another run "
        f"({'; '.join(differences) or 'other starting weights'}); "
        "move it away, give another --out, or --restart to replace it"
    )


def _read_there(path: Path) -> Model:
    """A model that an earlier run has left."""
    try:
        return load_model(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; move it away, or --restart to replace it") from error


def _shapes(network: MultiStageNetwork) -> tuple[str, dict[str, torch.Size]]:
    return network.division.plan.digest, {key: value.shape for key, value in network.weights().items()}


def _differences(model: Model, settings: Settings, plan: Plan | None, splits: ImageSplits) -> list[str]:
    """In what a run differs from the one that made a model, as far as settings, plan and images tell."""
    was, now = model.provenance.get("settings", {}), json.loads(json.dumps(settings.decisive))
    found = [f"{key} {was[key]}, now {now[key]}" for key in now if key in was and was[key] != now[key]]
    if plan is not None and model.network.division.plan.digest != plan.digest:
        found.append("another plan")
    if model.images_digest != splits.digest:
        found.append("other images")
    return found


def static_accuracy(
    static: StaticNetwork, splits: ImageSplits, preprocessing: Preprocessing
) -> dict[str, float]:
    """How good the static network is on the validation images, and on the test images if there are any."""
    network = as_network(static).eval()
    judged = {"val": accuracy(network, splits.val, preprocessing)[0]}
    if splits.test is not None:
        judged["test"] = accuracy(network, splits.test, preprocessing)[0]
    return judged


def _provenance(
    task: Task,
    request: Request,
    identity: str,
    static: Mapping[str, float] | None,
    metrics: list[dict[str, Any]],
) -> dict[str, Any]:
    """Where the model comes from and how good it is. The test images are looked at here, once."""
    splits = task.splits
    test = accuracy(task.network, splits.test, task.preprocessing) if splits.test is not None else None
    return {
        **_origin(task, request),
        "run": identity,
        "static_accuracy": None if static is None else dict(static),
        "val_accuracy": accuracy(task.network, splits.val, task.preprocessing),
        "test_accuracy": test,
        "epochs_trained": len(metrics),
    }


def _origin(task: Task, request: Request) -> dict[str, Any]:
    """What is known of a model before it is trained."""
    splits = task.splits
    return {
        "tool": f"s2dnas_deploy {__version__}",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "network": request.source.model or str(request.source.weights),
        "network_arguments": dict(request.source.model_arguments),
        "weights": None if request.source.weights is None else str(request.source.weights),
        "settings": asdict(task.settings),
        "data": {
            "source": request.data,
            "digest": splits.digest,
            "train": len(splits.train),
            "val": len(splits.val),
            "test": None if splits.test is None else len(splits.test),
            "val_fraction": request.val_fraction,
            "limit": request.limit,
        },
    }


def _preprocessing(
    request: Request, splits: ImageSplits, shape: tuple[int, ...], kept: Model | None
) -> Preprocessing:
    """How images are normalised: as asked, as the `model.pt` given as weights says, or as for ImageNet."""
    if request.normalize is None and kept is not None:
        return kept.preprocessing
    asked = preprocessing_for(
        request.normalize or "imagenet",
        splits.train.images,
        (shape[0], shape[1], shape[2]),
        resize=request.resize,
    )
    if kept is not None and (asked.mean, asked.std) != (kept.preprocessing.mean, kept.preprocessing.std):
        raise ModelError(
            f"{request.source.weights} was trained with mean {kept.preprocessing.mean} and std "
            f"{kept.preprocessing.std}; --normalize {request.normalize} gives {asked.mean} and {asked.std}"
        )
    return asked
