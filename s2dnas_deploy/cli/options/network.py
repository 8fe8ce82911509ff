"""The options that name a network of the user's own, spelled alike wherever one is asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from s2dnas_deploy.cli.options.kinds import JsonObject, Shape

Function = TypeVar("Function", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--model", metavar="FACTORY", help="path/file.py:factory or package.module:factory."),
    click.option("--model-args", type=JsonObject(), default="{}", help="Keyword arguments of the factory."),
    click.option(
        "--input",
        "input_shape",
        type=Shape(),
        metavar="CxHxW",
        help="Shape of an image, for example 3x32x32.",
    ),
    click.option(
        "--weights",
        type=click.Path(path_type=Path),
        help="Trained weights (.pt, .pth, .th, .safetensors); or a model.pt of one stage, without --model.",
    ),
    click.option(
        "--weights-key", help="Entry of the weights file that holds the state dict, or OUTER.INNER."
    ),
)


def network_options(function: Function) -> Function:
    """Add --model, --model-args, --input, --weights and --weights-key to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def spelled(parameter: str) -> str:
    """How a person writes the option that a parameter comes from."""
    return "--input" if parameter == "input_shape" else f"--{parameter.replace('_', '-')}"
