"""The options that name a network of the user's own, spelled alike wherever one is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from s2dnas_deploy.cli.options.kinds import JsonObject, Shape
from s2dnas_deploy.cli.options.sections import option

if TYPE_CHECKING:
    from s2dnas_deploy.workshop.reading.static_source import StaticSource

NETWORK = (
    option(
        "--model",
        metavar="FACTORY",
        help="The function that makes the network: path/file.py:factory or package.module:factory.",
    ),
    option("--model-args", type=JsonObject(), default="{}", help="Keyword arguments of the factory."),
    option(
        "--input",
        "input_shape",
        type=Shape(),
        metavar="CxHxW",
        help="Shape of an image, for example 3x32x32; training takes that of its images if it is not given.",
    ),
    option(
        "--weights",
        type=click.Path(path_type=Path),
        help="Trained weights (.pt, .pth, .th, .safetensors); or a model.pt of one stage, without --model.",
    ),
    option("--weights-key", help="Entry of the weights file that holds the state dict, or OUTER.INNER."),
)


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """A network as the command line names it."""

    model: str | None
    model_args: Mapping[str, Any]
    input_shape: tuple[int, int, int] | None
    weights: Path | None
    weights_key: str | None

    @property
    def given(self) -> tuple[str, ...]:
        """The options that were given, as a person writes them."""
        named = {
            "--model": self.model,
            "--input": self.input_shape,
            "--weights": self.weights,
            "--weights-key": self.weights_key,
        }
        return tuple(name for name, value in named.items() if value is not None)

    def source(self, *, seed: int, is_from_a_recipe: bool = False) -> "StaticSource":
        """Where the static network comes from."""
        from s2dnas_deploy.workshop.reading.static_source import StaticSource

        return StaticSource(
            model=self.model,
            model_arguments=self.model_args,
            input_shape=self.input_shape,
            weights=self.weights,
            weights_key=self.weights_key,
            seed=seed,
            model_is_from_a_recipe=is_from_a_recipe,
        )
