"""Two ways to find out what a plan is worth: quickly, on shared weights, or by training it.

Place in the flow: `Candidate` ──▶ its network ──▶ what its exits say of the judging images, and its price ──▶
`Worth`. Both are deterministic: the same plan gets the same worth, wherever and whenever they are judged.
"""

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.errors import CheckpointError
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.network.division import Division
from s2dnas_deploy.workshop.network.network import MultiStageNetwork
from s2dnas_deploy.workshop.pricing.price import Price
from s2dnas_deploy.workshop.search.judging.exit_scores import logits_of, scores_from, take_statistics
from s2dnas_deploy.workshop.search.judging.foretold import OF_FINALISTS, OF_SHARED, foretold
from s2dnas_deploy.workshop.search.judging.reward import Worth, worth_of, worth_of_widths
from s2dnas_deploy.workshop.search.judging.shared_weights import SharedWeights
from s2dnas_deploy.workshop.search.space.candidate import Candidate
from s2dnas_deploy.workshop.training.devices import Autocast, autocast_for, choose_device, placed
from s2dnas_deploy.workshop.training.loop import Task, checkpoint_of, train
from s2dnas_deploy.workshop.training.settings import Settings

STATISTICS_IMAGES = 1000

Start = Callable[[Division], MultiStageNetwork]
Evaluator = Callable[[Candidate], Worth]
JudgeMany = Callable[[Sequence[Candidate]], Iterable[Worth]]


@dataclass(frozen=True, kw_only=True)
class SharedStart:
    """What a plan's own network is when it starts from shared weights, with statistics of its own."""

    shared: SharedWeights
    statistics: LabelledImages
    """Images of the training set, to estimate the means and variances of batch norms on."""
    preprocessing: Preprocessing
    settings: Settings

    def __call__(self, division: Division) -> MultiStageNetwork:
        """The network, on the CPU."""
        device, autocast = _where(self.settings)
        network = placed(self.shared.divided(division), device)
        take_statistics(network, self.statistics.read(), self.preprocessing, device, autocast)
        return placed(network, torch.device("cpu"), torch.contiguous_format)


@dataclass(frozen=True, kw_only=True)
class _Evaluator(ABC):
    """What both have in common: which images judge, and what a plan may cost."""

    judging: LabelledImages
    price: Price
    target: float
    static_accuracy: float
    kept: ClassVar[float]
    """Of what exits lack by then, the part that they will still lack once they are trained in full."""

    def __call__(self, candidate: Candidate) -> Worth:
        """The worth of a plan."""
        scores, cost = self.scores(candidate.division), self.price(candidate)
        if not candidate.plan.exits_early:
            return worth_of_widths(scores, cost, self.target)
        return worth_of(foretold(scores, self.static_accuracy, self.kept), cost, self.target)

    @abstractmethod
    def scores(self, division: Division) -> ExitScores:
        """What its exits say."""


@dataclass(frozen=True, kw_only=True)
class SharedEvaluator(_Evaluator):
    """Judges a plan by its masks over shared weights."""

    kept: ClassVar[float] = OF_SHARED
    start: SharedStart

    def scores(self, division: Division) -> ExitScores:
        """What its exits say."""
        network, preprocessing = self.start(division), self.start.preprocessing
        device, autocast = _where(self.start.settings)
        logits = logits_of(placed(network, device), self.judging, preprocessing, device, autocast)
        return scores_from(logits, self.judging.labels)


@dataclass(frozen=True, kw_only=True)
class FinetuneEvaluator(_Evaluator):
    """Judges a plan by training it for a few epochs: costly, and what the quick way is held against."""

    kept: ClassVar[float] = OF_FINALISTS
    start: Start
    """What a candidate is before that."""
    teacher: MultiStageNetwork
    splits: ImageSplits
    preprocessing: Preprocessing
    settings: Settings
    keep: Path | None
    """Where a candidate's training goes on after `kill -9`; None on machines that only help."""

    def scores(self, division: Division) -> ExitScores:
        """What its exits say after training."""
        device, autocast = _where(self.settings)
        network = self.start(division)
        with tempfile.TemporaryDirectory(prefix="s2dnas-candidate-") as passing:
            folder = (self.keep or Path(passing)) / division.plan.digest[:12]
            task = Task(
                network=network,
                teacher=self.teacher,
                splits=self.splits,
                preprocessing=self.preprocessing,
                settings=self.settings,
                folder=folder,
            )
            _forget_another(task)
            train(task, lambda done, total, note: None)
            logits = logits_of(placed(network, device), self.judging, self.preprocessing, device, autocast)
            shutil.rmtree(folder)  # only now: who is killed before goes on with the trained weights
        return scores_from(logits, self.judging.labels)


def _forget_another(task: Task) -> None:
    """A checkpoint by other settings, or a damaged one, is not gone on with; training again is short."""
    try:
        checkpoint_of(task, task.identity())
    except CheckpointError:
        shutil.rmtree(task.folder)


def _where(settings: Settings) -> tuple[torch.device, Autocast]:
    device = choose_device(settings.device)
    return device, autocast_for(settings.precision, device)
