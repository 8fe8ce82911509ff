"""What one process of a measurement is to do, as a small document that it is handed.

Place in the flow: `measure` ──JSON──▶ a process of its own (`worker`) ──▶ timings.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.errors import RecordError
from s2dnas_deploy.files.bounds import Between
from s2dnas_deploy.files.document import Form
from s2dnas_deploy.sessions.limits import MOST_BATCH, MOST_THREADS

Rows = npt.NDArray[np.intp]
_BLOCK_IMAGES, _FEWEST_BATCHES = 16, 4


@dataclass(frozen=True, kw_only=True)
class Job:
    """`cold`: one subject's start. `warm`: all subjects in turns. `energy`: one subject, over and over."""

    kind: Literal["cold", "warm", "energy"]
    bundle: str
    images: str
    """A .npy file of images as the bundle takes them; every beginning of it is like the whole."""
    static: str | None
    """The static network's ONNX file."""
    mean: tuple[float, ...]
    """By channel, of the images as the network was trained on them; and the standard deviation."""
    std: tuple[float, ...]
    provider: str
    threads: Annotated[int, Between(1, MOST_THREADS)] | None
    batch: Annotated[int, Between(1, MOST_BATCH)]
    trust: str | None = None
    """The public key by whose owner the bundle must be signed."""
    seconds: float = 0.0
    subject: str | None = None
    started: float = 0.0
    """When the process was asked for, by the machine's monotonic clock."""

    def to_json(self) -> str:
        """The document."""
        return json.dumps(asdict(self))

    @staticmethod
    def load(path: Path) -> "Job":
        """Read what `to_json` wrote."""
        return _FORM.load(path)

    def blocks(self, images: int) -> Iterator[list[Rows]]:
        """Rows of the batches of a block, block after block, without end; the same in every process."""
        for number in count():
            yield block_rows(number, self.batch, images)


_FORM = Form(record=Job, error=RecordError, odd_text=True)  # names of folders may be in any encoding


def block_rows(number: int, batch: int, images: int) -> list[Rows]:
    """The rows of each batch of a block; after the last image comes the first again."""
    batches = batches_of(batch)
    first = number * batches * batch
    return [(first + i * batch + np.arange(batch)) % images for i in range(batches)]


def batches_of(batch: int) -> int:
    """How many batches a block has: so few that the machine is in the same mood for all subjects."""
    return max(_BLOCK_IMAGES // batch, _FEWEST_BATCHES)
