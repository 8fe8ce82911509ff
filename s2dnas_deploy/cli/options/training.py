"""The options that say what to train on, and how, spelled alike wherever something is trained."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from s2dnas_deploy.cli.options.kinds import Numbers
from s2dnas_deploy.cli.options.recipe import check_code_of_recipe, is_from_recipe

if TYPE_CHECKING:
    from s2dnas_deploy.build.training.session import Request

Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--data", help="Folder of classes, CIFAR python folder, .npz archive, or `digits`.", required=True
    ),
    click.option(
        "--val-fraction", type=float, default=0.1, show_default=True, help="Split off if there is no val/."
    ),
    click.option("--resize", type=click.Choice(["crop", "stretch"]), help="Fit images of another size."),
    click.option(
        "--limit", type=click.IntRange(1), help="Use at most so many images per part, for a quick try."
    ),
    click.option(
        "--normalize",
        help="imagenet (if not given), cifar10, cifar100, data (measured), none (pixels 0 to 1), unit "
        "(-1 to 1), or M,M,M/S,S,S.",
    ),
    click.option(
        "--static-epochs",
        type=int,
        default=0,
        show_default=True,
        help="Without --weights: first train the static network for so long.",
    ),
    click.option("--static-lr", type=float, help="Peak learning rate of that; as --lr if not given."),
    click.option(
        "--epochs",
        type=int,
        default=10,
        show_default=True,
        help="Passes over the images; 0 only carries weights over.",
    ),
    click.option("--batch-size", type=int, default=64, show_default=True),
    click.option("--lr", type=float, default=0.05, show_default=True, help="Peak learning rate."),
    click.option("--weight-decay", type=float, default=5e-4, show_default=True),
    click.option(
        "--warmup", type=float, default=0.1, show_default=True, help="Part of the run in which lr rises."
    ),
    click.option("--label-smoothing", type=float, default=0.0, show_default=True),
    click.option(
        "--distill",
        type=float,
        default=0.9,
        show_default=True,
        help="Weight of the static network's answers.",
    ),
    click.option(
        "--self-distill", type=float, default=0.3, show_default=True, help="Share of the last exit in that."
    ),
    click.option(
        "--temperature", type=float, default=3.0, show_default=True, help="Softens the answers distilled."
    ),
    click.option(
        "--exit-weights", type=Numbers(), default=(), help="Weight of each exit's loss; all 1 if not given."
    ),
    click.option(
        "--ema", type=float, default=0.995, show_default=True, help="Moving average of weights; 0 is off."
    ),
    click.option(
        "--augment",
        type=click.Choice(["none", "crop", "flip", "crop-flip"]),
        default="crop-flip",
        show_default=True,
        help="Flips change the meaning of digits and text.",
    ),
    click.option(
        "--crop-padding",
        type=int,
        help="Pixels that a crop may shift by; an eighth of the side if not given.",
    ),
    click.option("--seed", type=int, default=0, show_default=True),
    click.option(
        "--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.option(
        "--checkpoint-seconds", type=float, default=30.0, show_default=True, help="At most so much is lost."
    ),
    click.option(
        "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Where model.pt goes."
    ),
    click.option("--restart", is_flag=True, help="Discard what an earlier run left at --out."),
)


def training_request(options: dict[str, Any]) -> "Request":
    """What is asked for, as training takes it."""
    from s2dnas_deploy.build.static_source import StaticSource
    from s2dnas_deploy.build.training.session import Request
    from s2dnas_deploy.build.training.settings import Settings

    check_code_of_recipe(options["model"], options["recipe"])
    own = set(Settings.__dataclass_fields__)
    source = StaticSource(
        model=options["model"],
        model_arguments=options["model_args"],
        input_shape=options["input_shape"],
        weights=options["weights"],
        weights_key=options["weights_key"],
        seed=options["seed"],
        model_is_from_a_recipe=is_from_recipe("model"),
    )
    return Request(
        source=source,
        settings=Settings(**{key: value for key, value in options.items() if key in own}),
        **{key: options[key] for key in Request.__dataclass_fields__ if key not in ("source", "settings")},
    )


def training_options(function: Function) -> Function:
    """Add them to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
