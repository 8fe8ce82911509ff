"""The training loop: a multi-stage network learns from images, and survives being killed.

Place in the flow: `MultiStageNetwork` (weights carried over) ──train──▶ the same network, trained. The
result is the moving average of the weights over the steps. Says how it goes through `progress`; never prints.
"""

import copy
import hashlib
import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import DataError, OptionError, TrainingError
from s2dnas_deploy.reporter import Progress
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.network.gated import GatedNetwork
from s2dnas_deploy.workshop.network.network import MultiStageNetwork
from s2dnas_deploy.workshop.training import several
from s2dnas_deploy.workshop.training.batches import Batches, Waited, at_once, in_order, seed_of
from s2dnas_deploy.workshop.training.checkpoint import (
    Checkpoint,
    Expected,
    add_order,
    add_weights,
    load_checkpoint,
    save_checkpoint,
)
from s2dnas_deploy.workshop.training.course import Course
from s2dnas_deploy.workshop.training.descent import descend, follow, make_optimizer, set_rate
from s2dnas_deploy.workshop.training.devices import autocast_for, choose_device, placed
from s2dnas_deploy.workshop.training.losses import exits_loss
from s2dnas_deploy.workshop.training.record import plot_accuracy, write_metrics
from s2dnas_deploy.workshop.training.settings import Settings
from s2dnas_deploy.workshop.training.teacher import Teacher
from s2dnas_deploy.workshop.training.tuning import Tuning

_DRAWN_EVERY_SECONDS = 20.0  # a picture takes as long as an epoch of few images


@dataclass(frozen=True, kw_only=True)
class Task:
    """All that determines a run: what is trained, on what, how, and where it is kept."""

    network: MultiStageNetwork
    teacher: MultiStageNetwork | None
    splits: ImageSplits
    preprocessing: Preprocessing
    settings: Settings
    folder: Path
    share: float | None = None
    """Of a network with gates: the part of its MACs that an image may take on average."""
    tuning: Tuning | None = None
    """Of a network with a new classifier: how the rest learns."""

    def __post_init__(self) -> None:
        check_images(self.splits, self.network.division.graph.classes)
        weights = self.settings.exit_weights
        if weights and len(weights) != self.network.stages:
            raise OptionError(f"{len(weights)} exit weights for {self.network.stages} exits")

    def batches(self, device: torch.device, *, shared: bool = False) -> Batches:
        """What is learned from, step by step; a part of each, if it is shared with other processes."""
        return Batches(self.splits.train, self.preprocessing, self.settings, device, shared=shared)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.batches(torch.device("cpu")).per_epoch

    @property
    def course(self) -> Course:
        """How long the run lasts, and how its learning rate goes."""
        return Course.of(self.settings, images=len(self.splits.train), steps_per_epoch=self.steps_per_epoch)

    @property
    def steps(self) -> int:
        """Steps of the whole run, or the most that it may have."""
        return self.course.most_steps

    @property
    def checkpoint(self) -> Path:
        """Where the run keeps its state."""
        return self.folder / "checkpoint.pt"

    def identity(self) -> str:
        """A digest of everything that decides the final weights."""
        digest = hashlib.sha256(f"{self.settings.digest}|{self.splits.digest}".encode())
        digest.update(repr(self.preprocessing).encode())
        if self.share is not None:
            digest.update(f"share {self.share!r}".encode())
        if self.tuning is not None:
            digest.update(repr(self.tuning).encode())
        for network in (self.network, self.teacher):
            if network is not None:
                digest.update(network.division.plan.digest.encode())
                add_order(digest, network.division.divisible)
                add_weights(digest, network.weights())
        return digest.hexdigest()


def check_images(splits: ImageSplits, outputs: int) -> None:
    """Refuse images that a network of so many outputs cannot learn from."""
    classes = len(splits.class_names)
    if classes != outputs:
        raise DataError(
            f"the data has {classes} classes and the network {outputs} outputs; they must be equal: "
            "--classes auto gives it a new classifier for the data's, or --model-args can set the number"
        )
    if len(splits.train) < 2:
        raise DataError("training needs at least 2 images")


def train(
    task: Task,
    progress: Progress,
    on_resume: Callable[[int], None] = lambda step: None,
    on_waited: Callable[[Waited], None] = lambda waited: None,
) -> list[dict[str, Any]]:
    """Train `task.network` in place, resuming what is in `task.folder`; the metrics, an epoch each.

    At the end `on_waited` is told how long was waited for images, if decoding them took time. Of several
    processes, the first calls this, and the others take part.
    """
    several.ask_others(partial(_trained, task))
    return _trained(task, progress, on_resume, on_waited)


def _trained(
    task: Task,
    progress: Progress = lambda done, total, note: None,
    on_resume: Callable[[int], None] = lambda step: None,
    on_waited: Callable[[Waited], None] = lambda waited: None,
) -> list[dict[str, Any]]:
    """Take part in a training, as `train`."""
    with torch.random.fork_rng(devices=[]):
        run = _Run(task)
        run.resume()
        if run.step:
            on_resume(run.step)
        with closing(run.batches):
            if run.teacher is not None and run.step < run.course.steps:
                run.teacher.prepare(partial(progress, run.step, run.course.steps))
            while run.step < run.course.steps:
                run.learn(run.step)
                ends_epoch = run.step % task.steps_per_epoch == 0
                if ends_epoch:
                    run.close_epoch()  # first, so that the line tells of this epoch
                progress(run.step, run.course.steps, run.note())
                if not ends_epoch and run.checkpoint_is_due():
                    run.save()
        run.finish()
        if run.batches.waited is not None:
            on_waited(run.batches.waited)
    return run.metrics


def checkpoint_of(task: Task, identity: str) -> Checkpoint | None:
    """The state in which the task's run was left, if it was begun."""
    expected = Expected(
        run=identity,
        network=task.network,
        optimizer=make_optimizer(task.network, task.settings, task.tuning),
        steps=task.steps,
        steps_per_epoch=task.steps_per_epoch,
        exits=task.network.stages,
    )
    return load_checkpoint(task.checkpoint, expected)


def accuracy(
    network: MultiStageNetwork,
    images: LabelledImages,
    preprocessing: Preprocessing,
    device: torch.device | None = None,
) -> list[float]:
    """The share of right answers of each exit, in float32."""
    return [count / len(images) for count in right_answers(network, images, preprocessing, device).tolist()]


@torch.no_grad()
def right_answers(
    network: MultiStageNetwork,
    images: LabelledImages,
    preprocessing: Preprocessing,
    device: torch.device | None = None,
) -> Tensor:
    """How many answers of each exit are right, int64 [K]."""
    was_training = network.training
    network.eval()
    right: Tensor | None = None
    for inputs, labels in in_order(images, preprocessing, at_once(network), device):
        logits = torch.stack([z.cpu() for z in network(inputs)])
        if not bool(torch.isfinite(logits).all()):
            raise TrainingError(
                "the network answers with numbers that are not finite; a smaller --lr may help"
            )
        answers = logits.argmax(2)
        counts = (answers == labels).sum(1)
        right = counts if right is None else right + counts
    network.train(was_training)
    assert right is not None, "no images"
    return right


@dataclass
class _Run:
    """A run in progress: the state that a checkpoint holds, and what follows from the task."""

    task: Task
    step: int = 0
    running_loss: float = 0.0
    metrics: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.identity = self.task.identity()
        self.settings = self.task.settings
        self.device = choose_device(self.settings.device)
        self.network = placed(self.task.network, self.device)
        self.average = copy.deepcopy(self.network).eval()
        self.optimizer = make_optimizer(self.network, self.settings, self.task.tuning)
        self.autocast = autocast_for(self.settings.precision, self.device)
        self.batches = self.task.batches(self.device, shared=True)
        self.course = self.task.course
        self.teacher = self._teacher()
        self.saved_at = self.drawn_at = time.monotonic()

    def _teacher(self) -> Teacher | None:
        if self.task.teacher is None or self.settings.distill == 0:
            return None
        network, steps = placed(self.task.teacher, self.device), self.course.most_steps
        return Teacher(network, self.batches, self.autocast, steps=steps)

    # -- learning ------------------------------------------------------------------------------------

    def learn(self, step: int) -> None:
        """One step of gradient descent on the step's own batch."""
        images, labels = self.batches.at(step)
        set_rate(self.optimizer, self.settings, self.course.rate(step), bodys=self._bodys_share(step))
        several.draw_by(seed_of(self.settings.seed, "dropout", step))
        self.network.train()
        with self.autocast(), several.as_one_batch():
            logits = [z.float() for z in self.network(images)]
        taught = None if self.teacher is None else self.teacher.answers(step, images)
        loss = exits_loss(logits, labels, taught, self.settings) * (len(images) / self.batches.size)
        if self.task.share is not None:
            assert isinstance(self.network, GatedNetwork), "a share goes with gates"
            with several.as_one_batch():
                self.network.steer(self.course.allowed(step, self.task.share), self.course.most_steps)
        value = several.summed(loss.detach().clone()).item()
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss became {value} at step {step + 1} of {self.course.steps}; a smaller --lr (now "
                f"{self.settings.lr:g}), a longer --warmup or --precision float32 may help"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        several.sum_gradients(list(self.network.parameters()))
        descend(self.optimizer)
        self.step = step + 1
        self.running_loss += value
        average, weights = (list(each.state_dict().values()) for each in (self.average, self.network))
        follow(average, weights, self.settings, self.step)

    def _bodys_share(self, step: int) -> float:
        """Of the learning rate."""
        tuning, course = self.task.tuning, self.course
        if tuning is None:
            return 1.0
        return tuning.at(step, steps=course.most_steps, steps_per_epoch=course.steps_per_epoch)

    # -- epochs ---------------------------------------------------------------------------------------

    def note(self) -> str:
        """How good the exits were after the last epoch, in a few characters."""
        if not self.metrics:
            return ""
        epoch, right = self.metrics[-1]["epoch"], self.metrics[-1]["val_accuracy"]
        how = "" if self.autocast is nullcontext else ", in bfloat16"
        return f"epoch {epoch}: val {' / '.join(f'{100 * share:.1f}%' for share in right)}{how}"

    def close_epoch(self) -> None:
        """Validate, write the log and a checkpoint."""
        self.metrics.append(
            {
                "epoch": self.step // self.task.steps_per_epoch,
                "loss": self.running_loss / self.task.steps_per_epoch,
                "val_accuracy": self._accuracy(),
            }
        )
        self.running_loss = 0.0
        self._look_ahead()
        if several.rank():
            return
        write_metrics(self.metrics, self.task.folder / "metrics.jsonl")
        if time.monotonic() - self.drawn_at > _DRAWN_EVERY_SECONDS:
            self._draw()
        self.save()

    def _draw(self) -> None:
        plot_accuracy(self.metrics, self.task.folder / "accuracy.svg")
        self.drawn_at = time.monotonic()

    def _look_ahead(self) -> None:
        """Let the course know how good the exits were after the epochs that are over."""
        means = tuple(fmean(row["val_accuracy"]) for row in self.metrics)
        self.course = replace(self.course, accuracies=means)

    def _accuracy(self) -> list[float]:
        """On the validation images, in the precision of training: close enough to follow a run."""
        images = self.task.splits.val
        own = images.select(torch.arange(several.rank(), len(images), several.size()))
        with self.autocast():
            counts = right_answers(self.average, own, self.task.preprocessing, self.device)
        return [count / len(images) for count in several.summed(counts.double()).tolist()]

    def finish(self) -> None:
        """The network becomes its average, on the CPU, in evaluation mode."""
        if self.metrics and not several.rank():
            self._draw()
        self.network.load_state_dict(self.average.state_dict())
        self.network.requires_grad_(True)  # also of a body that has waited to the end
        placed(self.network, torch.device("cpu"), torch.contiguous_format).eval()

    # -- surviving ------------------------------------------------------------------------------------

    def checkpoint_is_due(self) -> bool:
        """Whether so much time has passed that losing the work since would hurt."""
        return time.monotonic() - self.saved_at > self.settings.checkpoint_seconds

    def save(self) -> None:
        """Write the state of this moment; of several processes, the first does."""
        if several.rank():
            return
        state = Checkpoint(
            run=self.identity,
            step=self.step,
            network=self.network.state_dict(),
            average=self.average.state_dict(),
            optimizer=self.optimizer.state_dict(),
            running_loss=self.running_loss,
            metrics=self.metrics,
        )
        save_checkpoint(state, self.task.checkpoint)
        self.saved_at = time.monotonic()

    def resume(self) -> None:
        """Go on from this run's checkpoint, if there is one; the first process knows."""
        own = None if several.rank() else checkpoint_of(self.task, self.identity)
        state = several.told_by_the_first(own)
        if state is None:
            return
        self.network.load_state_dict(state.network)
        self.average.load_state_dict(state.average)
        self.optimizer.load_state_dict(dict(state.optimizer))
        self.step, self.running_loss, self.metrics = state.step, state.running_loss, list(state.metrics)
        self._look_ahead()
