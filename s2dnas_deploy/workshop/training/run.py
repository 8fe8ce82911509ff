"""A whole training: from a static network and images to `model.pt`.

Place in the flow: what `s2dnas-train` does. Reads the network, the weights and the images, trains the static
network first if asked, divides it by the plan, trains that, judges it once on the test images and saves it.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from s2dnas_deploy.files.atomic import alone_in, check_writable
from s2dnas_deploy.plan import AUTO, Plan
from s2dnas_deploy.plan.text import blocks_share, paths_count
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.workshop.network.blocks import gated
from s2dnas_deploy.workshop.network.gated import GatedNetwork
from s2dnas_deploy.workshop.network.model_file import Model
from s2dnas_deploy.workshop.network.nested import planned
from s2dnas_deploy.workshop.network.network import as_network
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.reading.static_source import read_plan
from s2dnas_deploy.workshop.training.first_words import blocks_words
from s2dnas_deploy.workshop.training.kept import refuse_anothers, train_and_save
from s2dnas_deploy.workshop.training.loop import Task
from s2dnas_deploy.workshop.training.paths import paths_of
from s2dnas_deploy.workshop.training.prepare import (
    JudgeStatic,
    beginner_for,
    judge_of_static,
    keep_static,
    prepare,
    ranked,
    ranked_blocks,
    settings_for,
    suited,
    tuning_of,
    with_trained_static,
)
from s2dnas_deploy.workshop.training.request import Prepared, Request
from s2dnas_deploy.workshop.training.saved import saved_on


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
    share, count = blocks_share(request.plan), paths_count(request.plan)

    def plan_for(static: StaticNetwork) -> Plan | None:
        if request.plan == AUTO or share is not None or count is not None:
            return None
        return read_plan(request.plan, static, align=request.align, seed=request.settings.seed)

    prepared = prepare(request, reporter, check=plan_for)
    request = suited(request, prepared)
    given = plan_for(prepared.static)
    refuse_anothers(request, given, prepared)
    if not prepared.is_trained and not request.trains_static(prepared) and request.plan != "static":
        reporter.say(
            "no --weights: the network is taken as untrained, and what it becomes has no teacher. Weights "
            "that the factory loads unasked count as none: save its state_dict and give the file, or let "
            "--model-args say pretrained or weights"
        )
    if share is not None:
        return train_blocks(request, share, prepared, reporter)
    if count is not None:
        return train_paths(request, count, prepared, reporter)
    with alone_in(request.folder):
        prepared = with_trained_static(request, prepared, reporter)
        judge = judge_of_static(prepared, reporter)
        if given is None or given.stages > 1:
            prepared = ranked(request, prepared, reporter)
        plan = decide(request, prepared, given, judge, reporter)
        return train_plan(request, plan, prepared, judge, reporter)


def train_plan(
    request: Request,
    plan: Plan,
    prepared: Prepared,
    judge_static: JudgeStatic,
    reporter: Reporter,
) -> Model:
    """Divide the network by a plan, train it and save it."""
    static, trained = prepared.static, prepared.is_trained
    is_taught = trained and plan.stages > 1
    settings = settings_for(request, is_taught=is_taught)
    task = Task(
        network=beginner_for(request, prepared).beginning(static, plan, reporter)
        if is_taught
        else planned(static, plan),
        teacher=as_network(static).eval() if is_taught else None,
        splits=prepared.splits,
        preprocessing=prepared.preprocessing,
        settings=settings,
        folder=request.folder,
        tuning=tuning_of(request, prepared, settings.lr) if plan.stages == 1 else None,
    )
    judge = _judging(request, prepared, judge_static, keeps=plan.stages > 1)
    return train_and_save(task, request, request.out, judge, reporter)


def _judging(
    request: Request, prepared: Prepared, judge_static: JudgeStatic, *, keeps: bool = True
) -> Callable[[], Mapping[str, float] | None]:
    """Tells how good the static network is, if it is trained, and keeps it to compare with."""

    def judge() -> Mapping[str, float] | None:
        if keeps and request.source.is_trained() and prepared.new_classifier is None:
            keep_static(request, prepared)
        return judge_static() if prepared.is_trained else None

    return judge


def train_blocks(request: Request, share: float, prepared: Prepared, reporter: Reporter) -> Model:
    """Put gates before the residual blocks, and let them learn to close until a share of all MACs is left."""
    with alone_in(request.folder):
        prepared = with_trained_static(request, prepared, reporter)
        static = ranked(request, prepared, reporter).static
        network = GatedNetwork(gated(static, ranked_blocks(request, prepared, reporter)), learns=True)
        task = Task(
            network=network,
            teacher=as_network(prepared.static).eval() if prepared.is_trained else None,
            splits=prepared.splits,
            preprocessing=prepared.preprocessing,
            settings=settings_for(request, is_taught=prepared.is_trained),
            folder=request.folder,
            share=share,
        )
        judge = _judging(request, prepared, judge_of_static(prepared, reporter))
        model = train_and_save(task, request, request.out, judge, reporter)
        if model.network is network:  # else it was there already, and this one has learnt nothing
            reporter.say(blocks_words(saved_on(network, prepared.splits.val, prepared.preprocessing)))
        return model


def train_paths(request: Request, count: int, prepared: Prepared, reporter: Reporter) -> Model:
    """Make whole paths of what a network's gates decide, and let one gate pick from them."""
    with alone_in(request.folder):
        learned_from = (prepared.splits.train, prepared.preprocessing)
        plain, plan = paths_of(prepared.static, *learned_from, count, align=request.align)
        task = Task(
            network=planned(plain, plan),
            teacher=as_network(prepared.static).eval(),
            splits=prepared.splits,
            preprocessing=prepared.preprocessing,
            settings=request.settings,
            folder=request.folder,
        )
        judge = _judging(request, prepared, judge_of_static(prepared, reporter))
        return train_and_save(task, request, request.out, judge, reporter)
