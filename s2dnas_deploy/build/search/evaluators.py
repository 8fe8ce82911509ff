"""What judges plans in a search, made as it was asked for: by shared weights or training, and at what price.

Place in the flow: `SearchRequest` + `Prepared` + `SearchSpace` ──▶ an `Evaluator`. Slow parts keep what they
have done in the run's folder.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from s2dnas_deploy.build.images import ImageSplits, LabelledImages
from s2dnas_deploy.build.network import MultiStageNetwork, as_network, carry_over
from s2dnas_deploy.build.search.cluster import Cluster
from s2dnas_deploy.build.search.evaluate import (
    STATISTICS_IMAGES,
    FinetuneEvaluator,
    SharedEvaluator,
    SharedStart,
)
from s2dnas_deploy.build.search.judges import set_judges_aside
from s2dnas_deploy.build.search.latency import by_clock
from s2dnas_deploy.build.search.price import Price, by_macs
from s2dnas_deploy.build.search.probes import probe_plans, write_probes
from s2dnas_deploy.build.search.request import SearchRequest
from s2dnas_deploy.build.search.shared import SharedWeights
from s2dnas_deploy.build.search.space import SearchSpace
from s2dnas_deploy.build.search.train_shared import SharedTask, train_shared
from s2dnas_deploy.build.training.devices import choose_device
from s2dnas_deploy.build.training.loop import accuracy
from s2dnas_deploy.build.training.session import Prepared
from s2dnas_deploy.build.training.settings import Settings
from s2dnas_deploy.bundle.files import write_text_atomically
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.run.profile import Profile, measure_profile

DEVICE = "device.json"


@dataclass(frozen=True, kw_only=True)
class Search:
    """What every part of a search is handed."""

    request: SearchRequest
    prepared: Prepared
    space: SearchSpace
    cluster: Cluster | None
    """Where plans are judged; None: on this machine."""
    reporter: Reporter

    @property
    def folder(self) -> Path:
        """Where it keeps what it has done."""
        return self.request.training.folder

    @cached_property
    def splits_and_judges(self) -> tuple[ImageSplits, LabelledImages]:
        """The images to train with, and those that judge plans: set aside once, for both evaluators."""
        return set_judges_aside(self.prepared.splits)

    @cached_property
    def shared_weights(self) -> SharedWeights:
        """The weights that all plans share, trained; training goes on where it was."""
        training = self.request.training
        settings = replace(
            training.settings,
            epochs=self.request.passes,
            lr=self.request.shared_lr,
            ema=0.99,
            exit_weights=(),
        )
        task = SharedTask(
            static=self.prepared.static,
            space=self.space,
            splits=self.splits_and_judges[0],
            preprocessing=self.prepared.preprocessing,
            settings=settings,
            folder=self.folder,
        )

        def on_resume(step: int) -> None:
            self.reporter.say(f"resuming the shared weights after step {step}")

        return train_shared(task, self.reporter.phase("training shared weights"), on_resume)

    @cached_property
    def static_accuracy(self) -> float:
        """Of the static network, on images that it has not seen."""
        prepared = self.prepared
        return accuracy(as_network(prepared.static).eval(), prepared.splits.val, prepared.preprocessing)[0]


def shared_evaluator(search: Search) -> SharedEvaluator:
    """Judges by masks over shared weights, which are trained if they are not yet."""
    return SharedEvaluator(
        price=price_of(search),
        start=_from_shared_weights(search),
        space=search.space,
        judging=search.splits_and_judges[1],
        target=search.request.target,
    )


def finetune_evaluator(search: Search) -> FinetuneEvaluator:
    """Judges by training a plan for a few epochs, as the winner is trained for more."""
    return _by_training(search, partial(carry_over, search.prepared.static), _where_judged(search))


def finalists_evaluator(search: Search) -> FinetuneEvaluator:
    """Judges by training that goes on from the shared weights.

    From the static network on, an epoch favours plans that learn fast: those with a large first stage. What
    the shared weights know they have learned already, and less is left to learn for all alike.
    """
    settings = _where_judged(search)
    return _by_training(search, _from_shared_weights(search), replace(settings, lr=settings.lr / 2))


def _by_training(
    search: Search, start: Callable[[Plan], MultiStageNetwork], settings: Settings
) -> FinetuneEvaluator:
    splits, judging = search.splits_and_judges
    return FinetuneEvaluator(
        price=price_of(search),
        start=start,
        teacher=as_network(search.prepared.static).eval(),
        splits=splits,
        preprocessing=search.prepared.preprocessing,
        settings=replace(settings, epochs=search.request.finetune_epochs),
        keep=None if search.cluster else search.folder / "candidate",
        space=search.space,
        judging=judging,
        target=search.request.target,
    )


def _from_shared_weights(search: Search) -> SharedStart:
    return SharedStart(
        shared=search.shared_weights,
        statistics=search.splits_and_judges[0].train.evenly(STATISTICS_IMAGES),
        preprocessing=search.prepared.preprocessing,
        settings=_where_judged(search),
    )


def price_of(search: Search) -> Price:
    """What leaving at each exit costs; this machine is timed once, and that is kept for a resumed search."""
    static, cost, reporter = search.prepared.static, search.request.cost, search.reporter
    if cost == "macs":
        return by_macs(static)
    if cost != "clock":
        return by_clock(static, Profile.load(Path(cost)))
    kept = search.folder / DEVICE
    if not kept.exists():
        with tempfile.TemporaryDirectory(prefix="s2dnas-probes-") as passing:
            probes = Path(passing)
            written = reporter.phase("writing probes")
            write_probes(search.prepared, probe_plans(search.space), probes, written)
            timed = reporter.phase("timing this machine")
            profile = measure_profile(probes, provider="cpu", threads=1, progress=timed)
        write_text_atomically(kept, profile.to_json())
    return by_clock(static, Profile.load(kept))


def _where_judged(search: Search) -> Settings:
    """The settings of training; where this machine would judge, those of a cluster do."""
    settings = search.request.training.settings
    return replace(settings, device=choose_device(settings.device).type) if search.cluster else settings
