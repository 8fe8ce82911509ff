"""`model.pt`: a multi-stage network on disk, complete, loadable without the user's code.

Place in the flow: training writes it, export and inspect read it. It holds plain values and tensors only
and is read by `torch_file`, so that nothing in it can run; then everything is checked: format, digest,
graph, plan, the name and shape of every tensor. What does not fit is refused with the reason.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import CheckpointError, S2dnasError
from s2dnas_deploy.files.atomic import write_atomically
from s2dnas_deploy.files.bounds import Between, Count, Length, Others, Share
from s2dnas_deploy.files.document import LARGEST_BYTES, Form
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.quoting import in_a_line, shown
from s2dnas_deploy.workshop.network import operators
from s2dnas_deploy.workshop.network.division import Division, divide, exit_prefix
from s2dnas_deploy.workshop.network.graph import INPUT, ChannelGraph
from s2dnas_deploy.workshop.network.groups import Divisible, divide_into_groups
from s2dnas_deploy.workshop.network.nested import NestedNetwork, divided_network
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, weight_keys
from s2dnas_deploy.workshop.network.operators import OPERATORS
from s2dnas_deploy.workshop.network.torch_file import read_torch_file

FORMAT = "s2dnas-model"
VERSION = 1


_Rest = Annotated[Mapping[str, Any], Others()]
_PerExit = tuple[Share, ...]


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What is relied on of the settings of a training."""

    seed: Annotated[int, Between(0, 2**63 - 1)] = 0
    rest: _Rest


@dataclass(frozen=True, kw_only=True)
class _Data:
    """What is relied on of what is told of the images of a training."""

    digest: str | None = None
    train: Count = 9
    val: Count = 1
    val_fraction: Share = 0.0
    rest: _Rest

    def __post_init__(self) -> None:
        if not self.train + self.val:
            raise CheckpointError("expected images to train on, or to validate with, got none")


@dataclass(frozen=True, kw_only=True)
class _StaticAccuracy:
    """How good the static network was."""

    val: Share
    test: Share | None = None
    rest: _Rest


@dataclass(frozen=True, kw_only=True)
class _Provenance:
    """What is relied on of where a model comes from; all else is told as it is."""

    run: str | None = None
    settings: _Settings = field(default_factory=lambda: _Settings(rest={}))
    data: _Data = field(default_factory=lambda: _Data(rest={}))
    static_accuracy: _StaticAccuracy | None = None
    val_accuracy: _PerExit | None = None
    test_accuracy: _PerExit | None = None
    rest: _Rest

    def __post_init__(self) -> None:
        if self.run is not None and self.val_accuracy is None:
            raise CheckpointError("expected the accuracy that a training came to, val_accuracy, got none")


@dataclass(frozen=True, kw_only=True)
class _About:
    """The form of a model's description; graph and plan are documents of their own."""

    graph: Annotated[str, Length(0, LARGEST_BYTES)]
    plan: Annotated[str, Length(0, LARGEST_BYTES)]
    class_names: tuple[Annotated[str, Length(1, 1000)], ...]
    preprocessing: Preprocessing
    provenance: Mapping[str, Any]
    order: Mapping[str, tuple[Count, ...]] = field(default_factory=dict)
    """Of the groups whose channels the stages do not take as they come in the network."""


# Names of folders and files may be in any encoding.
_ABOUT = Form(record=_About, error=CheckpointError, odd_text=True)
_PROVENANCE = Form(record=_Provenance, error=CheckpointError)


@dataclass(frozen=True, kw_only=True)
class Model:
    """What `model.pt` holds. `provenance` says where it came from and how good it is, in JSON values."""

    network: MultiStageNetwork
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    provenance: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """That of its training, which also decided which images were held out."""
        return int(self.provenance.get("settings", {}).get("seed", 0))

    @property
    def images_digest(self) -> str | None:
        """Which images it was trained on and which held out; None if it was not trained here."""
        digest: str | None = self.provenance.get("data", {}).get("digest")
        return digest

    @property
    def images_on_disk(self) -> bool | None:
        """Whether picture files stayed on disk, which its digest depends on; None: not trained here."""
        data = self.provenance.get("data")
        return None if data is None else bool(data.get("on_disk", False))

    @property
    def val_fraction(self) -> float:
        """Which share of each class was held out; of older files, as nearly as their counts tell."""
        data = self.provenance.get("data", {})
        train, val = data.get("train", 9), data.get("val", 1)
        return float(data.get("val_fraction", val / (train + val)))


def save_model(model: Model, path: Path) -> None:
    """Write `model` to `path` atomically."""
    about = description_of(model)
    weights = {key: tensor.contiguous() for key, tensor in model.network.masked_weights().items()}
    digest = _digest(about, weights)
    document = {"format": FORMAT, "version": VERSION, "about": about, "weights": weights, "digest": digest}
    write_atomically(path, lambda stream: torch.save(document, stream))


def description_of(model: Model) -> str:
    """What is told of a model beside its weights; a `CheckpointError` if that could not be read again."""
    division = model.network.division
    order = order_of(division.divisible)
    about = json.dumps(
        {
            "graph": division.graph.to_json(),
            "plan": division.plan.to_json(),
            "class_names": list(model.class_names),
            "preprocessing": model.preprocessing.to_document(),
            "provenance": dict(model.provenance),
            **({"order": order} if order else {}),
        }
    )
    told = _ABOUT.read(about, "the description")
    _check_provenance(told.provenance, division.plan.stages)
    return about


def order_of(divisible: Divisible) -> dict[str, list[int]]:
    """The groups whose channels the stages do not take as they come, and how they do."""
    told = {name: order.tolist() for name, order in divisible.order.items()}
    return {name: order for name, order in told.items() if order != sorted(order)}


def load_model(path: Path | str) -> Model:
    """Read and check a `model.pt`; the network comes in evaluation mode."""
    path = Path(path)
    document = read_document(path)
    try:
        return _model_from(document)
    except S2dnasError as error:
        raise CheckpointError(f"{path}: {in_a_line(error)}") from error
    except Exception as error:  # a hostile file may break any step; whatever it was, the file is refused
        raise CheckpointError(f"{path}: malformed: {type(error).__name__}: {in_a_line(error)}") from error


def is_model(path: Path) -> bool:
    """Whether the file says of itself that it is a `model.pt`."""
    try:
        read_document(path)
    except CheckpointError:
        return False
    return True


def read_document(path: Path) -> Mapping[str, Any]:
    """The file's raw content, if it is a `model.pt` of a version known here."""
    document = read_torch_file(path)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(
            f'{path} is a torch file, but no model.pt: it has no "format": "{FORMAT}". Of '
            f"weights, s2dnas-train --model FILE.py:FACTORY --weights {path} makes one (with --plan static, "
            "the static network)"
        )
    version = document.get("version")
    if type(version) is not int or version != VERSION:
        got = shown(version) if isinstance(version, int | str) else f"a {type(version).__name__}"
        raise CheckpointError(f"{path} has version {got}; this release reads version {VERSION}")
    return document


def _model_from(document: Mapping[str, Any]) -> Model:
    about_text, weights = document["about"], document["weights"]
    if not isinstance(about_text, str) or not isinstance(weights, dict):
        raise CheckpointError("expected a description and weights")
    _check_tensors(weights)
    if _digest(about_text, weights) != document.get("digest"):
        raise CheckpointError("the content does not match its digest: the file is damaged or was edited")
    about = _ABOUT.read(about_text, "the description")
    graph, plan = ChannelGraph.from_json(about.graph), Plan.from_json(about.plan)
    _check_graph(graph)
    _check_shapes(graph, weights, plan)
    division = divide(in_order(divide_into_groups(graph), about.order), plan)
    _check_names(division, weights)
    _check_exits(division, weights)
    if len(about.class_names) != graph.classes:
        raise CheckpointError(f"{len(about.class_names)} class names for {graph.classes} classes")
    if about.preprocessing.input_shape != graph.input_shape:
        raise CheckpointError("the preprocessing gives another shape than the graph reads")
    _check_provenance(about.provenance, plan.stages)
    return Model(
        network=divided_network(division, weights).eval(),
        class_names=about.class_names,
        preprocessing=about.preprocessing,
        provenance=about.provenance,
    )


def in_order(divisible: Divisible, told: Mapping[str, Sequence[int]]) -> Divisible:
    """The same network in the order that `order_of` has told; a `CheckpointError` if that is none."""
    natural = divisible.order
    for name, order in told.items():
        if name not in natural or sorted(order) != natural[name].tolist():
            raise CheckpointError(f"the order of group {shown(name)} is not one of its channels")
    return divisible.in_order({**natural, **{name: np.array(order) for name, order in told.items()}})


def _check_tensors(weights: Mapping[str, Any]) -> None:
    """Plain, dense tensors only: a strided view could claim far more elements than the file holds."""
    for key, tensor in weights.items():
        if not isinstance(key, str) or type(tensor) is not Tensor:
            raise CheckpointError(f"weight {shown(key)} is a {type(tensor).__name__}, expected a tensor")
        if tensor.layout != torch.strided or not tensor.is_contiguous() or not tensor.is_floating_point():
            raise CheckpointError(f"weight {shown(key)} is not a dense tensor of real numbers")


def _check_graph(graph: ChannelGraph) -> None:
    for node in graph.nodes:
        if node.operator not in OPERATORS:
            raise CheckpointError(
                f"node {shown(node.name)} has operator {shown(node.operator)}, which is not known"
            )


def _check_names(division: Division, weights: Mapping[str, Tensor]) -> None:
    expected = set(weight_keys(division))
    missing, unexpected = sorted(expected - set(weights)), sorted(set(weights) - expected)
    if missing or unexpected:
        raise CheckpointError(f"weights missing: {shown(missing[:4])}; unexpected: {shown(unexpected[:4])}")


def _check_shapes(graph: ChannelGraph, weights: Mapping[str, Tensor], plan: Plan) -> None:
    """Run the graph on shapes alone: every node must give the shape it says.

    Before anything else is made of it: what follows holds something for each channel that a node claims. The
    weights of the classifier are found where the last exit has them. What is only as large as a width is
    looked at when the widths are run.
    """
    values, last = {INPUT: torch.empty(2, *graph.input_shape, device="meta")}, plan.stages - 1
    for node in graph.nodes[1:]:
        if plan.nested and node.operator == "batch_norm":
            values[node.name] = values[node.inputs[0]]
            if tuple(values[node.name].shape[1:]) != node.shape:
                raise CheckpointError(
                    f"node {shown(node.name)} is a norm, and of another shape than it reads"
                )
            continue
        keys = {
            role: key if key in weights else exit_prefix(last) + key for role, key in node.weights.items()
        }
        missing = [key for key in keys.values() if key not in weights]
        if missing:
            raise CheckpointError(f"weights missing: {shown(missing[:4])}")
        own = {role: weights[key].to("meta", torch.float32) for role, key in keys.items()}
        if plan.nested and keys != node.weights and OPERATORS[node.operator].mixes:
            read = values[node.inputs[0]].shape[1]  # a classifier of a width that has not all
            own["weight"] = own["weight"].new_empty((len(own["weight"]), read, *own["weight"].shape[2:]))
        if any(not operators.has_rows(node, weight) for weight in own.values()):
            raise CheckpointError(f"node {shown(node.name)} has a weight without a row for each channel")
        result = operators.run(node, [values[name] for name in node.inputs], own)
        if tuple(result.shape[1:]) != node.shape:
            raise CheckpointError(
                f"node {shown(node.name)} gives {shown(tuple(result.shape[1:]))}, declared {node.shape}"
            )
        values[node.name] = result


def _check_exits(division: Division, weights: Mapping[str, Tensor]) -> None:
    """Run the divided network on shapes alone: every exit must give as many logits as there are classes."""
    network = divided_network(division, weights).eval().to("meta", torch.float32)
    for key, shape in network.own_shapes.items() if isinstance(network, NestedNetwork) else ():
        if weights[key].shape != shape:
            raise CheckpointError(
                f"weight {shown(key)}: expected {tuple(shape)}, as its width is, got "
                f"{shown(tuple(weights[key].shape))}"
            )
    for stage, logits in enumerate(network(torch.empty(2, *division.graph.input_shape, device="meta"))):
        if tuple(logits.shape) != (2, division.graph.classes):
            raise CheckpointError(f"exit {stage} gives {shown(tuple(logits.shape[1:]))} logits")


def _check_provenance(provenance: Mapping[str, Any], stages: int) -> None:
    told = _PROVENANCE.of(provenance, "the provenance")
    for accuracies in (told.val_accuracy, told.test_accuracy):
        if accuracies is not None and len(accuracies) != stages:
            raise CheckpointError(f"the provenance: {len(accuracies)} accuracies for {stages} exits")


def _digest(about: str, weights: Mapping[str, Tensor]) -> str:
    """Sha256 over the description and every tensor with its name, type and shape."""
    digest = hashlib.sha256(about.encode())
    for key in sorted(weights):
        tensor = weights[key]
        digest.update(f"{key}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
