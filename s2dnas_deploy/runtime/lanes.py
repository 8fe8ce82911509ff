"""The executor of graphs that pick samples themselves: features stay where they were given, as on a device.

Place in the flow: as `rooms`. Nothing is copied: a stage is told by number which samples of earlier stages'
batches it is to read. Samples that go the same way are in a lane, and go it to its end before those of
another go on; what different stages give lies in different places, so no lane writes over what another reads.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.decide.course import Course, Rows
from s2dnas_deploy.decide.flow import IMAGE
from s2dnas_deploy.runtime.rooms import Desk, Numbers
from s2dnas_deploy.runtime.stages import Array, Stages

_START = -1  # who gives the image


@dataclass(frozen=True, kw_only=True)
class _Lane:
    """Samples that came the same way: who they are, and where what they carry is.

    For each stage on the way, `rows` are those of its batch that they are, and `sizes` how large that was;
    `givers` has who gave each tensor last.
    """

    numbers: Numbers
    rows: Mapping[int, Rows]
    sizes: Mapping[int, int]
    givers: Mapping[str, int]

    def of(self, chosen: Rows) -> "_Lane":
        """Some of the samples."""
        return _Lane(
            numbers=self.numbers[chosen],
            rows={giver: rows[chosen] for giver, rows in self.rows.items()},
            sizes=self.sizes,
            givers=self.givers,
        )


class Lanes:
    """Memory for a batch of at most `capacity` samples; each lane is gone by itself. For one thread."""

    def __init__(self, stages: Stages, capacity: int) -> None:
        self.runner, self.capacity = stages, capacity
        self._buffers = stages.buffers(capacity, apart=True)
        self._manifest: Manifest = stages.manifest
        self._waiting = np.zeros(capacity, np.int64)
        self._count = 0

    def open(self, course: Course, desk: Desk) -> None:
        """Begin anew: samples that enter from now on go this course, and their answers to this desk."""
        self._course, self._desk, self._count = course, desk, 0

    def enter(self, number: int, image: Array) -> None:
        """One more sample, by its number."""
        self._buffers.arrays[IMAGE][self._count] = image
        self._waiting[self._count] = number
        self._count += 1
        if self._count == self.capacity:
            self.drain()

    def enter_all(self, images: Array) -> None:
        """A whole batch, numbered from 0."""
        self._count = len(images)
        self._buffers.arrays[IMAGE][: self._count] = images
        self._waiting[: self._count] = np.arange(self._count)

    def drain(self) -> None:
        """Send all who have entered through."""
        count, self._count = self._count, 0
        if count:
            lane = _Lane(
                numbers=self._waiting[:count].copy(),
                rows={_START: np.arange(count)},
                sizes={_START: self.runner.provider.batch_size(count)},
                givers={IMAGE: _START},
            )
            self._go(self._course.first, lane)

    def _go(self, stage: int, lane: _Lane) -> None:
        """Run a stage on a lane, and then its parts to their ends, one after the other."""
        desk, arrays, count = self._desk, self._buffers.arrays, len(lane.numbers)
        brought = self._tell_rows(stage, lane)
        begun = time.perf_counter()
        self.runner.run(stage, self._buffers, count, brought)
        desk.ran(stage, lane.numbers, time.perf_counter() - begun)
        stop, size = self._course.flow.stops[stage], self.runner.provider.batch_size(count)
        after = _Lane(
            numbers=lane.numbers,
            rows={**lane.rows, stage: np.arange(count)},
            sizes={**lane.sizes, stage: size},
            givers={**lane.givers, **dict.fromkeys(stop.given, stage)},
        )
        parts = self._course.junctions[stage](self._seen(stage, after), count)
        # All that is wanted of this stage's answers, before another lane's come to lie in the same place.
        if desk.hears_all and stop.answers:
            desk.take(stage, lane.numbers, arrays, slice(count))
        for place, rows in parts:
            if place < 0 and not desk.hears_all:
                numbers = lane.numbers if rows is None else lane.numbers[rows]
                desk.take(stage, numbers, arrays, slice(count) if rows is None else rows)
        for place, rows in parts:
            part = after if rows is None else after.of(rows)
            if place < 0:
                if desk.hears_all:
                    desk.leave(part.numbers)
                continue
            if desk.hurries and (stays := desk.stays(place, part.numbers)).any():
                desk.leave(part.numbers[stays])
                part = part.of((~stays).nonzero()[0])
            if len(part.numbers):
                self._go(place, part)

    def _seen(self, stage: int, lane: _Lane) -> Mapping[str, Array]:
        """What the stage's rule looks at, a row for each sample."""
        name = self._course.flow.looked_at[stage]
        if name is None:
            return {}
        giver = lane.givers[name]
        return {name: self._buffers.arrays[self._place(name, giver)][lane.rows[giver]]}

    def _place(self, name: str, giver: int) -> str:
        given = self._buffers.layout.given
        return given[giver].get(name, name) if giver != _START else name

    def _tell_rows(self, stage: int, lane: _Lane) -> dict[str, tuple[str, int]] | None:
        """Fill the inputs that number samples; return where what is read lies, unless it is as always."""
        entry, padded = self._manifest.stages[stage], self.runner.provider.batch_size(len(lane.numbers))
        for name, picked in entry.rows.items():
            array = self._buffers.arrays[name]
            array[: len(lane.numbers)] = lane.rows[lane.givers[picked[0]]]
            array[len(lane.numbers) : padded] = 0  # any row that is there
        brought = {
            name: (self._place(name, lane.givers[name]), lane.sizes[lane.givers[name]])
            for name in entry.reads
        }
        usual = all(place == name and size == padded for name, (place, size) in brought.items())
        return None if usual else brought
