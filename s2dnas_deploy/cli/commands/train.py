"""`s2dnas-train`: a static network and a plan become a trained `model.pt`."""

import sys
from contextlib import redirect_stdout
from dataclasses import replace

import click

from s2dnas_deploy.cli.command import ResumableCommand
from s2dnas_deploy.cli.console import Console, print_result, silence_pillow
from s2dnas_deploy.cli.options.network import NETWORK, NetworkOptions
from s2dnas_deploy.cli.options.plan import align_option, check_cost, check_plan, cost_option, plan_option
from s2dnas_deploy.cli.options.recipe import is_from_recipe
from s2dnas_deploy.cli.options.sections import (
    ADVANCED,
    INPUT,
    OUTPUT,
    RUNNING,
    gathered,
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


@click.command(cls=ResumableCommand)
@section(INPUT, recipe_option, *NETWORK, *IMAGES)
@section("Stages", plan_option(default="auto"), cost_option, align_option)
@section("Training", *TRAINING)
@section(OUTPUT, out_option)
@section(RUNNING, *HOW_TO_TRAIN, quiet_option)
@section(ADVANCED, *TRAINING_IN_DETAIL)
@gathered("network", NetworkOptions)
@gathered("training", TrainingOptions)
@gathered("settings", Settings)
def train(
    *,
    network: NetworkOptions,
    training: TrainingOptions,
    settings: Settings,
    plan: str,
    cost: str,
    align: int,
    quiet: bool,
) -> None:
    """Divide a static CNN into stages by a plan, train it, and write MODEL.PT.

    Before it trains, it tells what can be gained on this machine: how long stages take, and what comes of it.
    A run that was stopped, even by kill -9, goes on where it was when the same command is given again.

    \b
    s2dnas-train --recipe models/digits.toml --out digits.pt
    s2dnas-train --model net.py:make --input 3x32x32 --weights net.pth --data images/ \\
        --out model.pt
    """  # noqa: D301 - \b is the character that tells click to keep the lines
    check_plan(plan, learns=True)
    check_cost(cost)
    training.check(network)
    from s2dnas_deploy.cli.text.training import summary_in_words
    from s2dnas_deploy.runtime.probing import measure_profile
    from s2dnas_deploy.workshop.forecast.planner import Planner
    from s2dnas_deploy.workshop.training.run import train_model
    from s2dnas_deploy.workshop.training.several import several_processes

    if is_from_recipe("exit_weights") and not is_from_recipe("plan"):
        settings = replace(settings, exit_weights=())  # which are meant for the recipe's own plan
    request = training.request(network, settings, plan=plan, align=align)
    silence_pillow()
    # What the user's own code prints is no result.
    with Console(quiet=quiet) as console, redirect_stdout(sys.stderr), several_processes() as is_first:
        if not is_first:
            return
        model = train_model(request, Planner(cost=cost, timer=measure_profile), console)
    print_result(summary_in_words(model, request.out))
