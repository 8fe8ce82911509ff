"""What a person names: a network with its weights, and a plan for it.

Place in the flow: the first step of every command that starts from a static network. Brings together
the user's factory, the weights file and what `model.pt` already knows; a plan may be a file or a few words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s2dnas_deploy.errors import CheckpointError, ModelError
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.plan.text import from_file_or_text
from s2dnas_deploy.workshop.network.model_file import Model, is_model, load_model
from s2dnas_deploy.workshop.network.network import as_static
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.reading.judged import Judged, judged_as
from s2dnas_deploy.workshop.reading.read import read_network
from s2dnas_deploy.workshop.reading.source import build_network, load_weights


@dataclass(frozen=True, kw_only=True)
class StaticSource:
    """Where a static network comes from: a factory, weights, or a `model.pt` of one stage."""

    model: str | None
    model_arguments: Mapping[str, Any]
    input_shape: tuple[int, int, int] | None
    weights: Path | None
    weights_key: str | None = None
    seed: int = 0
    model_is_from_a_recipe: bool = False
    """A recipe may name a file in its folder or a class of networks, and nothing else is called."""

    def is_trained(self) -> bool:
        """Whether weights were given, or are loaded by the factory."""
        return self.weights is not None or self.is_loaded_by_factory()

    def is_loaded_by_factory(self) -> bool:
        """Whether the factory was told to load weights, in the words of timm or of torchvision."""
        told = self.model_arguments
        return self.model is not None and (bool(told.get("pretrained")) or told.get("weights") is not None)

    def weights_in_words(self) -> str | None:
        """Where the weights come from; None where there are none but those that are drawn."""
        if self.weights is not None:
            return str(self.weights)
        return "loaded by the factory" if self.is_loaded_by_factory() else None


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A source whose code has run and whose weights are loaded; its images' shape may still be open."""

    source: StaticSource
    module: nn.Module | None
    kept: Model | None
    """The `model.pt` that the weights come from, if any."""

    @property
    def judged(self) -> Judged | None:
        """How images were prepared when the network's weights were judged, if its library says so."""
        source = self.source
        if self.module is None or self.kept is not None or not source.is_trained():
            return None
        return judged_as(self.module, source.model or "", source.model_arguments)

    def read(self, input_shape: tuple[int, int, int] | None) -> StaticNetwork:
        """The static network, for images of a shape."""
        if self.module is None:
            assert self.kept is not None, "one of the two there is"
            return as_static(self.kept.network)
        if input_shape is None:
            raise ModelError(
                "the shape of the images is not known: give --input, for example --input 3x32x32"
            )
        static = read_network(self.module.float(), input_shape)
        return static if self.kept is None else _same_network(static, self.kept, self.source)


def open_source(source: StaticSource) -> Opened:
    """Call the factory and load the weights."""
    kept, module = _model_in(source.weights), None
    if source.model is None:
        if kept is None:
            raise ModelError("no network given: name its factory with --model FILE.py:FACTORY")
        return Opened(source=source, module=None, kept=kept)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(source.seed)
        module = build_network(
            source.model, source.model_arguments, is_from_recipe=source.model_is_from_a_recipe
        )
    if source.weights is not None and kept is None:
        load_weights(module, source.weights, source.weights_key)
    return Opened(source=source, module=module, kept=kept)


def read_source(source: StaticSource) -> tuple[StaticNetwork, Model | None]:
    """The static network that a source describes, and the `model.pt` that its weights come from, if any."""
    opened = open_source(source)
    return opened.read(source.input_shape), opened.kept


def _model_in(weights: Path | None) -> Model | None:
    """The `model.pt` that was given as weights, if it is one; it must have one stage."""
    if weights is None:
        return None
    if not weights.is_file():
        raise CheckpointError(f"no weights file {weights}")
    if not is_model(weights):
        return None
    model = load_model(weights)
    if model.network.stages != 1:
        raise ModelError(
            f"{weights} has {model.network.stages} stages; only a static network (--plan static) can be "
            "divided"
        )
    return model


def _same_network(static: StaticNetwork, kept: Model, source: StaticSource) -> StaticNetwork:
    """The network in a `model.pt`, which must be the one that --model names."""
    if not static.graph.computes_like(kept.network.division.graph):
        raise ModelError(
            f"{source.weights} is a model.pt of another network than {source.model}; leave --model out "
            "to use its own"
        )
    return as_static(kept.network)


def read_plan(text: str, static: StaticNetwork, *, align: int, seed: int) -> Plan:
    """The plan in a JSON file, or as spelled out in the text."""
    return from_file_or_text(text, align=align, seed=seed)(static.divisible.space)
