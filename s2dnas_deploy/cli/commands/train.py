"""`s2dnas-train`: a static network and a plan become a trained `model.pt`."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s2dnas_deploy.cli.command import ResumableCommand
from s2dnas_deploy.cli.console import Console, print_result, silence_pillow
from s2dnas_deploy.cli.options.network import network_options
from s2dnas_deploy.cli.options.recipe import apply_recipe, is_from_recipe
from s2dnas_deploy.cli.options.training import training_options, training_request

if TYPE_CHECKING:
    from s2dnas_deploy.build.model_file import Model


@click.command(cls=ResumableCommand)
@click.option(
    "--recipe",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    callback=apply_recipe,
    help="A TOML file of these options; the command line overrides it.",
)
@network_options
@click.option(
    "--plan",
    required=True,
    help="A JSON file, static, uniform:0.25,0.25,0.5, depth:NODE,NODE or random:STAGES.",
)
@click.option(
    "--align",
    type=click.IntRange(1, 1_000_000),
    default=1,
    show_default=True,
    help="Round plans to this many channels.",
)
@training_options
@click.option("--quiet", is_flag=True, help="No messages and no progress, only the result.")
def train(**options: Any) -> None:
    """Divide a static CNN into stages by a plan, train it, and write MODEL.PT.

    A run that was stopped, even by kill -9, goes on where it was when the same command is given again.

    \b
    s2dnas-train --recipe models/digits.toml --out digits.pt
    s2dnas-train --model net.py:make --input 3x32x32 --weights net.pth --data images/ \\
        --plan uniform:0.25,0.25,0.5 --epochs 10 --out model.pt
    """  # noqa: D301 - \b is the character that tells click to keep the lines
    from s2dnas_deploy.build.training.session import train_model

    request = training_request({**options, "exit_weights": _exit_weights(options)})
    silence_pillow()
    # What the user's own code prints is no result.
    with Console(quiet=options["quiet"]) as console, redirect_stdout(sys.stderr):
        model = train_model(request, console)
    print_result(summary_of(model, request.out))


def _exit_weights(options: dict[str, Any]) -> tuple[float, ...]:
    """Those asked for; a recipe's are meant for its own plan, not for one that the command line names."""
    if is_from_recipe("exit_weights") and not is_from_recipe("plan"):
        return ()
    weights: tuple[float, ...] = options["exit_weights"]
    return weights


def summary_of(model: "Model", out: Path) -> str:
    """What was reached, an exit a line."""
    about = model.provenance
    test = about.get("test_accuracy") or [None] * model.network.stages
    lines = [f"{'':14}{'val':>8}{'test':>8}"]
    before = about.get("static_accuracy")
    if before is not None:
        lines.append(f"{'static':14}{_percent(before['val'])}{_percent(before.get('test'))}")
    for stage, (val, tested) in enumerate(zip(about["val_accuracy"], test, strict=True)):
        lines.append(f"{f'exit {stage}':14}{_percent(val)}{_percent(tested)}")
    return "\n".join([*lines, f"model: {out}"])


def _percent(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{100 * value:7.2f}%"
