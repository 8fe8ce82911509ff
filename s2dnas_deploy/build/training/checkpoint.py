"""A training run on disk: enough to go on after `kill -9` as if nothing had happened.

Written atomically, read with `weights_only`; a checkpoint of another run (other settings, plan, data or
starting weights) is refused, never mixed in.
"""

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s2dnas_deploy.errors import CheckpointError
from s2dnas_deploy.files.atomic import write_atomically

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


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Replace the checkpoint at `path`."""
    document = {"format": FORMAT, **vars(checkpoint)}
    write_atomically(path, lambda stream: torch.save(document, stream))


def load_checkpoint(path: Path, run: str) -> Checkpoint | None:
    """The checkpoint of this very run, or None if there is none yet."""
    if not path.exists():
        return None
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; start over with --restart") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no training checkpoint; start over with --restart")
    if document["run"] != run:
        raise CheckpointError(
            f"{path} belongs to another run (other settings, plan, data or starting weights); give another "
            "--out, or --restart to discard it"
        )
    return Checkpoint(**{key: value for key, value in document.items() if key != "format"})
