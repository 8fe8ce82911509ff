"""What judges plans in a search, made as it was asked for: by shared weights or training, and at what price.

Place in the flow: `SearchRequest` + `Prepared` + `SearchSpace` ──▶ an `Evaluator`. Slow parts keep what they
have done in the run's folder.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path

from s2dnas_deploy.bundle.device_profile import STATIC, Profile
from s2dnas_deploy.files.atomic import write_text_atomically
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.plan import static as static_plan
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.workshop.data import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, as_network, carry_over
from s2dnas_deploy.workshop.search.judging.cluster import Cluster
from s2dnas_deploy.workshop.search.judging.evaluators import (
    STATISTICS_IMAGES,
    FinetuneEvaluator,
    SharedEvaluator,
    SharedStart,
)
from s2dnas_deploy.workshop.search.judging.judging_images import set_judges_aside
from s2dnas_deploy.workshop.search.judging.shared_weights import SharedWeights
from s2dnas_deploy.workshop.search.judging.train_shared import SharedTask, train_shared
from s2dnas_deploy.workshop.search.pricing.latency import by_clock
from s2dnas_deploy.workshop.search.pricing.price import Price, as_measured, by_macs
from s2dnas_deploy.workshop.search.pricing.probes import probe_plans, write_probes
from s2dnas_deploy.workshop.search.request import THREADS, TIMED_ON, SearchRequest, this_device
from s2dnas_deploy.workshop.search.space.space import SearchSpace
from s2dnas_deploy.workshop.training.devices import choose_device
from s2dnas_deploy.workshop.training.run import Prepared, static_accuracy
from s2dnas_deploy.workshop.training.settings import Settings

DEVICE, TIMED = "device.json", "finalists.device.json"


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
    def static_accuracy(self) -> Mapping[str, float]:
        """Of the static network, on the validation images, and on the test images if there are any."""
        prepared = self.prepared
        return static_accuracy(prepared.static, prepared.splits, prepared.preprocessing)


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


def finalists_evaluator(search: Search, finalists: Sequence[Plan]) -> FinetuneEvaluator:
    """Judges by training that goes on from the shared weights, and by this machine's own times, if asked for.

    From the static network on, an epoch favours plans that learn fast: those with a large first stage. What
    the shared weights know they have learned already, and less is left to learn for all alike.
    """
    settings = _where_judged(search)
    evaluator = _by_training(search, _from_shared_weights(search), replace(settings, lr=settings.lr / 2))
    if search.request.cost != "clock":
        return evaluator
    return replace(evaluator, price=as_measured(_timed_costs(search, finalists)))


def _timed_costs(search: Search, plans: Sequence[Plan]) -> Mapping[str, tuple[float, ...]]:
    """What each exit costs, of plans that are exported and timed, which is kept.

    The model that prices plans errs by a few percent, and the best of hundreds is easily one that it prices
    too low.
    """
    path = search.folder / TIMED
    before = _kept(search, path)
    known = {} if before is None else dict(before.times)
    missing = {plan.digest: plan for plan in plans if plan.digest not in known}
    if missing:
        timed = _timed(search, {STATIC: static_plan(search.space.plans), **missing}, "finalists")
        profile = timed if before is None else before.joined(timed)
        write_text_atomically(path, profile.to_json())
        known = dict(profile.times)
    times = {plan.digest: known[plan.digest] for plan in plans}
    return {
        digest: tuple(accumulate(ms / of.reference_ms for ms in of.stage_ms)) for digest, of in times.items()
    }


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
    """What each exit costs; this machine is timed once, and that is kept for a resumed search."""
    static, cost = search.prepared.static, search.request.cost
    if cost == "macs":
        return by_macs(static)
    if cost != "clock":
        return by_clock(static, Profile.load(Path(cost)))
    path = search.folder / DEVICE
    profile = _kept(search, path)
    if profile is None:
        profile = _timed(search, probe_plans(search.space), "probes")
        write_text_atomically(path, profile.to_json())
    return by_clock(static, profile)


def _kept(search: Search, path: Path) -> Profile | None:
    """Times that were taken before, if on this very device and of images of this size."""
    if not path.exists():
        return None
    profile = Profile.load(path)
    shape = search.prepared.static.graph.input_shape
    if (profile.device, profile.input_shape) == (this_device(), shape):
        return profile
    search.reporter.say(f"{path} is of another device, onnxruntime or size of images: stages are timed anew")
    return None


def _timed(search: Search, plans: Mapping[str, Plan], what: str) -> Profile:
    """The stages of plans, exported and timed on this machine."""
    with tempfile.TemporaryDirectory(prefix="s2dnas-probes-") as passing:
        write_probes(search.prepared, plans, Path(passing), search.reporter.phase(f"writing {what}"))
        progress = search.reporter.phase(f"timing {what} on this machine")
        return search.request.timer(Path(passing), provider=TIMED_ON, threads=THREADS, progress=progress)


def _where_judged(search: Search) -> Settings:
    """The settings of training; where this machine would judge, those of a cluster do."""
    settings = search.request.training.settings
    return replace(settings, device=choose_device(settings.device).type) if search.cluster else settings
