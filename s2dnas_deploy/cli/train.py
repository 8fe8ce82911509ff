"""`s2dnas-train`: a static network and a plan become a trained `model.pt`."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s2dnas_deploy.cli.command import Command, Numbers
from s2dnas_deploy.cli.network_options import network_options
from s2dnas_deploy.cli.recipe import apply_recipe

if TYPE_CHECKING:
    from s2dnas_deploy.build.model_file import Model


@click.command(cls=Command)
@click.option(
    "--recipe",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    callback=apply_recipe,
    help="A TOML file of these options; the command line overrides it.",
)
@network_options
@click.option(
    "--data", help="Folder of classes, CIFAR python folder, .npz archive, or `digits`.", required=True
)
@click.option(
    "--val-fraction", type=float, default=0.1, show_default=True, help="Split off if there is no val/."
)
@click.option("--resize", type=click.Choice(["crop", "stretch"]), help="Fit images of another size.")
@click.option("--limit", type=click.IntRange(1), help="Use at most so many images per part, for a quick try.")
@click.option(
    "--normalize",
    help="imagenet (if not given), cifar10, cifar100, data (measured), unit, none, or M,M,M/S,S,S.",
)
@click.option(
    "--plan",
    required=True,
    help="A JSON file, static, uniform:0.25,0.25,0.5, depth:NODE,NODE or random:STAGES.",
)
@click.option(
    "--align", type=click.IntRange(1), default=1, show_default=True, help="Round plans to this many channels."
)
@click.option(
    "--static-epochs",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Without --weights: first train the static network for so long.",
)
@click.option("--static-lr", type=float, help="Peak learning rate of that; as --lr if not given.")
@click.option(
    "--epochs",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="Passes over the images; 0 only carries weights over.",
)
@click.option("--batch-size", type=int, default=128, show_default=True)
@click.option("--lr", type=float, default=0.1, show_default=True, help="Peak learning rate.")
@click.option("--weight-decay", type=float, default=5e-4, show_default=True)
@click.option(
    "--warmup", type=float, default=0.1, show_default=True, help="Part of the run in which lr rises."
)
@click.option("--label-smoothing", type=float, default=0.0, show_default=True)
@click.option(
    "--distill", type=float, default=0.9, show_default=True, help="Weight of the static network's answers."
)
@click.option(
    "--self-distill", type=float, default=0.0, show_default=True, help="Share of the last exit in that."
)
@click.option(
    "--temperature", type=float, default=3.0, show_default=True, help="Softens the answers distilled."
)
@click.option(
    "--exit-weights", type=Numbers(), default=(), help="Weight of each exit's loss; all 1 if not given."
)
@click.option(
    "--ema", type=float, default=0.999, show_default=True, help="Moving average of weights; 0 is off."
)
@click.option(
    "--augment",
    type=click.Choice(["none", "crop", "flip", "crop-flip"]),
    default="crop-flip",
    show_default=True,
    help="Flips change the meaning of digits and text.",
)
@click.option(
    "--crop-padding", type=int, help="Pixels that a crop may shift by; an eighth of the side if not given."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--checkpoint-seconds", type=float, default=30.0, show_default=True, help="At most so much is lost."
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where model.pt goes."
)
@click.option("--restart", is_flag=True, help="Discard what an earlier run left at --out.")
@click.option("--quiet", is_flag=True, help="No messages and no progress, only the result.")
def train(**options: Any) -> None:
    """Divide a static CNN into stages by a plan, train it, and write MODEL.PT.

    A run that was stopped, even by kill -9, goes on where it was when the same command is given again.

    \b
    s2dnas-train --recipe models/digits.toml --out digits.pt
    s2dnas-train --model net.py:make --input 3x32x32 --weights net.pth --data images/ \\
        --plan uniform:0.25,0.25,0.5 --epochs 10 --out model.pt
    """  # noqa: D301 - \b is the character that tells click to keep the lines
    from s2dnas_deploy.build.static_source import StaticSource
    from s2dnas_deploy.build.training.session import Request, train_model
    from s2dnas_deploy.build.training.settings import Settings
    from s2dnas_deploy.cli.console import Console

    own = set(Settings.__dataclass_fields__)
    source = StaticSource(
        model=options["model"],
        model_arguments=options["model_args"],
        input_shape=options["input_shape"],
        weights=options["weights"],
        weights_key=options["weights_key"],
        seed=options["seed"],
    )
    request = Request(
        source=source,
        settings=Settings(**{key: value for key, value in options.items() if key in own}),
        **{key: options[key] for key in Request.__dataclass_fields__ if key not in ("source", "settings")},
    )
    # What the user's own code prints is no result.
    with Console(quiet=options["quiet"]) as console, redirect_stdout(sys.stderr):
        model = train_model(request, console)
    click.echo(_summary(model, request.out))


def _summary(model: "Model", out: Path) -> str:
    """What was reached, an exit a line."""
    about = model.provenance
    test = about["test_accuracy"] or [None] * model.network.stages
    lines = [f"{'':14}{'val':>8}{'test':>8}"]
    if about["static_accuracy"] is not None:
        before = about["static_accuracy"]
        lines.append(f"{'static':14}{_percent(before['val'])}{_percent(before.get('test'))}")
    for stage, (val, tested) in enumerate(zip(about["val_accuracy"], test, strict=True)):
        lines.append(f"{f'exit {stage}':14}{_percent(val)}{_percent(tested)}")
    return "\n".join([*lines, f"model: {out}"])


def _percent(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{100 * value:7.2f}%"
