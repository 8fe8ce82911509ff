"""The one executor: samples wait in rooms before the stages, and go from room to room as their routes say.

Place in the flow: images ──▶ room ──stage──▶ where the course sends each ──▶ room … ──▶ desk, with answers.

A stage runs when its room is full, or when whoever asked has them all emptied. A party of samples that all go
the same way takes its memory along to an empty room; else those who go on are copied together, with what they
still need. `Lanes` is for graphs that pick samples themselves: there nothing is copied, so that features stay
on the device, and each way is gone by itself.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.decide.course import Course, Part, Rows
from s2dnas_deploy.decide.flow import IMAGE
from s2dnas_deploy.runtime.stages import Array, Buffers

Numbers = npt.NDArray[np.int64]


class Runner(Protocol):
    """What runs a stage on the first `count` rows of memory that it has made, in place."""

    row_inputs: frozenset[str]

    def buffers(self, capacity: int, *, apart: bool = False) -> Buffers:
        """Memory for `capacity` samples."""

    def run(
        self, stage: int, buffers: Buffers, count: int, brought: Mapping[str, tuple[str, int]] | None = None
    ) -> None:
        """Run a stage."""


class Desk(Protocol):
    """Who asked, and gets the answers; samples are known by their numbers."""

    hears_all: bool
    """Whether it hears every answer, though better ones may follow; or only the last of each sample."""

    watches: bool
    """Whether it wants to know which stages ran, and how long."""
    hurries: bool
    """Whether time may be up before samples are done."""

    def ran(self, stage: int, numbers: Numbers, seconds: float) -> None:
        """A stage has run on these samples."""

    def take(self, stage: int, numbers: Numbers, arrays: Mapping[str, Array], rows: Rows | slice) -> None:
        """A stage's answers for those samples: rows of its arrays, numbers in the same order. Views."""

    def keeps(self, place: int, numbers: Numbers) -> bool:
        """Whether these samples go no further, though the course sends them to a stage: time is up."""


class _Party:
    """Samples that are together: who they are, and what they carry."""

    __slots__ = ("buffers", "count", "numbers")

    def __init__(self, buffers: Buffers) -> None:
        self.buffers, self.count = buffers, 0
        self.numbers = np.zeros(buffers.capacity, np.int64)


class Rooms:
    """A room before each stage, for a batch of at most `capacity` samples; for one thread at a time."""

    def __init__(self, runner: Runner, capacity: int) -> None:
        self.runner, self.capacity = runner, capacity
        self._parties: list[_Party] = []
        self._in_order = np.arange(capacity)

    def open(self, course: Course, desk: Desk) -> None:
        """Begin anew: samples that enter from now on go this course, and their answers to this desk."""
        self._course, self._desk = course, desk
        for party in self._parties:
            party.count = 0  # of a batch that ended in an error
        self._rooms: list[_Party | None] = [None] * len(course.answers)

    def enter(self, number: int, image: Array) -> None:
        """One more sample, by its number."""
        party = self._party_at(self._course.first)
        party.buffers.arrays[IMAGE][party.count] = image
        party.numbers[party.count] = number
        party.count += 1
        if party.count == self.capacity:
            self._serve(self._course.first)

    def enter_all(self, images: Array) -> None:
        """A whole batch into empty rooms, numbered from 0."""
        party = self._party_at(self._course.first)
        party.count = len(images)
        party.buffers.arrays[IMAGE][: party.count] = images
        party.numbers[: party.count] = self._in_order[: party.count]

    def drain(self) -> None:
        """Serve everybody who waits, so that nobody does."""
        for stage, party in enumerate(self._rooms):  # as they are by then: samples only go forward
            if party is not None:
                self._serve(stage)

    def _party_at(self, stage: int) -> _Party:
        """Who waits before a stage; an empty party, if nobody does."""
        party = self._rooms[stage]
        if party is None:
            party = self._rooms[stage] = self._idle_party()
        return party

    def _idle_party(self) -> _Party:
        """Always the first that is idle: memory that the batch before went through is still in the caches."""
        for party in self._parties:
            if not party.count:
                return party
        party = self._new_party()
        self._parties.append(party)
        return party

    def _new_party(self) -> _Party:
        party = _Party(self.runner.buffers(self.capacity))
        for name in self.runner.row_inputs:  # graphs that pick samples themselves find all of theirs here
            array = party.buffers.arrays[name]
            array[:] = np.arange(len(array))
        return party

    def _serve(self, stage: int) -> None:
        """Run a stage on all who wait for it, and send each where its route says."""
        party = self._rooms[stage]
        assert party is not None, "somebody waits there"
        self._rooms[stage] = None
        count, desk, arrays = party.count, self._desk, party.buffers.arrays
        everyone = party.numbers[:count]
        if desk.watches:
            begun = time.perf_counter()
            self.runner.run(stage, party.buffers, count)
            desk.ran(stage, everyone, time.perf_counter() - begun)
        else:
            self.runner.run(stage, party.buffers, count)
        parts = self._course.junctions[stage](arrays, count)
        if desk.hears_all and self._course.answers[stage]:
            desk.take(stage, everyone, arrays, slice(count))
        if not self._move(stage, party, everyone, parts):
            party.count = 0

    def _move(self, stage: int, party: _Party, everyone: Numbers, parts: Sequence[Part]) -> bool:
        """Send samples on; whether all went on together, their memory with them."""
        desk, arrays, count = self._desk, party.buffers.arrays, party.count
        for place, rows in parts:
            numbers = everyone if rows is None else everyone[rows]
            if place < 0:
                if not desk.hears_all:
                    desk.take(stage, numbers, arrays, slice(count) if rows is None else rows)
            elif desk.hurries and desk.keeps(place, numbers):
                pass
            elif rows is None and self._rooms[place] is None:
                self._rooms[place] = party
                if count == self.capacity:
                    self._serve(place)
                return True
            else:
                self._welcome(place, party, self._in_order[:count] if rows is None else rows)
        return False

    def _welcome(self, place: int, party: _Party, rows: Rows) -> None:
        """Let these samples of a party into another room, with what is still to be read of them."""
        while len(rows):
            there = self._party_at(place)
            fit = rows[: self.capacity - there.count]
            seats = slice(there.count, there.count + len(fit))
            for name in self._course.live[place]:
                out = there.buffers.arrays[name][seats]
                party.buffers.arrays[name].take(fit, axis=0, out=out, mode="clip")
            there.numbers[seats] = party.numbers[fit]
            there.count += len(fit)
            rows = rows[len(fit) :]
            if there.count == self.capacity:
                self._serve(place)
