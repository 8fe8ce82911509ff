"""A whole search: from a static network and images to the best plan that was found, trained.

Place in the flow: what `s2dnas-search` does. Prepare ──▶ make the space ──▶ price ──▶ train shared weights
──▶ judge many plans by them ──▶ look closely at a few of the best, trained for a while ──▶ train the
winner in full, as `s2dnas-train` would. Each part goes on where it was when the same command is given again.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from s2dnas_deploy.bundle.device_profile import PROBES, Profile
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.files.atomic import alone_in, check_writable
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.quoting import number_of
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.workshop.data.labelled import ImageSplits
from s2dnas_deploy.workshop.network.divided import divided_by
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.pricing.latency import by_clock
from s2dnas_deploy.workshop.pricing.machine_clock import MachineClock, relative_times
from s2dnas_deploy.workshop.pricing.price import Price, by_macs
from s2dnas_deploy.workshop.pricing.probes import Probed, write_probes
from s2dnas_deploy.workshop.search.begin import begun, settled
from s2dnas_deploy.workshop.search.finalists import by_more_than_chance, choose_finalists
from s2dnas_deploy.workshop.search.frontier import plot_frontier
from s2dnas_deploy.workshop.search.judging.cluster import Cluster
from s2dnas_deploy.workshop.search.judging.evaluators import Evaluator, JudgeMany
from s2dnas_deploy.workshop.search.judging.judging_images import how_many_judge, set_judges_aside
from s2dnas_deploy.workshop.search.judging.reward import Worth, targets_of_widths
from s2dnas_deploy.workshop.search.judging.shared_weights import SharedWeights
from s2dnas_deploy.workshop.search.judging.train_shared import SHARED_CHECKPOINT, SharedTask, train_shared
from s2dnas_deploy.workshop.search.make_evaluators import (
    Terms,
    by_shared_weights,
    by_training,
    by_training_on,
)
from s2dnas_deploy.workshop.search.request import SearchRequest
from s2dnas_deploy.workshop.search.space.by_hand import choices_of, smallest, written_by_hand
from s2dnas_deploy.workshop.search.space.candidate import Candidate, candidate_of
from s2dnas_deploy.workshop.search.space.make_space import make_space
from s2dnas_deploy.workshop.search.space.space import Choices, SearchSpace
from s2dnas_deploy.workshop.search.space.spanning import probe_plans
from s2dnas_deploy.workshop.search.strategies import STRATEGIES, Judge
from s2dnas_deploy.workshop.search.targets import check_one_fits, within_reach, within_target
from s2dnas_deploy.workshop.search.trials import FINALISTS, PLANS, Trial, Trials
from s2dnas_deploy.workshop.search.winners import Found, check_not_anothers, train_winner
from s2dnas_deploy.workshop.training.batches import Waited
from s2dnas_deploy.workshop.training.course import epochs_for
from s2dnas_deploy.workshop.training.devices import choose_device
from s2dnas_deploy.workshop.training.first_words import waiting_words
from s2dnas_deploy.workshop.training.prepare import (
    judge_of_static,
    prepare,
    ranked,
    suited,
    with_trained_static,
)
from s2dnas_deploy.workshop.training.request import Prepared

DEVICE, TIMED = "device.json", "finalists.device.json"  # what this machine's clock said
_CANDIDATE = "candidate"  # where training of one to be judged goes on


def search_model(request: SearchRequest, reporter: Reporter) -> tuple[Found, ...]:
    """Do what is asked; the best plans found, best first, each trained. The first is at `training.out`.

    None are, if only probes were to be written.
    """
    training = request.training
    check_writable(training.out)
    if request.write_probes is not None:
        check_writable(request.write_probes / PROBES, "--write-probes")
    check_not_anothers(request)
    with alone_in(training.folder):
        with _cluster(request, reporter) as cluster:  # it is let go before a winner is trained
            prepared = prepare(training, reporter)
            training = suited(training, prepared)
            prepared = with_trained_static(training, prepared, reporter)
            if not prepared.is_trained:
                raise OptionError(
                    "a search starts from a trained network: give --weights, or --static-epochs"
                )
            request = replace(request, training=training)
            prepared = ranked(training, prepared, reporter)
            judge_static = judge_of_static(prepared, reporter)
            if (folder := request.write_probes) is not None:
                request = settled(request, None, len(prepared.splits.train))
                written = reporter.phase("writing probes", "probes")
                plans = probe_plans(_space(request, prepared))
                write_probes(Probed.of(prepared), plans, folder, written)
                reporter.say(f"{folder}: probes for s2dnas-bench")
                return ()
            if training.restart:
                _forget(training.folder)
            request, known = begun(request, prepared, judge_static, reporter)
            reporter.say(_to_come(request, len(prepared.splits.train)))
            space = _space(request, prepared, known)
            if request.plan_kind == "widths":
                price = _price(request, prepared.static, space, _clock(request, prepared, reporter))
                thinnest = divided_by(prepared.static, space.plan(smallest(space)))
                request = within_reach(request, price(thinnest)[0], reporter)
            first = None if known is None else choices_of(space, known)
            best = _best(
                request,
                prepared,
                space,
                judge_static()["val"],
                first=first,
                cluster=cluster,
                reporter=reporter,
            )
        train = partial(train_winner, request, prepared, judge_static, reporter)
        return tuple(train(trial, rank=rank) for rank, trial in enumerate(best))


def _clock(request: SearchRequest, prepared: Prepared, reporter: Reporter) -> MachineClock:
    """What this machine takes, kept in the run's folder."""
    folder = request.training.folder
    return MachineClock(probed=Probed.of(prepared), folder=folder, timer=request.timer, reporter=reporter)


def _space(request: SearchRequest, prepared: Prepared, known: Plan | None = None) -> SearchSpace:
    return make_space(
        prepared.static.divisible.space,
        stages=request.stages,
        kind=request.space,
        align=request.align,
        plan_kind=request.plan_kind,
        known=known,
    )


def _cluster(request: SearchRequest, reporter: Reporter) -> Cluster | nullcontext[None]:
    """Where plans are judged; None: on this machine."""
    device = choose_device(request.training.settings.device)
    if not request.ray:
        return nullcontext()
    cluster = Cluster(request.ray, device)
    reporter.say(f"{request.ray}: plans judged at a time: {cluster.at_once}")
    return cluster


def _to_come(request: SearchRequest, images: int) -> str:
    """The phases, for each only tells how long it takes itself."""
    shared, each = request.evaluator == "shared", f"({number_of(request.finetune_epochs, 'epoch')} each)"
    parts = [f"training shared weights ({number_of(request.passes(images), 'epoch')})"] if shared else []
    if request.cost == "clock":
        parts.append("timing stages")
    judging = "judging" if shared else "training and judging"
    parts.append(f"{judging} {number_of(request.evaluations, 'plan')}{'' if shared else f' {each}'}")
    if request.looks_closely:
        parts.append(f"training {number_of(request.looked_at, 'finalist')} {each}")
    asked = request.training.settings.epochs
    most, epochs = ("at most ", epochs_for(images)) if asked is None else ("", asked)
    last = f"({most}{number_of(epochs, 'epoch')})"
    parts.append(f"training {'the winner' if request.top == 1 else 'the best'} {last}")
    return f"to come, unless it is done already: {', '.join(parts)}"


def _best(
    request: SearchRequest,
    prepared: Prepared,
    space: SearchSpace,
    static_accuracy: float,
    *,
    first: Choices | None,
    cluster: Cluster | None,
    reporter: Reporter,
) -> Sequence[Trial]:
    """The best plans, best first; every one that was tried is in plans.jsonl, and in a picture."""
    folder, static, identity = request.training.folder, prepared.static, request.identity(prepared)
    of_many, of_few = _evaluators(
        request, prepared, space, static_accuracy=static_accuracy, cluster=cluster, reporter=reporter
    )
    trials_in = partial(_trials, space=space, cluster=cluster, reporter=reporter)
    trials = trials_in(folder / PLANS, identity, of_many, phase=("searching", request.evaluations))
    uniform = _judge_many(request, static, space, trials, reporter, first=first)
    check_one_fits(trials, request)
    finalists: list[Trial] = []
    if request.looks_closely:
        best_uniform = max(uniform, key=lambda trial: trial.worth.rank, default=None)
        always = [trial for trial in (trials.asked.get(first or ()), best_uniform) if trial is not None]
        named = choose_finalists(trials.best(len(trials.asked)), always, request.looked_at)
        whole, phase = request.identity_of_finalists(identity), ("training finalists", len(named))
        closely = trials_in(folder / FINALISTS, whole, partial(of_few, named), phase=phase)
        closely.evaluate([candidate_of(static, trial.choices, trial.plan) for trial in named])
        judges = how_many_judge(len(prepared.splits.train))
        finalists = by_more_than_chance(closely.best(len(named)), closely.asked.get(first or ()), judges)
    best = within_target(finalists or trials.best(request.top), request, reporter)
    plot_frontier(
        list(trials.asked.values()),
        finalists=finalists,
        winner=best[0],
        uniform=uniform,
        static_accuracy=static_accuracy,
        target=request.target,
        path=folder / "frontier.svg",
    )
    return best


def _evaluators(
    request: SearchRequest,
    prepared: Prepared,
    space: SearchSpace,
    *,
    static_accuracy: float,
    cluster: Cluster | None,
    reporter: Reporter,
) -> tuple[Callable[[], Evaluator], Callable[[Sequence[Trial]], Evaluator]]:
    """What judges many plans, and what judges a few: steps that are taken when a plan has to be judged so.

    They time this machine, and train the shared weights, once for both. A complete search takes neither.
    """
    folder, static = request.training.folder, prepared.static
    clock = _clock(request, prepared, reporter)
    keep = None if cluster else folder / _CANDIDATE
    on_a_cluster = cluster is not None
    terms = cache(partial(_terms, request, prepared, static_accuracy, on_a_cluster=on_a_cluster))
    weights = cache(lambda: _trained_shared_weights(request, prepared, space, terms().splits, reporter))

    def of_many() -> Evaluator:
        price = _price(request, static, space, clock)
        if request.evaluator == "finetune":
            return by_training(terms(), price, keep)
        return by_shared_weights(terms(), price, weights())

    def of_few(finalists: Sequence[Trial]) -> Evaluator:
        shared = weights()
        costs = {trial.plan.digest: trial.worth.exit_cost for trial in finalists}
        if request.cost == "clock":
            # The model that prices plans errs by a few percent, and the best of hundreds is easily one
            # that it prices too low.
            costs = _timed(finalists, clock)
        return by_training_on(terms(), costs, keep, shared)

    return of_many, of_few


def _timed(finalists: Sequence[Trial], clock: MachineClock) -> dict[str, tuple[float, ...]]:
    """What each plan's answers take, by the clock."""
    plans = [trial.plan for trial in finalists]
    times = clock.times(plans, TIMED, called="finalists")
    return {plan.digest: relative_times(plan, times[plan.digest]) for plan in plans}


def _terms(
    request: SearchRequest, prepared: Prepared, static_accuracy: float, *, on_a_cluster: bool
) -> Terms:
    """What plans are judged by; a machine of a cluster does as this one would."""
    splits, judging = set_judges_aside(prepared.splits)
    settings = replace(request.training.settings, epochs=request.finetune_epochs)
    if on_a_cluster:
        settings = replace(settings, device=choose_device(settings.device).type)
    return Terms(
        prepared=prepared,
        splits=splits,
        judging=judging,
        settings=settings,
        target=request.target,
        static_accuracy=static_accuracy,
    )


def _price(request: SearchRequest, static: StaticNetwork, space: SearchSpace, clock: MachineClock) -> Price:
    """What it costs up to each exit; this machine is timed once, and that is kept for a resumed search."""
    if request.cost == "macs":
        return by_macs(static)
    own = request.cost == "clock"
    return by_clock(
        static, clock.profile(probe_plans(space), DEVICE) if own else Profile.load(Path(request.cost))
    )


def _trained_shared_weights(
    request: SearchRequest, prepared: Prepared, space: SearchSpace, splits: ImageSplits, reporter: Reporter
) -> SharedWeights:
    """The weights that all plans share, trained; training goes on where it was."""
    task = SharedTask(
        static=prepared.static,
        space=space,
        splits=splits,
        preprocessing=prepared.preprocessing,
        settings=request.shared_settings(len(prepared.splits.train)),
        folder=request.training.folder,
    )

    def on_resume(step: int) -> None:
        reporter.say(f"resuming the shared weights after step {step}")

    def on_waited(waited: Waited) -> None:
        reporter.say(waiting_words(waited))

    return train_shared(task, reporter.phase("training shared weights", "steps"), on_resume, on_waited)


def _judge_many(
    request: SearchRequest,
    static: StaticNetwork,
    space: SearchSpace,
    trials: Trials,
    reporter: Reporter,
    *,
    first: Choices | None,
) -> list[Trial]:
    """Let the strategy ask until its budget is spent; the uniform plans that were tried.

    The plan that is known comes first, then these.
    """

    def divided(choices: Choices) -> Candidate:
        return candidate_of(static, choices, space.plan(choices))

    judge = Judge(
        trials.evaluate, request.evaluations, candidate_of=divided, effect=lambda candidate: candidate.effect
    )
    shares = targets_of_widths(request.target, space.stages) if space.plan_kind == "widths" else None
    by_hand = written_by_hand(space, shares)
    judge([*([] if first is None else [first]), *by_hand])
    STRATEGIES[request.strategy](space, judge, np.random.default_rng(request.training.settings.seed))
    if judge.left:
        reporter.say(
            f"{number_of(len(trials.asked), 'plan')} judged: the strategy has no other ones to propose"
        )
    return [trials.asked[choices] for choices in by_hand if choices in trials.asked]


def _trials(
    path: Path,
    identity: Mapping[str, Any],
    make: Callable[[], Evaluator],
    *,
    phase: tuple[str, int],
    space: SearchSpace,
    cluster: Cluster | None,
    reporter: Reporter,
) -> Trials:
    """Trials that are judged by what `make` makes, which it does when the first plan has to be judged."""
    judges: list[JudgeMany] = []
    progress = reporter.phase(phase[0], "plans")

    def judge(asked: Sequence[Candidate]) -> Iterable[Worth]:
        nonlocal progress
        if not judges:
            evaluator = make()
            judges.append(cluster.judge_by(evaluator) if cluster else partial(map, evaluator))
            progress = reporter.phase(phase[0], "plans")
        return judges[0](asked)

    def told() -> None:
        best = trials.best(1)[0].worth
        note = f"best {100 * best.accuracy:.2f}%" if best.fits else "none within the target yet"
        progress(len(trials.asked), phase[1], note)

    trials = Trials(path, identity, space, judge, told)
    if trials.set_aside is not None:
        reporter.say(f"{trials.path} was of another search: it is kept as {trials.set_aside.name}")
    return trials


def _forget(folder: Path) -> None:
    """Discard what an earlier search has done."""
    for kept in (*folder.glob("plans*.jsonl"), *folder.glob("finalists*.jsonl")):
        kept.unlink()
    for name in (SHARED_CHECKPOINT, DEVICE, TIMED):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / _CANDIDATE, ignore_errors=True)
