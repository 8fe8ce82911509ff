"""What a network with exits of its own says of itself, and which of the two ways to say it that is.

Place in the flow: the user's `nn.Module` with a method `stages()` ──▶ `StagedNetwork`.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, cast, runtime_checkable

from torch import nn

from s2dnas_deploy.bundle.entries import MAX_STAGES
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import ModelError
from s2dnas_deploy.quoting import in_a_line
from s2dnas_deploy.workshop.export.own.chain import chain_of_modules
from s2dnas_deploy.workshop.export.own.named import network_of_named, said_by
from s2dnas_deploy.workshop.export.staged import StagedNetwork

Stages = list[nn.Module] | dict[str, nn.Module]


@runtime_checkable
class OwnExits(Protocol):
    """A network that gives its stages, first to last."""

    def stages(self) -> Sequence[nn.Module] | Mapping[str, nn.Module]:
        """Modules (image, *features) → (logits, *features); or by name, with tensors by name."""


def stages_of(network: nn.Module) -> Stages:
    """The modules that the network says its stages are, by name if they have names."""
    if not isinstance(network, OwnExits):
        raise ModelError(
            f"{type(network).__name__} has no method stages(); expected one that returns the stages as "
            "modules (image, *features) → (logits, *features), see docs/own-exits.md. A "
            "network without exits is divided first, by s2dnas-search or s2dnas-train, which write a model.pt"
        )
    try:
        said = network.stages()
        named = isinstance(said, Mapping | nn.ModuleDict)
        stages: Stages = dict(cast("Mapping[str, nn.Module]", said).items()) if named else list(said)  # type: ignore[arg-type]
    except Exception as error:  # it is anyone's code
        raise ModelError(
            f"stages() of {type(network).__name__} failed: {type(error).__name__}: {in_a_line(error)}"
        ) from error
    modules: Iterable[object] = stages.values() if isinstance(stages, dict) else stages
    if not stages or not all(isinstance(module, nn.Module) for module in modules):
        raise ModelError("stages() returned no modules; expected one torch.nn.Module for each stage")
    if len(stages) > MAX_STAGES:
        raise ModelError(f"stages() returned {len(stages)} modules; a bundle has at most {MAX_STAGES} stages")
    return stages


def network_with_own_exits(
    network: nn.Module, preprocessing: Preprocessing, class_names: Sequence[str], *, name: str
) -> StagedNetwork:
    """The network as export reads it, after a trial run that shows what its stages give and read."""
    stages, whose = stages_of(network), type(network).__name__
    if isinstance(stages, dict):
        said = said_by(network)
        return network_of_named(stages, said, preprocessing, tuple(class_names), name=name, whose=whose)
    if inspect.isroutine(getattr(network, "routes", None)):
        raise ModelError(
            f"{whose} has routes(), which go by names of stages; expected stages() to return modules by name"
        )
    return chain_of_modules(stages, preprocessing, tuple(class_names), name=name)
