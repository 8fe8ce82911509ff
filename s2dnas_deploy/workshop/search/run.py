"""A whole search: from a static network and images to the best plan that was found, trained.

Place in the flow: what `s2dnas-search` does. Judge many plans quickly ──▶ train a few of the best for a while
and judge those again ──▶ train the winner in full, as `s2dnas-train` would. Each part goes on where it was
when the same command is given again.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from s2dnas_deploy import plan as plans
from s2dnas_deploy.bundle.device_profile import PROBES
from s2dnas_deploy.errors import CheckpointError, OptionError
from s2dnas_deploy.files.atomic import alone_in, check_writable, free_name, write_text_atomically
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.workshop.network.model_file import Model
from s2dnas_deploy.workshop.search.evaluators import (
    DEVICE,
    TIMED,
    Search,
    finalists_evaluator,
    finetune_evaluator,
    shared_evaluator,
)
from s2dnas_deploy.workshop.search.finalists import choose_finalists
from s2dnas_deploy.workshop.search.frontier import plot_frontier
from s2dnas_deploy.workshop.search.judging.cluster import Cluster
from s2dnas_deploy.workshop.search.judging.evaluators import Evaluator, JudgeMany
from s2dnas_deploy.workshop.search.judging.reward import Worth
from s2dnas_deploy.workshop.search.judging.train_shared import SHARED_CHECKPOINT
from s2dnas_deploy.workshop.search.pricing.probes import probe_plans, write_probes
from s2dnas_deploy.workshop.search.request import SearchRequest
from s2dnas_deploy.workshop.search.space.by_hand import all_uniform_choices
from s2dnas_deploy.workshop.search.space.effect import effect_of
from s2dnas_deploy.workshop.search.space.make_space import make_space
from s2dnas_deploy.workshop.search.space.space import Choices
from s2dnas_deploy.workshop.search.strategies import evolution, policy, random_search
from s2dnas_deploy.workshop.search.strategies.strategy import Judge, Strategy
from s2dnas_deploy.workshop.search.trials import Trial, Trials
from s2dnas_deploy.workshop.training.devices import choose_device
from s2dnas_deploy.workshop.training.first_words import static_words
from s2dnas_deploy.workshop.training.run import (
    Request,
    prepare,
    train_plan,
    with_trained_static,
)

STRATEGIES: Mapping[str, Strategy] = {
    "policy": policy.search,
    "evolution": evolution.search,
    "random": random_search.search,
}
_PLANS, _FINALISTS = "plans.jsonl", "finalists.jsonl"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to: the winner as judged in the search, and the model that it became."""

    trial: Trial
    plan: plans.Plan
    model: Model
    out: Path


def search_model(request: SearchRequest, reporter: Reporter) -> tuple[Found, ...]:
    """Do what is asked; the best plans found, best first, each trained. The first is at `training.out`."""
    check_writable(request.training.out)
    if request.write_probes is not None:
        check_writable(request.write_probes / PROBES, "--write-probes")
    _check_not_anothers(request)
    with alone_in(request.training.folder):
        search, best = _searched(request, reporter)
        return tuple(_trained(search, trial, rank) for rank, trial in enumerate(best))


def _searched(request: SearchRequest, reporter: Reporter) -> tuple[Search, Sequence[Trial]]:
    """The best plans, none if only probes were to be written; a cluster is let go before one is trained."""
    training = request.training
    with ExitStack() as stack:
        device = choose_device(training.settings.device)
        cluster = stack.enter_context(Cluster(request.ray, device)) if request.ray else None
        if cluster is not None:
            reporter.say(f"{request.ray}: {cluster.at_once} plans are judged at a time")
        prepared = with_trained_static(training, prepare(training, reporter), reporter)
        if not prepared.is_trained:
            raise OptionError("a search starts from a trained network: give --weights, or --static-epochs")
        space = make_space(
            prepared.static.divisible.space, stages=request.stages, kind=request.space, align=request.align
        )
        search = Search(request=request, prepared=prepared, space=space, cluster=cluster, reporter=reporter)
        if request.write_probes is not None:
            written = reporter.phase("writing probes")
            write_probes(prepared, probe_plans(space), request.write_probes, written)
            reporter.say(f"{request.write_probes}: probes for s2dnas-bench")
            return search, ()
        reporter.say(static_words(search.static_accuracy, prepared.splits))
        if training.restart:
            _forget(training.folder)
        reporter.say(_to_come(request))
        return search, _best(search)


def _to_come(request: SearchRequest) -> str:
    """The phases, for each only tells how long it takes itself."""
    shared, each = request.evaluator == "shared", f"({request.finetune_epochs} epochs each)"
    parts = [f"shared weights are trained ({request.passes} epochs)"] if shared else []
    if request.cost == "clock":
        parts.append("stages are timed")
    parts.append(f"{request.evaluations} plans are " + ("judged" if shared else f"trained {each} and judged"))
    if request.looks_closely:
        parts.append(f"{request.looked_at} finalists are trained {each}")
    last = f"({request.training.settings.epochs} epochs)"
    parts.append(f"the winner is trained {last}" if request.top == 1 else f"the best are trained {last}")
    return f"to come, unless it is done already: {', '.join(parts)}"


def _best(search: Search) -> Sequence[Trial]:
    """The best plans, best first; every one that was tried is in plans.jsonl, and in a picture."""
    request, space, static = search.request, search.space, search.prepared.static
    make = shared_evaluator if request.evaluator == "shared" else finetune_evaluator
    identity = request.identity(search.prepared)
    trials = _trials(search, make, _PLANS, identity, ("searching", request.evaluations))
    judge = Judge(
        trials.evaluate, request.evaluations, lambda choices: effect_of(static, space.plan(choices))
    )
    by_hand = all_uniform_choices(space)
    judge(by_hand)
    STRATEGIES[request.strategy](space, judge, np.random.default_rng(request.training.settings.seed))
    if judge.left:
        search.reporter.say(f"{len(trials.asked)} plans judged: the strategy has no other ones to propose")
    _check_one_fits(trials, request)
    uniform = [trials.asked[choices] for choices in by_hand if choices in trials.asked]
    finalists: list[Trial] = []
    if request.looks_closely:
        named = choose_finalists(trials.best(len(trials.asked)), uniform, request.looked_at)
        finalists = _looked_at_closely(search, identity, named)
    tried = finalists or trials.best(request.top)
    best = [trial for trial in tried if trial.worth.fits][: request.top]
    if not best:
        least = min(trial.worth.cost for trial in tried)
        raise OptionError(
            f"each of {len(tried)} finalists takes more than --target {request.target:g} once it is timed "
            f"itself, the least {least:.3f} of the static network; ask for a target above that, or for more "
            "--finalists (what is done so far is kept)"
        )
    if len(best) < request.top:
        search.reporter.say(f"--top {request.top}: only {len(best)} that differ and keep to the target")
    plot_frontier(
        list(trials.asked.values()),
        finalists=finalists,
        winner=best[0],
        uniform=uniform,
        static_accuracy=search.static_accuracy["val"],
        target=request.target,
        path=search.folder / "frontier.svg",
    )
    return best


def _looked_at_closely(search: Search, identity: Mapping[str, Any], named: Sequence[Trial]) -> list[Trial]:
    """The same plans, trained on for a while, and judged by that; best first."""
    whole = {**identity, "finetune_epochs": search.request.finetune_epochs}
    if search.request.cost == "clock":
        whole["prices"] = "each finalist's own"
    phase = ("training finalists", len(named))
    finalists = [search.space.plan(trial.choices) for trial in named]
    make = partial(finalists_evaluator, finalists=finalists)
    trials = _trials(search, make, _FINALISTS, whole, phase)
    trials.evaluate([trial.choices for trial in named])
    return trials.best(len(named))


def _trials(
    search: Search,
    make: Callable[[Search], Evaluator],
    name: str,
    identity: Mapping[str, Any],
    phase: tuple[str, int],
) -> Trials:
    """Trials that are judged by what `make` makes, which it does when the first plan has to be judged.

    So a search that is complete needs no shared weights again.
    """
    judges: list[JudgeMany] = []
    progress = search.reporter.phase(phase[0])

    def judge(asked: Sequence[Choices]) -> Iterable[Worth]:
        nonlocal progress
        if not judges:
            evaluator = make(search)
            judges.append(search.cluster.judge_by(evaluator) if search.cluster else partial(map, evaluator))
            progress = search.reporter.phase(phase[0])
        return judges[0](asked)

    def told() -> None:
        best = trials.best(1)[0].worth
        note = f"best {100 * best.accuracy:.2f}%" if best.fits else "none within the target yet"
        progress(len(trials.asked), phase[1], note)

    trials = Trials(search.folder / name, identity, search.space, judge, told)
    if trials.set_aside is not None:
        search.reporter.say(f"{trials.path} was of another search: it is kept as {trials.set_aside.name}")
    return trials


def _check_one_fits(trials: Trials, request: SearchRequest) -> None:
    """A search that found nothing within the target says so, and what would be."""
    if trials.best(1)[0].worth.fits:
        return
    least = min(trial.worth.exit_cost[0] for trial in trials.asked.values())
    raise OptionError(
        f"none of {len(trials.asked)} plans keeps to --target {request.target:g}: the cheapest first exit "
        f"costs {least:.3f} of the static network by --cost {request.cost}; ask for a target above that, or "
        "for more --evaluations (what is done so far is kept)"
    )


def _trained(search: Search, trial: Trial, rank: int) -> Found:
    """A plan, trained in full; the first is at `--out`, others beside it."""
    training, request = search.request.training, search.request
    plan, number = search.space.plan(trial.choices), f"-{rank + 1}" if rank else ""
    out, kept = _out(training, rank), training.folder / f"plan{number}.json"
    own = replace(training, out=out, plan=f"searched: {request.strategy}, target {request.target:g}")
    if kept.exists() and kept.read_bytes() != plan.to_json().encode():
        _make_room(own, search.reporter)
    write_text_atomically(kept, plan.to_json())
    model = train_plan(own, plan, search.prepared, search.reporter, search.static_accuracy)
    return Found(trial=trial, plan=plan, model=model, out=out)


def _make_room(training: Request, reporter: Reporter) -> None:
    """What was trained of a plan that has been beaten since is kept if it is finished."""
    checkpoint, out = training.folder / "checkpoint.pt", training.out
    if checkpoint.exists():
        reporter.say(f"{checkpoint} is of a plan that has been beaten since: it is discarded")
        checkpoint.unlink()
    if out.exists() and not training.restart:
        kept = out.rename(free_name(out.with_name(f"{out.stem}.beaten{out.suffix}")))
        reporter.say(f"{out} is of a plan that has been beaten since: it is kept as {kept.name}")


def _out(training: Request, rank: int) -> Path:
    """Where a plan's model goes, by the plan's rank."""
    return training.out.with_name(f"{training.out.stem}-{rank + 1}.pt") if rank else training.out


def _check_not_anothers(request: SearchRequest) -> None:
    """Before the work: a model or a checkpoint that no search has left here would be in its way after it."""
    training = request.training
    if training.restart or (training.folder / _PLANS).exists():
        return
    for path in (*(_out(training, rank) for rank in range(request.top)), training.folder / "checkpoint.pt"):
        if path.exists():
            raise CheckpointError(
                f"{path} is there already, and not from a search: move it away, give another --out, or "
                "--restart to replace it"
            )


def _forget(folder: Path) -> None:
    """Discard what an earlier search has done."""
    for kept in (*folder.glob("plans*.jsonl"), *folder.glob("finalists*.jsonl")):
        kept.unlink()
    for name in (SHARED_CHECKPOINT, DEVICE, TIMED):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "candidate", ignore_errors=True)
