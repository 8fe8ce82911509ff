"""A whole search: from a static network and images to the best plan that was found, trained.

Place in the flow: what `s2dnas-search` does. Train shared weights ──▶ search with them ──▶ train the
winner in full, as `s2dnas-train` would. Each part goes on where it was when the same command is given
again.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from s2dnas_deploy import plan as plans
from s2dnas_deploy.build.images import ImageSplits
from s2dnas_deploy.build.model_file import Model
from s2dnas_deploy.build.network import as_network
from s2dnas_deploy.build.search import evolution, random_search, reinforce
from s2dnas_deploy.build.search.cluster import Cluster
from s2dnas_deploy.build.search.evaluate import (
    STATISTICS_IMAGES,
    Evaluator,
    FinetuneEvaluator,
    SharedEvaluator,
)
from s2dnas_deploy.build.search.frontier import plot_frontier
from s2dnas_deploy.build.search.judges import set_judges_aside
from s2dnas_deploy.build.search.latency import by_clock
from s2dnas_deploy.build.search.price import Price, by_macs
from s2dnas_deploy.build.search.probes import probe_plans, write_probes
from s2dnas_deploy.build.search.reward import Worth
from s2dnas_deploy.build.search.shared import SharedWeights
from s2dnas_deploy.build.search.space import Choices, Kind, SearchSpace, make_space, uniform_choices
from s2dnas_deploy.build.search.strategy import Judge, Strategy
from s2dnas_deploy.build.search.train_shared import SharedTask, train_shared
from s2dnas_deploy.build.search.trials import Trial, Trials
from s2dnas_deploy.build.training.checkpoint import add_weights
from s2dnas_deploy.build.training.devices import choose_device
from s2dnas_deploy.build.training.loop import Task, accuracy
from s2dnas_deploy.build.training.session import (
    Prepared,
    Request,
    check_writable,
    prepare,
    train_plan,
    with_trained_static,
)
from s2dnas_deploy.bundle.files import write_text_atomically
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.run.profile import Profile, measure_profile

STRATEGIES: Mapping[str, Strategy] = {
    "policy": reinforce.search,
    "evolution": evolution.search,
    "random": random_search.search,
}


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """What a person asks of `s2dnas-search`; `training` is how the winner is trained, and on what."""

    training: Request
    stages: int
    target: float
    space: Kind
    align: int
    strategy: str
    evaluations: int
    evaluator: str
    shared_epochs: int | None
    """None: as many as the winner is trained for."""
    shared_lr: float
    cost: str
    """`macs`, `clock` (this machine's), or the path of a device profile."""
    write_probes: Path | None
    finetune_epochs: int
    top: int
    ray: str | None
    """The address of a Ray cluster whose machines judge plans; None: this one does."""

    def __post_init__(self) -> None:
        if not 0 < self.target < 1:
            raise OptionError(
                f"expected a target between 0 and 1, a share of the static network's cost, got {self.target}"
            )

    @property
    def passes(self) -> int:
        """How often the shared weights see the images."""
        return self.training.settings.epochs if self.shared_epochs is None else self.shared_epochs

    def identity(self, prepared: Prepared) -> dict[str, Any]:
        """What must be the same for the plans tried to be those of one search."""
        elsewhere = ("training", "top", "write_probes", "ray")
        own = {key: value for key, value in asdict(self).items() if key not in elsewhere}
        weights = hashlib.sha256()
        add_weights(weights, prepared.static.weights)
        if self.cost not in ("macs", "clock"):
            own["cost"] = hashlib.sha256(Path(self.cost).read_bytes()).hexdigest()
        return {
            **own,
            "shared_epochs": self.passes,
            "images": prepared.splits.digest,
            "weights": weights.hexdigest(),
            "settings": replace(self.training.settings, epochs=0).digest,
        }


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to: the winner as judged in the search, and the model that it became."""

    trial: Trial
    plan: plans.Plan
    model: Model
    out: Path


def search_model(request: SearchRequest, reporter: Reporter) -> tuple[Found, ...]:
    """Do what is asked; the best plans found, best first, each trained. The first is at `training.out`."""
    with ExitStack() as stack:
        device = choose_device(request.training.settings.device)
        cluster = stack.enter_context(Cluster(request.ray, device)) if request.ray else None
        if cluster is not None:
            reporter.say(f"{request.ray}: {cluster.at_once} plans are judged at a time")
        return _search_model(request, cluster, reporter)


def _search_model(request: SearchRequest, cluster: Cluster | None, reporter: Reporter) -> tuple[Found, ...]:
    training = request.training
    check_writable(training.out)
    prepared = with_trained_static(training, prepare(training, reporter), reporter)
    if not prepared.is_trained:
        raise OptionError("a search starts from a trained network: give --weights, or --static-epochs")
    space = make_space(
        prepared.static.divisible.space, stages=request.stages, kind=request.space, align=request.align
    )
    folder = training.folder
    if training.restart:
        for name in ("plans.jsonl", "shared.checkpoint.pt", "device.json"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "candidate", ignore_errors=True)
    if request.write_probes is not None:
        write_probes(prepared, probe_plans(space), request.write_probes, reporter.phase("writing probes"))
        reporter.say(f"{request.write_probes}: probes for s2dnas-bench")
        return ()
    best = _search(request, prepared, space, cluster, reporter)
    found = []
    for rank, trial in enumerate(best):
        plan = space.plan(trial.choices)
        out = training.out if rank == 0 else training.out.with_name(f"{training.out.stem}-{rank + 1}.pt")
        write_text_atomically(folder / f"plan{'' if rank == 0 else f'-{rank + 1}'}.json", plan.to_json())
        own = replace(training, out=out, plan=f"searched: {request.strategy}, target {request.target:g}")
        found.append(Found(trial=trial, plan=plan, model=train_plan(own, plan, prepared, reporter), out=out))
    (folder / "shared.checkpoint.pt").unlink(missing_ok=True)
    return tuple(found)


def _price(request: SearchRequest, prepared: Prepared, space: SearchSpace, reporter: Reporter) -> Price:
    """What leaving at each exit costs; this machine is timed once, and that is kept for a resumed search."""
    if request.cost == "macs":
        return by_macs(prepared.static)
    if request.cost != "clock":
        return by_clock(prepared.static, Profile.load(Path(request.cost)))
    kept = request.training.folder / "device.json"
    if not kept.exists():
        with tempfile.TemporaryDirectory(prefix="s2dnas-probes-") as folder:
            write_probes(prepared, probe_plans(space), Path(folder), reporter.phase("writing probes"))
            profile = measure_profile(
                Path(folder), provider="cpu", threads=1, progress=reporter.phase("timing this machine")
            )
        write_text_atomically(kept, profile.to_json())
    return by_clock(prepared.static, Profile.load(kept))


def _evaluator(
    request: SearchRequest, prepared: Prepared, space: SearchSpace, reporter: Reporter
) -> SharedEvaluator | FinetuneEvaluator:
    """What judges plans, its shared weights trained if it has any."""
    static, preprocessing = prepared.static, prepared.preprocessing
    splits, judging = set_judges_aside(prepared.splits)
    price = _price(request, prepared, space, reporter)
    settings = replace(request.training.settings, exit_weights=())
    # Where this machine would judge, those of a cluster do.
    there = replace(settings, device=choose_device(settings.device).type) if request.ray else settings
    if request.evaluator == "finetune":
        folder = request.training.folder / "candidate"
        task = Task(
            network=as_network(static),
            teacher=as_network(static).eval(),
            splits=splits,
            preprocessing=preprocessing,
            settings=replace(there, epochs=request.finetune_epochs),
            folder=folder,
        )
        return FinetuneEvaluator(
            space=space,
            judging=judging,
            price=price,
            target=request.target,
            task=task,
            keep=None if request.ray else folder,
        )
    return SharedEvaluator(
        shared=_shared_weights(request, prepared, splits, space, reporter),
        statistics=splits.train.evenly(STATISTICS_IMAGES),
        preprocessing=preprocessing,
        settings=there,
        space=space,
        judging=judging,
        price=price,
        target=request.target,
    )


def _shared_weights(
    request: SearchRequest, prepared: Prepared, splits: ImageSplits, space: SearchSpace, reporter: Reporter
) -> SharedWeights:
    """Trained, or trained further."""
    settings = request.training.settings
    task = SharedTask(
        static=prepared.static,
        space=space,
        splits=splits,
        preprocessing=prepared.preprocessing,
        settings=replace(settings, epochs=request.passes, lr=request.shared_lr, ema=0.99, exit_weights=()),
        folder=request.training.folder,
    )

    def on_resume(step: int) -> None:
        reporter.say(f"resuming the shared weights after step {step}")

    return train_shared(task, reporter.phase("training shared weights"), on_resume)


def _search(
    request: SearchRequest,
    prepared: Prepared,
    space: SearchSpace,
    cluster: Cluster | None,
    reporter: Reporter,
) -> Sequence[Trial]:
    """The best trials, best first; every one is in plans.jsonl, and in a picture."""
    # Made when the first plan has to be judged: a search that is complete needs no shared weights again.
    evaluator: list[Evaluator] = []
    progress = reporter.phase("searching")

    def told() -> None:
        best = trials.best(1)[0].worth.reward
        progress(len(trials.asked), request.evaluations, f"best {100 * best:.2f}%")

    def judge(asked: Sequence[Choices]) -> Iterable[Worth]:
        nonlocal progress
        if not evaluator:
            evaluator.append(_evaluator(request, prepared, space, reporter))
            progress = reporter.phase("searching")
        return map(evaluator[0], asked) if cluster is None else cluster.judge(evaluator[0], asked)

    folder = request.training.folder
    trials = Trials(folder / "plans.jsonl", request.identity(prepared), space, judge, told)
    asker = Judge(trials.evaluate, request.evaluations)
    uniform = uniform_choices(space)
    asker(uniform)
    STRATEGIES[request.strategy](space, asker, np.random.default_rng(request.training.settings.seed))
    winners = trials.best(request.top)
    plot_frontier(
        list(trials.asked.values()),
        winner=winners[0],
        uniform=[trials.asked[choices] for choices in uniform if choices in trials.asked],
        static_accuracy=_static_accuracy(prepared),
        target=request.target,
        path=folder / "frontier.svg",
    )
    return winners


def _static_accuracy(prepared: Prepared) -> float:
    """Of the static network, on images that it has not seen."""
    return accuracy(as_network(prepared.static).eval(), prepared.splits.val, prepared.preprocessing)[0]
