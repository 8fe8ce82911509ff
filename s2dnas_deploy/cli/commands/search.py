"""`s2dnas-search`: a trained static network and images become the best multi-stage network that was found."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from s2dnas_deploy.cli.command import ResumableCommand
from s2dnas_deploy.cli.console import Console, print_result, silence_pillow
from s2dnas_deploy.cli.options.network import NETWORK, NetworkOptions
from s2dnas_deploy.cli.options.plan import check_cost, cost_option
from s2dnas_deploy.cli.options.recipe import is_left_open
from s2dnas_deploy.cli.options.sections import (
    ADVANCED,
    INPUT,
    OUTPUT,
    RUNNING,
    gathered,
    option,
    quiet_option,
    section,
)
from s2dnas_deploy.cli.options.training import (
    HOW_TO_TRAIN,
    IMAGES,
    TRAINING,
    TRAINING_IN_DETAIL,
    TrainingOptions,
    out_option,
    recipe_option,
)
from s2dnas_deploy.workshop.training.settings import Settings

if TYPE_CHECKING:
    from s2dnas_deploy.workshop.search.space.space import Kind, PlanKind

_GOAL = (
    option(
        "--plan-kind",
        type=click.Choice(["stages", "in-turn", "widths"]),
        default="stages",
        show_default=True,
        help="stages: of a chain, which read what earlier ones found; in-turn: nested widths, of which the "
        "next is tried where one is not sure; widths: nested ones, from which the caller picks.",
    ),
    option(
        "--stages",
        type=click.IntRange(2, 8),
        default=3,
        show_default="those of --plan auto; 4 widths",
        help="How many stages the network gets, or widths.",
    ),
    option(
        "--target",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.25,
        show_default="a tenth more than --plan auto is expected to cost; of widths, each costs half the next",
        help="Average cost of an image, as a share of the static network's; of widths, that of the thinnest: "
        "the others lie between it and 1, each so many times the one before.",
    ),
    cost_option,
    option(
        "--strategy",
        type=click.Choice(["policy", "evolution", "random"]),
        default="policy",
        show_default=True,
        help="How plans are found.",
    ),
    option(
        "--evaluations",
        type=click.IntRange(1, 1_000_000),
        default=300,
        show_default="60 to 300, by the number of images",
        help="Plans to judge.",
    ),
    option(
        "--finalists",
        type=click.IntRange(0, 1_000_000),
        default=8,
        show_default="4 to 8, by the number of images",
        metavar="N",
        help="Train the N best plans for a while before the winner is chosen; with fewer than 2, none.",
    ),
)
_SPACE = (
    option(
        "--space",
        type=click.Choice(["full", "paper"]),
        default="full",
        show_default=True,
        help="paper: every stage goes through all layers, and each has more of all channels than the one "
        "before; full: also depth exits, and stages that own nothing of some.",
    ),
    option(
        "--align",
        type=click.IntRange(1, 1_000_000),
        default=8,
        show_default=True,
        help="Round plans to this many channels. A group has at most 8 portions, so to more in wide groups.",
    ),
    option(
        "--evaluator",
        type=click.Choice(["shared", "finetune"]),
        default="shared",
        show_default=True,
        help="Judge plans on shared weights, in a second, or train each for a few epochs.",
    ),
    option(
        "--shared-epochs",
        type=click.IntRange(0, 1_000_000),
        show_default="as many as --epochs, or as suit the number of images",
        help="Passes to train the shared weights.",
    ),
    option("--shared-lr", type=float, default=0.05, show_default=True, help="Peak learning rate of that."),
    option(
        "--finetune-epochs",
        type=click.IntRange(1, 1_000_000),
        default=1,
        show_default="100 steps",
        help="Passes for each finalist, or for every plan with --evaluator finetune.",
    ),
)


_OPEN = ("stages", "target", "evaluations", "finalists", "finetune_epochs")
"""What a search settles itself where nothing is said: by the network, by its images, by this machine."""


@click.command(cls=ResumableCommand, name="search")
@section(INPUT, recipe_option, *NETWORK, *IMAGES)
@section("Search", *_GOAL)
@section("Training", *TRAINING)
@section(
    OUTPUT,
    out_option,
    option(
        "--top",
        type=click.IntRange(1, 1000),
        default=1,
        show_default=True,
        metavar="N",
        help="Train the N best plans that differ.",
    ),
    option(
        "--write-probes",
        type=click.Path(file_okay=False, path_type=Path),
        help="Only write into this folder what s2dnas-bench times on another device.",
    ),
)
@section(
    RUNNING,
    *HOW_TO_TRAIN,
    option(
        "--ray",
        metavar="ADDRESS",
        help="Judge plans on the machines of the Ray cluster at HOST:PORT; the same plan is found.",
    ),
    quiet_option,
)
@section(ADVANCED, *_SPACE, *TRAINING_IN_DETAIL)
@gathered("network", NetworkOptions)
@gathered("training", TrainingOptions)
@gathered("settings", Settings)
def search(
    *,
    network: NetworkOptions,
    training: TrainingOptions,
    settings: Settings,
    plan_kind: "PlanKind",
    stages: int,
    target: float,
    cost: str,
    strategy: str,
    evaluations: int,
    finalists: int,
    space: "Kind",
    align: int,
    evaluator: str,
    shared_epochs: int | None,
    shared_lr: float,
    finetune_epochs: int,
    top: int,
    write_probes: Path | None,
    ray: str | None,
    quiet: bool,
) -> None:
    """Find the plan with the best accuracy for its average cost, and train it: MODEL.PT.

    The network must be trained (--weights, or --static-epochs). Beside --out, a folder keeps every plan that
    was tried with its score and cost (plans.jsonl) and a picture (frontier.svg). A search that was stopped,
    even by kill -9, goes on where it was when the same command is given again.

    \b
    s2dnas-search --model net.py:make --input 3x32x32 --weights net.pth --data images/ \\
        --stages 3 --target 0.25 --out model.pt
    s2dnas-search --recipe models/digits.toml --out digits.pt
    """  # noqa: D301 - \b is the character that tells click to keep the lines
    check_cost(cost)
    training.check(network)
    from s2dnas_deploy.cli.text.search import found_in_words
    from s2dnas_deploy.runtime.probing import measure_profile
    from s2dnas_deploy.workshop.search.request import SearchRequest
    from s2dnas_deploy.workshop.search.run import search_model
    from s2dnas_deploy.workshop.training.several import several_processes

    request = SearchRequest(
        training=training.request(network, settings, plan="searched", align=1),
        plan_kind=plan_kind,
        stages=stages,
        target=target,
        space=space,
        align=align,
        strategy=strategy,
        evaluations=evaluations,
        evaluator=evaluator,
        shared_epochs=shared_epochs,
        shared_lr=shared_lr,
        cost=cost,
        write_probes=write_probes,
        finalists=finalists,
        finetune_epochs=finetune_epochs,
        top=top,
        timer=measure_profile,
        left_open=frozenset(filter(is_left_open, _OPEN)),
        ray=ray,
    )
    silence_pillow()
    with Console(quiet=quiet) as console, redirect_stdout(sys.stderr), several_processes() as is_first:
        if not is_first:
            return
        found = search_model(request, console)
    if found:
        print_result("\n\n".join(found_in_words(each) for each in found))
