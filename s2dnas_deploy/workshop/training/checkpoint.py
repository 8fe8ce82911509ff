"""A training run on disk: enough to go on after `kill -9` as if nothing had happened.

Written atomically, and checked in full before anything is taken from it: a checkpoint of another run (other
settings, plan, data or starting weights), or one that does not fit the run, is refused, never mixed in.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from s2dnas_deploy.errors import CheckpointError
from s2dnas_deploy.files.atomic import write_atomically
from s2dnas_deploy.quoting import in_a_line, shown
from s2dnas_deploy.workshop.network.groups import Divisible
from s2dnas_deploy.workshop.network.model_file import order_of
from s2dnas_deploy.workshop.network.torch_file import read_torch_file

FORMAT = "s2dnas-training"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a run after `step` steps, and the identity of the run."""

    run: str
    step: int
    network: Mapping[str, Any]
    average: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    running_loss: float
    metrics: list[dict[str, Any]]


def add_weights(digest: "hashlib._Hash", weights: Mapping[str, Tensor]) -> None:
    """Let a run's identity tell apart what it starts from: names and values, in the names' order."""
    for key, tensor in sorted(weights.items()):
        digest.update(key.encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def add_order(digest: "hashlib._Hash", divisible: Divisible) -> None:
    """The order in which stages take channels; that in which they come in the network adds nothing."""
    order = order_of(divisible)
    digest.update(json.dumps(order, sort_keys=True).encode() if order else b"")


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Replace the checkpoint at `path`."""
    document = {"format": FORMAT, **vars(checkpoint)}
    write_atomically(path, lambda stream: torch.save(document, stream))


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a checkpoint must fit: the run as it stands before its first step."""

    run: str
    network: nn.Module
    optimizer: torch.optim.Optimizer
    steps: int
    steps_per_epoch: int
    exits: int
    """So many accuracies has each line of the metrics; 0: no metrics are kept."""


def load_checkpoint(path: Path, expected: Expected) -> Checkpoint | None:
    """The checkpoint of this very run, or None if there is none yet."""
    if not path.exists():
        return None
    try:
        document = read_torch_file(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; start over with --restart") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no training checkpoint; start over with --restart")
    if document.get("run") != expected.run:
        raise CheckpointError(
            f"{path} belongs to another run (other settings, plan, data or starting weights); give another "
            "--out, or --restart to discard it"
        )
    try:
        return _checked(document, expected)
    except ValueError as error:
        raise CheckpointError(
            f"{path} does not fit its run: {in_a_line(error)}; start over with --restart"
        ) from error


def _checked(document: Mapping[Any, Any], expected: Expected) -> Checkpoint:
    names = {field.name for field in fields(Checkpoint)}
    _require(set(document) == {"format", *names}, "its entries are not those of a checkpoint")
    step, loss = document["step"], document["running_loss"]
    _require(_is_count(step) and step <= expected.steps, f"step {shown(step)} of {expected.steps}")
    _require(_is_finite(loss), "its loss is no number")
    weights = expected.network.state_dict()
    for name in ("network", "average"):
        _check_weights(document[name], weights, name)
    _check_metrics(document["metrics"], step, expected)
    return Checkpoint(
        run=expected.run,
        step=step,
        network=document["network"],
        average=document["average"],
        optimizer=_optimizer_state(document["optimizer"], expected.optimizer),
        running_loss=loss,
        metrics=document["metrics"],
    )


def _check_weights(given: Any, own: Mapping[str, Tensor], name: str) -> None:
    _require(isinstance(given, dict) and given.keys() == own.keys(), f"its {name} has other weights")
    for key, tensor in own.items():
        _require(_is_like(given[key], tensor), f"{key} of its {name} is no such tensor, or not finite")


def _optimizer_state(given: Any, own: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's memory of each parameter; what it does with that is for the settings to say."""
    kept = given.get("state") if isinstance(given, dict) else None
    _require(isinstance(kept, dict), "its optimizer has no state")
    parameters = [parameter for group in own.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for number, memory in (kept or {}).items():
        is_known = _is_count(number) and number < len(parameters) and isinstance(memory, dict)
        buffers = {name: buffer for name, buffer in memory.items() if buffer is not None} if is_known else {}
        _require(
            is_known
            and buffers.keys() <= {"momentum_buffer"}
            and all(_is_like(buffer, parameters[number]) for buffer in buffers.values()),
            f"its optimizer's state of parameter {shown(number)} is of another network",
        )
        state[number] = buffers
    return {**own.state_dict(), "state": state}


def _check_metrics(given: Any, step: int, expected: Expected) -> None:
    """A line for each epoch that is over."""
    over = step // expected.steps_per_epoch if expected.exits else 0
    _require(isinstance(given, list) and len(given) == over, f"expected metrics of {over} epochs")
    for epoch, row in enumerate(given, 1):
        is_row = isinstance(row, dict) and row.keys() == {"epoch", "loss", "val_accuracy"}
        shares = row["val_accuracy"] if is_row else None
        _require(
            is_row
            and type(row["epoch"]) is int
            and row["epoch"] == epoch
            and _is_finite(row["loss"])
            and isinstance(shares, list)
            and len(shares) == expected.exits
            and all(_is_finite(share) and 0 <= share <= 1 for share in shares),
            f"its metrics of epoch {epoch} are no loss and accuracies",
        )


def _is_like(given: Any, own: Tensor) -> bool:
    return (
        isinstance(given, Tensor)
        and given.shape == own.shape
        and given.dtype == own.dtype
        and bool(torch.isfinite(given).all())
    )


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ValueError(problem)
