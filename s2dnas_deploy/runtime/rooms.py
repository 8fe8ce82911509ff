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
from s2dnas_deploy.decide.flow import IMAGE, LABEL
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

    @property
    def hears_all(self) -> bool:
        """Whether it hears every answer, though better ones may follow; or only the last of each sample."""

    @property
    def watches(self) -> bool:
        """Whether it wants to know which stages ran, and how long."""

    @property
    def hurries(self) -> bool:
        """Whether samples may stay behind, because their time is up."""

    def ran(self, stage: int, numbers: Numbers, seconds: float) -> None:
        """A stage has run on these samples."""

    def take(self, stage: int, numbers: Numbers, arrays: Mapping[str, Array], rows: Rows | slice) -> None:
        """A stage's answers for those samples: rows of its arrays, numbers in the same order. Views."""

    def stays(self, place: int, numbers: Numbers) -> npt.NDArray[np.bool_]:
        """Which of these samples stay behind, though the course sends them to a stage."""

    def leave(self, numbers: Numbers) -> None:
        """Who hears all has heard the last of these samples."""


class Shadowing(Protocol):
    """Who lets some of those that leave a chain early go on, as shadows: their answers are out already."""

    course: int
    """Which of the courses shadows go."""

    def cast(self, numbers: Numbers, labels: Array) -> tuple[Rows, Numbers]:
        """Which of these samples, that leave with these answers, cast a shadow; and the shadows' numbers."""


class _Party:
    """Samples that are together: who they are, which of the courses each goes, and what they carry."""

    __slots__ = ("buffers", "count", "courses", "numbers")

    def __init__(self, buffers: Buffers) -> None:
        self.buffers, self.count = buffers, 0
        self.numbers = np.zeros(buffers.capacity, np.int64)
        self.courses = np.zeros(buffers.capacity, np.int64)


class Rooms:
    """A room before each stage, for a batch of at most `capacity` samples; for one thread at a time."""

    def __init__(self, runner: Runner, capacity: int) -> None:
        self.runner, self.capacity = runner, capacity
        self.shadowing: Shadowing | None = None
        self._parties: list[_Party] = []
        self._in_order = np.arange(capacity)

    def open(self, course: Course, desk: Desk) -> None:
        """Begin anew: samples that enter from now on go this course, and their answers to this desk."""
        self._course, self._desk, self._courses = course, desk, [course]
        for party in self._parties:
            party.count = 0  # of a batch that ended in an error
        self._rooms: list[_Party | None] = [None] * len(course.answers)

    def also(self, course: Course) -> int:
        """Another course of the same flow, by other numbers or settings; what `enter` is told to go it."""
        self._courses.append(course)
        return len(self._courses) - 1

    def enter(self, number: int, image: Array, course: int = 0) -> None:
        """One more sample, by its number."""
        first = self._courses[course].first
        party = self._party_at(first)
        party.buffers.arrays[IMAGE][party.count] = image
        party.numbers[party.count], party.courses[party.count] = number, course
        party.count += 1
        if party.count == self.capacity:
            self.serve(first)

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
                self.serve(stage)

    def waiting(self, stage: int) -> Numbers | None:
        """Who waits before a stage, if anybody does."""
        party = self._rooms[stage]
        return None if party is None else party.numbers[: party.count]

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

    def serve(self, stage: int) -> None:
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
        parts = (
            self._course.junctions[stage](arrays, count)
            if len(self._courses) == 1
            else self._parts(stage, party)
        )
        if desk.hears_all and self._course.answers[stage]:
            desk.take(stage, everyone, arrays, slice(count))
        shadows = () if self.shadowing is None else self._cast(stage, party, parts)
        moved = self._move(stage, party, everyone, parts)
        for rows, numbers in shadows:  # those they are of have left
            assert self.shadowing is not None, "it casts them"
            party.numbers[rows], party.courses[rows] = numbers, self.shadowing.course
            self._welcome(stage + 1, party, rows)
        if not moved:
            party.count = 0

    def _cast(self, stage: int, party: _Party, parts: Sequence[Part]) -> list[tuple[Rows, Numbers]]:
        """The shadows of those who leave now, if there is a stage after this one."""
        assert self.shadowing is not None, "it casts them"
        found = []
        for place, rows in parts if stage + 1 < len(self._rooms) else ():
            if place < 0:
                leaving = self._in_order[: party.count] if rows is None else rows
                labels = party.buffers.arrays[LABEL][leaving]
                cast, numbers = self.shadowing.cast(party.numbers[leaving], labels)
                if len(cast):
                    found.append((leaving[cast], numbers))
        return found

    def _parts(self, stage: int, party: _Party) -> list[Part]:
        """Where samples go, each by its own course."""
        arrays, courses = party.buffers.arrays, party.courses[: party.count]
        parts: list[Part] = []
        for course in np.unique(courses):
            rows = (courses == course).nonzero()[0]
            junction = self._courses[course].junctions[stage]
            if len(rows) == party.count:
                return list(junction(arrays, party.count))
            name = self._course.flow.looked_at[stage]
            seen = {} if name is None else {name: arrays[name][rows]}
            parts += [(place, rows if of is None else rows[of]) for place, of in junction(seen, len(rows))]
        return parts

    def _move(self, stage: int, party: _Party, everyone: Numbers, parts: Sequence[Part]) -> bool:
        """Send samples on; whether all went on together, their memory with them."""
        desk, arrays, count = self._desk, party.buffers.arrays, party.count
        for place, sent in parts:
            rows = self._who_goes(place, everyone, sent) if desk.hurries and place >= 0 else sent
            if place < 0:
                numbers = everyone if rows is None else everyone[rows]
                if desk.hears_all:
                    desk.leave(numbers)
                else:
                    desk.take(stage, numbers, arrays, slice(count) if rows is None else rows)
            elif rows is None and self._rooms[place] is None:
                self._rooms[place] = party
                if count == self.capacity:
                    self.serve(place)
                return True
            else:
                self._welcome(place, party, self._in_order[:count] if rows is None else rows)
        return False

    def _who_goes(self, place: int, everyone: Numbers, rows: Rows | None) -> Rows | None:
        """Which of the samples that are sent to a stage do go there; None: everyone."""
        numbers = everyone if rows is None else everyone[rows]
        stays = self._desk.stays(place, numbers)
        if not stays.any():
            return rows
        self._desk.leave(numbers[stays])
        return (self._in_order[: len(everyone)] if rows is None else rows)[~stays]

    def _welcome(self, place: int, party: _Party, rows: Rows) -> None:
        """Let these samples of a party into another room, with what is still to be read of them."""
        while len(rows):
            there = self._party_at(place)
            fit = rows[: self.capacity - there.count]
            seats = slice(there.count, there.count + len(fit))
            for name in self._course.live[place]:
                out = there.buffers.arrays[name][seats]
                party.buffers.arrays[name].take(fit, axis=0, out=out, mode="clip")
            there.numbers[seats], there.courses[seats] = party.numbers[fit], party.courses[fit]
            there.count += len(fit)
            rows = rows[len(fit) :]
            if there.count == self.capacity:
                self.serve(place)
