"""One training and what it leaves: a model that is there already is neither trained again nor overwritten.

Place in the flow: `Task` ──▶ `model.pt` with its provenance. The test images are looked at here, once.
"""

import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from s2dnas_deploy import __version__
from s2dnas_deploy.errors import CheckpointError, OptionError
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.workshop.data.labelled import ImageSplits
from s2dnas_deploy.workshop.network.model_file import Model, description_of, load_model, save_model
from s2dnas_deploy.workshop.network.nested import NestedNetwork
from s2dnas_deploy.workshop.network.network import MultiStageNetwork
from s2dnas_deploy.workshop.training.batches import Waited
from s2dnas_deploy.workshop.training.first_words import (
    gate_words,
    outlook,
    shortfall,
    waiting_words,
)
from s2dnas_deploy.workshop.training.gate import train_gate
from s2dnas_deploy.workshop.training.loop import Task, accuracy, train
from s2dnas_deploy.workshop.training.request import Prepared, Request
from s2dnas_deploy.workshop.training.settings import Settings


def train_and_save(
    task: Task,
    request: Request,
    out: Path,
    judge_static: Callable[[], Mapping[str, float] | None],
    reporter: Reporter,
) -> Model:
    """Train and save to `out`; what is there already from this very run is taken as it is."""
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

    def on_waited(waited: Waited) -> None:
        reporter.say(waiting_words(waited))

    metrics = train(task, reporter.phase(name, "steps"), on_resume, on_waited) if task.steps else []
    if isinstance(task.network, NestedNetwork) and task.network.division.gate is not None:
        with closing(task.batches(torch.device("cpu"))) as batches:
            learnt = train_gate(task.network, batches, reporter.phase("training the gate", "steps"))
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
        yield f"answers no longer gained, so the run ended after {epochs} of at most {most} epochs"
    yield outlook(metrics, len(task.splits.val))
    yield shortfall(static, exits, task.settings, epochs, task.network.division.plan)


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
    model = read_there(out)
    if model.provenance.get("run") != identity:
        raise _of_another_run(
            out, _differences(model, task.settings, task.network.division.plan, task.splits)
        )
    if _shapes(model.network) != _shapes(task.network):
        raise CheckpointError(f"{out} is not what its run makes: move it away, or --restart to replace it")
    return model


def refuse_anothers(request: Request, plan: Plan | None, prepared: Prepared) -> None:
    """Find out before a static network is trained what is known by then: that `--out` is of another run.

    Whether it is of this very run is known when the weights are, which that begins with.
    """
    if not request.trains_static(prepared) or request.restart or not request.out.exists():
        return
    model = read_there(request.out)
    found = _differences(model, request.settings, plan, prepared.splits)
    about = model.provenance
    # One that begins with a static network trained there has been told how good that is, and as many weights.
    has_weights = request.source.weights_in_words() is not None
    if found or (about.get("weights") is not None) != has_weights or about.get("static_accuracy") is None:
        raise _of_another_run(request.out, found)


def _of_another_run(out: Path, differences: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        f"{out} is there already and comes from another run "
        f"({'; '.join(differences) or 'other starting weights'}); "
        "move it away, give another --out, or --restart to replace it"
    )


def read_there(path: Path) -> Model:
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
        "weights": request.source.weights_in_words(),
        **({} if task.tuning is None else {"tuning": {**asdict(task.tuning), "classes": request.classes}}),
        "settings": asdict(task.settings),
        "data": {
            "source": request.data,
            "digest": splits.digest,
            "train": len(splits.train),
            "val": len(splits.val),
            "test": None if splits.test is None else len(splits.test),
            "val_fraction": request.val_fraction,
            "limit": request.limit,
            "on_disk": splits.are_on_disk,
        },
    }
