"""One batch on its way through the stages: who is still in it, and where their features are.

Place in the flow: `Cascade` seats a batch, runs a stage, says who goes on, runs the next. Two ways to let
samples go, by what the bundle's graphs can do:

    compact   those who stay move up, in order, into a second set of buffers; so nothing that is still to be
              read is overwritten, and where nobody leaves nothing moves
    gather    features stay where they were made; the next graph is told by `rows_J` which rows of what stage
              J gave go on. On a GPU no feature ever comes to the host
"""

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.bundle.manifest import CONFIDENCE, IMAGE, LABEL, PROBABILITIES, rows_of
from s2dnas_deploy.run.stages import Array, Stages, features_read_after

Rows = npt.NDArray[np.intp]


class Seats:
    """Memory for one batch at a time of at most `capacity` samples; for one thread at a time."""

    def __init__(self, stages: Stages, capacity: int) -> None:
        self.stages, self.capacity = stages, capacity
        self._gathers = stages.manifest.gathers
        self._sides = [stages.buffers(capacity)]
        if not self._gathers and capacity > 1 and len(stages) > 1:
            self._sides.append(stages.buffers(capacity))
        self._carried = tuple(features_read_after(stages.manifest, k) for k in range(len(stages)))
        self._giver = {
            spec.name: k for k, entry in enumerate(stages.manifest.stages) for spec in entry.gives
        } | {IMAGE: 0}

    def sit(self, images: Array) -> None:
        """Begin with a batch of images."""
        self.count = len(images)
        self._side = 0
        self._sides[0].arrays[IMAGE][: self.count] = images
        # For a stage that has run, the rows of its batch that are still in; and how many rows it had.
        self._still_in: list[Rows] = []
        self._sizes: list[int] = []

    def run(self, stage: int) -> tuple[Array, Array, Array]:
        """Label [N], confidence [N] and probabilities [N, classes] of those who are in. Views."""
        buffers = self._sides[self._side]
        sizes = None
        if self._gathers:
            sizes = self._tell_rows(stage)
            self._still_in.append(np.arange(self.count))
            self._sizes.append(self.stages.provider.batch_size(self.count))
        self.stages.run(stage, buffers, self.count, sizes)
        arrays, count = buffers.arrays, self.count
        return arrays[LABEL][:count], arrays[CONFIDENCE][:count], arrays[PROBABILITIES][:count]

    def stay(self, rows: Rows, stage: int) -> None:
        """After `stage`, only these rows of the batch go on."""
        if len(rows) == self.count:
            return
        if self._gathers:
            self._still_in = [still_in[rows] for still_in in self._still_in]
        else:
            here, there = self._sides[self._side], self._sides[1 - self._side]
            for name in self._carried[stage]:
                here.arrays[name].take(rows, axis=0, out=there.arrays[name][: len(rows)], mode="clip")
            self._side = 1 - self._side
        self.count = len(rows)

    def _tell_rows(self, stage: int) -> dict[str, int] | None:
        """Fill the inputs that name rows; return how many rows each input has, if not all have the same."""
        arrays = self._sides[0].arrays
        padded = self.stages.provider.batch_size(self.count)
        sizes = {name: self._sizes[self._giver[name]] for name in self._giver_names(stage)}
        for giver, still_in in enumerate(self._still_in):
            name = rows_of(giver)
            if name in self.stages.rows[stage]:
                arrays[name][: self.count] = still_in
                arrays[name][self.count : padded] = 0  # any row that is there
        return sizes if any(size != padded for size in sizes.values()) else None

    def _giver_names(self, stage: int) -> tuple[str, ...]:
        entry = self.stages.manifest.stages[stage]
        if stage == 0:
            return ()
        image = (IMAGE,) if entry.reads_image else ()
        return (*image, *(spec.name for spec in entry.reads))
