"""Training the shared weights, so that masks alone tell how good a plan would be.

Place in the flow: `SharedWeights` from the static network ──train──▶ the same, used to many plans. The
images of a step are dealt to several plans: the one whose first stage is thinnest, the one whose first
stage is largest (the sandwich rule of slimmable networks), and others drawn at random. Where there are
images for one or two plans only, the first two take turns. All are told what the static network answers.
The result is a moving average, as in training proper.
"""

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import TrainingError
from s2dnas_deploy.reporter import Progress
from s2dnas_deploy.workshop.data.labelled import ImageSplits
from s2dnas_deploy.workshop.network.division import divide
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, as_network
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.search.judging.masked_widths import MaskedWidths
from s2dnas_deploy.workshop.search.judging.shared_weights import SharedWeights
from s2dnas_deploy.workshop.search.space.by_hand import largest, smallest
from s2dnas_deploy.workshop.search.space.space import Choices, SearchSpace
from s2dnas_deploy.workshop.training import several
from s2dnas_deploy.workshop.training.batches import Batches, Waited, seed_of
from s2dnas_deploy.workshop.training.checkpoint import (
    Checkpoint,
    Expected,
    add_order,
    add_weights,
    load_checkpoint,
    save_checkpoint,
)
from s2dnas_deploy.workshop.training.course import Course
from s2dnas_deploy.workshop.training.descent import descend, follow, make_optimizer, schedule, set_rate
from s2dnas_deploy.workshop.training.devices import autocast_for, choose_device, placed
from s2dnas_deploy.workshop.training.losses import exits_loss
from s2dnas_deploy.workshop.training.settings import Settings
from s2dnas_deploy.workshop.training.teacher import Teacher

_MOST_PLANS = 8  # in a step
_FEWEST_IMAGES = 16  # of a plan in a step: norms take statistics of them
_Network = MultiStageNetwork | MaskedWidths
SHARED_CHECKPOINT = "shared.checkpoint.pt"


@dataclass(frozen=True, kw_only=True)
class SharedTask:
    """All that determines the shared weights."""

    static: StaticNetwork
    space: SearchSpace
    splits: ImageSplits
    preprocessing: Preprocessing
    settings: Settings
    folder: Path

    def identity(self) -> str:
        """A digest of everything that decides the weights."""
        digest = hashlib.sha256(f"{self.settings.digest}|{self.splits.digest}".encode())
        digest.update(repr([(slot.name, slot.options) for slot in self.space.slots]).encode())
        digest.update(repr(self.preprocessing).encode())
        digest.update(b"nested" if self.space.nested else b"")
        add_weights(digest, self.static.weights)
        add_order(digest, self.static.divisible)
        return digest.hexdigest()


def train_shared(
    task: SharedTask,
    progress: Progress,
    on_resume: Callable[[int], None] = lambda step: None,
    on_waited: Callable[[Waited], None] = lambda waited: None,
) -> SharedWeights:
    """Train, resuming what is in the task's folder; the weights are on the CPU, in evaluation mode.

    At the end `on_waited` is told how long was waited for images, if decoding them took time. Of several
    processes, the first calls this, and the others take part.
    """
    several.ask_others(partial(_trained, task))
    return _trained(task, progress, on_resume, on_waited)


def _trained(
    task: SharedTask,
    progress: Progress = lambda done, total, note: None,
    on_resume: Callable[[int], None] = lambda step: None,
    on_waited: Callable[[Waited], None] = lambda waited: None,
) -> SharedWeights:
    """Take part in a training, as `train_shared`."""
    with torch.random.fork_rng(devices=[]):
        run = _Run(task)
        run.resume()
        if 0 < run.step < run.steps:
            on_resume(run.step)
        with closing(run.batches):
            if run.step < run.steps:
                run.teacher.prepare(partial(progress, run.step, run.steps))
            for step in range(run.step, run.steps):
                run.learn(step)
                progress(step + 1, run.steps, run.note())
                last = step + 1 == run.steps
                if last or time.monotonic() - run.saved_at > task.settings.checkpoint_seconds:
                    run.save()
        if run.batches.waited is not None:
            on_waited(run.batches.waited)
    return placed(run.average, torch.device("cpu"), torch.contiguous_format).eval()


class _Run:
    """Training in progress."""

    def __init__(self, task: SharedTask) -> None:
        self.task, self.settings = task, task.settings
        self.identity = task.identity()
        self.device = choose_device(self.settings.device)
        self.shared = placed(SharedWeights(task.static, task.space), self.device)
        self.average = copy.deepcopy(self.shared)
        self.optimizer = make_optimizer(self.shared, self.settings)
        self.autocast = autocast_for(self.settings.precision, self.device)
        learned_from = (task.splits.train, task.preprocessing)
        self.batches = Batches(*learned_from, self.settings, self.device, shared=True)
        self.plans = max(min(_MOST_PLANS, self.batches.size // _FEWEST_IMAGES), 1)
        self.steps = Course.of(
            self.settings, images=len(task.splits.train), steps_per_epoch=self.batches.per_epoch
        ).most_steps
        network = placed(as_network(task.static), self.device)
        self.teacher = Teacher(network, self.batches, self.autocast, steps=self.steps)
        self.step = 0
        self.loss = 0.0
        self.saved_at = time.monotonic()
        self.always = [self._network(choices) for choices in (smallest(task.space), largest(task.space))]

    def learn(self, step: int) -> None:
        """One step on the step's own images and plans."""
        images, labels = self.batches.at(step)
        set_rate(self.optimizer, self.settings, schedule(step / self.steps, self.settings.warmup))
        several.draw_by(seed_of(self.settings.seed, "dropout", step))
        taught = self.teacher.answers(step, images)
        self.optimizer.zero_grad(set_to_none=True)
        self.loss = 0.0
        hands = [part.chunk(self.plans) for part in (images, labels, taught)]
        for network, *hand in zip(self._networks(step), *hands, strict=True):
            self.loss += self._teach(network, *hand, share=len(hand[0]) / self.batches.size)
        self.loss = several.summed(torch.tensor(self.loss, dtype=torch.double)).item()
        several.sum_gradients(list(self.shared.parameters()))
        if not math.isfinite(self.loss):
            raise TrainingError(
                f"the shared weights' loss became {self.loss} at step {step + 1} of {self.steps}; a smaller "
                f"--shared-lr (now {self.settings.lr:g}) may help"
            )
        descend(self.optimizer)
        self.step = step + 1
        follow(list(self.average.parameters()), list(self.shared.parameters()), self.settings, self.step)

    def _networks(self, step: int) -> Iterator[_Network]:
        """The step's plans: drawn ones, the same whenever the step is taken, and the two extremes."""
        rng = np.random.default_rng(seed_of(self.settings.seed, "plan", step))
        if self.plans > 2:
            always = self.always
        elif self.plans == 2:
            always = [self.always[step % 2]]  # they take turns
        else:
            always = [self.always[step // 2 % 2]] if step % 2 else []
        for _ in range(self.plans - len(always)):
            yield self._network(self.task.space.draw(rng))
        yield from always

    def _teach(
        self, network: _Network, images: Tensor, labels: Tensor, taught: Tensor, *, share: float
    ) -> float:
        """Add one plan's gradient; its part of the loss, averaged over the exits."""
        used = self.shared.used_by(network.division)
        with self.autocast(), several.as_one_batch():
            logits = [z.float() for z in network.answers(images, used)]
        loss = exits_loss(logits, labels, taught, self.settings) * share
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def _network(self, choices: Choices) -> _Network:
        """The masks of a plan, in training mode; its own weights are not used."""
        division = divide(self.shared.divisible, self.task.space.plan(choices))
        if division.plan.nested:
            return MaskedWidths(division).to(self.device).train()
        return self.shared.divided(division).to(self.device).train()

    def note(self) -> str:
        """How it stands: the loss of the latest step, about once an epoch."""
        return f"loss {self.loss:.2f}" if self.step % self.batches.per_epoch == 0 else ""

    def save(self) -> None:
        """Write the state of this moment; of several processes, the first does."""
        if several.rank():
            return
        state = Checkpoint(
            run=self.identity,
            step=self.step,
            network=self.shared.state_dict(),
            average=self.average.state_dict(),
            optimizer=self.optimizer.state_dict(),
            running_loss=self.loss,
            metrics=[],
        )
        save_checkpoint(state, self.task.folder / SHARED_CHECKPOINT)
        self.saved_at = time.monotonic()

    def resume(self) -> None:
        """Go on from this run's checkpoint, if there is one."""
        expected = Expected(
            run=self.identity,
            network=self.shared,
            optimizer=self.optimizer,
            steps=self.steps,
            steps_per_epoch=self.batches.per_epoch,
            exits=0,
        )
        path = self.task.folder / SHARED_CHECKPOINT
        state = several.told_by_the_first(None if several.rank() else load_checkpoint(path, expected))
        if state is not None:
            self.shared.load_state_dict(state.network)
            self.average.load_state_dict(state.average)
            self.optimizer.load_state_dict(dict(state.optimizer))
            self.step, self.loss = state.step, state.running_loss
