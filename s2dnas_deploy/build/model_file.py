"""`model.pt`: a multi-stage network on disk, complete, loadable without the user's code.

Place in the flow: training writes it, export and inspect read it. It holds plain values and tensors only
and is read by `torch_file`, so that nothing in it can run; then everything is checked: format, digest,
graph, plan, the name and shape of every tensor. What does not fit is refused with the reason.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s2dnas_deploy.build import operators
from s2dnas_deploy.build.division import Division, divide
from s2dnas_deploy.build.graph import INPUT, ChannelGraph
from s2dnas_deploy.build.groups import divide_into_groups
from s2dnas_deploy.build.network import MultiStageNetwork, weight_keys
from s2dnas_deploy.build.operators import OPERATORS
from s2dnas_deploy.build.torch_file import read_torch_file
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import CheckpointError, S2dnasError, in_a_line, shown
from s2dnas_deploy.files.atomic import write_atomically
from s2dnas_deploy.plan import Plan

FORMAT = "s2dnas-model"
VERSION = 1


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
    def val_fraction(self) -> float:
        """Which share of each class was held out; of older files, as nearly as their counts tell."""
        data = self.provenance.get("data", {})
        train, val = data.get("train", 9), data.get("val", 1)
        return float(data.get("val_fraction", val / (train + val)))


def save_model(model: Model, path: Path) -> None:
    """Write `model` to `path` atomically."""
    about = json.dumps(
        {
            "graph": model.network.division.graph.to_json(),
            "plan": model.network.division.plan.to_json(),
            "class_names": list(model.class_names),
            "preprocessing": model.preprocessing.to_document(),
            "provenance": dict(model.provenance),
        }
    )
    weights = {key: tensor.contiguous() for key, tensor in model.network.masked_weights().items()}
    digest = _digest(about, weights)
    document = {"format": FORMAT, "version": VERSION, "about": about, "weights": weights, "digest": digest}
    write_atomically(path, lambda stream: torch.save(document, stream))


def load_model(path: Path | str) -> Model:
    """Read and check a `model.pt`; the network comes in evaluation mode."""
    path = Path(path)
    document = read_document(path)
    try:
        return _model_from(document)
    except S2dnasError as error:
        raise CheckpointError(f"{path}: {error}") from error
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
    about = json.loads(about_text)
    graph = ChannelGraph.from_json(about["graph"])
    _check_graph(graph)
    division = divide(divide_into_groups(graph), Plan.from_json(about["plan"]))
    _check_names(division, weights)
    _check_shapes(division, weights)
    class_names = tuple(str(name) for name in about["class_names"])
    if len(class_names) != graph.classes:
        raise CheckpointError(f"{len(class_names)} class names for {graph.classes} classes")
    preprocessing = Preprocessing.from_document(about["preprocessing"])
    if preprocessing.input_shape != graph.input_shape:
        raise CheckpointError("the preprocessing gives another shape than the graph reads")
    return Model(
        network=MultiStageNetwork(division, weights).eval(),
        class_names=class_names,
        preprocessing=preprocessing,
        provenance=about["provenance"],
    )


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
            raise CheckpointError(f"node {node.name!r} has operator {node.operator!r}, which is not known")


def _check_names(division: Division, weights: Mapping[str, Tensor]) -> None:
    expected = set(weight_keys(division))
    missing, unexpected = sorted(expected - set(weights)), sorted(set(weights) - expected)
    if missing or unexpected:
        raise CheckpointError(f"weights missing: {shown(missing[:4])}; unexpected: {shown(unexpected[:4])}")


def _check_shapes(division: Division, weights: Mapping[str, Tensor]) -> None:
    """Run the graph on shapes alone: every node must give the shape it says."""
    values = {INPUT: torch.empty(2, *division.graph.input_shape, device="meta")}
    for node in division.body[1:]:
        own = {role: weights[key].to("meta", torch.float32) for role, key in node.weights.items()}
        result = operators.run(node, [values[name] for name in node.inputs], own)
        if tuple(result.shape[1:]) != node.shape:
            raise CheckpointError(
                f"node {node.name!r} gives {tuple(result.shape[1:])}, declared {node.shape}"
            )
        values[node.name] = result
    network = MultiStageNetwork(division, weights).eval().to("meta", torch.float32)
    for stage, logits in enumerate(network(values[INPUT])):
        if tuple(logits.shape) != (2, division.graph.classes):
            raise CheckpointError(f"exit {stage} gives {tuple(logits.shape[1:])} logits")


def _digest(about: str, weights: Mapping[str, Tensor]) -> str:
    """Sha256 over the description and every tensor with its name, type and shape."""
    digest = hashlib.sha256(about.encode())
    for key in sorted(weights):
        tensor = weights[key]
        digest.update(f"{key}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
