"""A worker: rooms with a clock. One thread, which takes samples from the queue and serves those who are due.

Place in the flow: `Queue` ──▶ rooms ──stage──▶ rooms … ──▶ tickets.

    the first room    is served as soon as the worker is free, with all who wait by then, up to a batch: under
                      load batches form by themselves, and without it nobody waits
    later rooms       are served when they are full, or when the first of them is due: it has waited for
                      company as long as it may, or its deadline, less the time of the stage, has come

How long that is grows with the queue: not at all where nobody waits, for a worker that is free gains nothing
by larger batches; as long as was asked for where a full batch waits. The queue's length is an average over
the last moments, for between an answer and the next request of the same caller it is empty, too.
"""

import math
import random
import threading
import time
from collections.abc import Mapping
from itertools import count as numbers_from

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.decide.course import Course, Rows
from s2dnas_deploy.decide.flow import LABEL, PROBABILITIES
from s2dnas_deploy.decide.rules import CONFIDENCE
from s2dnas_deploy.decide.temperature import at_temperature
from s2dnas_deploy.errors import S2dnasError
from s2dnas_deploy.runtime.rooms import Numbers, Rooms
from s2dnas_deploy.runtime.stage_clock import StageClock
from s2dnas_deploy.runtime.stages import Array, Stages
from s2dnas_deploy.serve.audit import Audit
from s2dnas_deploy.serve.counts import Counts
from s2dnas_deploy.serve.queue import Queue
from s2dnas_deploy.serve.ticket import Ticket

_MOMENT = 0.05  # seconds, of the average
_MOST_COURSES = 256


class Worker(threading.Thread):
    """Serves rooms of its own from a queue that it shares, until the queue is closed and all are answered."""

    def __init__(
        self,
        stages: Stages,
        course: Course,
        queue: Queue,
        clock: StageClock,
        counts: Counts,
        *,
        batch: int,
        wait: float,
        audit: Audit | None = None,
        never: Course | None = None,
    ) -> None:
        """`course` is the bundle's own, and `wait` the seconds that samples may wait for company.

        `never` is the course on which nobody exits early, for samples that an `audit` looks at.
        """
        super().__init__(name="s2dnas-worker", daemon=True)
        self._queue, self._clock, self._counts = queue, clock, counts
        self._batch, self._wait = batch, wait
        self._temperatures = stages.manifest.probability_temperatures
        self._flow = course.flow
        self._rooms = Rooms(stages, batch)
        self._first_course = course
        self._audit, self._never = audit, never
        self._drawn = random.Random(id(self))  # noqa: S311 - nothing secret is drawn
        self._marked: set[int] = set()
        self._shadows: dict[int, int] = {}
        self._reopen()
        self._tickets: dict[int, tuple[Ticket, int]] = {}
        self._since, self._deadline = np.zeros(1024), np.full(1024, np.inf)
        self._free: list[int] = []
        self._next = numbers_from()
        self._hasty = 0
        self._over: list[Ticket] = []
        self._answered = 0
        self._queued, self._looked_at = 0.0, time.perf_counter()

    # --- the thread ----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the queue is closed and nobody waits any more."""
        while (taken := self._next_samples()) is not None:
            begun = time.perf_counter()
            try:
                self._serve(taken)
            except S2dnasError as error:
                self._fail(error)
            except Exception as error:  # a worker that ends would leave everybody waiting
                self._fail(S2dnasError(f"the service failed: {type(error).__name__}: {error}"))
            over, self._over = self._over, []
            answered, self._answered = self._answered, 0
            self._queue.give_back(over, answered, time.perf_counter() - begun)
            for ticket in over:
                ticket.end()

    def _next_samples(self) -> list[tuple[Ticket, int]] | None:
        """Samples that may begin; none, if others are due before; None: it is over."""
        queue = self._queue
        with queue.changed:
            while True:
                self._look_at(queue.samples)
                taken = queue.take(self._batch)
                if taken:
                    return taken
                first_due = self._first_due()
                if first_due is None:
                    if queue.closed:
                        return None
                    queue.changed.wait()
                elif queue.closed or first_due <= time.perf_counter():
                    return []
                else:  # in time to see that the queue has grown shorter
                    queue.changed.wait(min(first_due - time.perf_counter(), _MOMENT / 4))

    def _look_at(self, samples: int) -> None:
        """Take the length of the queue into its average."""
        now = time.perf_counter()
        kept = math.exp((self._looked_at - now) / _MOMENT)
        self._queued, self._looked_at = kept * self._queued + (1 - kept) * samples, now

    @property
    def _company(self) -> float:
        """The seconds that samples may wait for company now."""
        return self._wait * min(1.0, self._queued / self._batch)

    def _serve(self, taken: list[tuple[Ticket, int]]) -> None:
        for ticket, row in taken:
            self._admit(ticket, row)
        for course in {id(ticket.course): ticket.course for ticket, _ in taken}.values():
            if self._rooms.waiting(course.first) is not None:
                self._rooms.serve(course.first)
        now = time.perf_counter()
        for stage in range(len(self._flow.stops)):
            due = self._due_at(stage)
            if due is not None and (due <= now or self._queue.closed):
                self._rooms.serve(stage)

    def _admit(self, ticket: Ticket, row: int) -> None:
        number = self._number()
        self._tickets[number] = ticket, row
        self._since[number] = ticket.since
        self._deadline[number] = math.inf if ticket.deadline is None else ticket.deadline
        self._hasty += ticket.deadline is not None
        self._counts.wait(time.perf_counter() - ticket.since)
        if ticket.audited and self._is_to_be_looked_at():
            self._marked.add(number)
        self._rooms.enter(number, ticket.images[row], self._number_of(ticket.course))

    def _number(self) -> int:
        """One that nobody has."""
        number = self._free.pop() if self._free else next(self._next)
        if number >= len(self._since):
            self._since = np.concatenate([self._since, np.zeros_like(self._since)])
            self._deadline = np.concatenate([self._deadline, np.full_like(self._deadline, np.inf)])
        return number

    def _is_to_be_looked_at(self) -> bool:
        """Whether a sample is drawn, and there is time to look at more than must be."""
        if self._audit is None or self._queued > self._batch / 4:
            return False
        return self._drawn.random() < self._audit.share

    def _number_of(self, course: Course) -> int:
        """The course's number in the rooms; once there are many, they are numbered anew when nobody waits."""
        number = self._courses.get(id(course))
        if number is None:
            if len(self._courses) >= _MOST_COURSES and len(self._tickets) == 1 and not self._shadows:
                self._reopen()
            number = self._rooms.also(course)
            self._courses[id(course)] = number
            self._known.append(course)
        return number

    def _reopen(self) -> None:
        self._rooms.open(self._first_course, self)
        self._courses = {id(self._first_course): 0}
        self._known = [self._first_course]  # as long as it is known, no other can have its id
        if self._never is not None:
            self.course = self._rooms.also(self._never)
            self._rooms.shadowing = self

    def _first_due(self) -> float | None:
        """When the first room of all is due; None: nobody waits."""
        return min(
            (due for k in range(len(self._flow.stops)) if (due := self._due_at(k)) is not None), default=None
        )

    def _due_at(self, stage: int) -> float | None:
        numbers = self._rooms.waiting(stage)
        if numbers is None:
            return None
        due = float(self._since[numbers].min()) + self._company
        if not self._hasty:
            return due
        return min(due, float(self._deadline[numbers].min()) - self._clock.expects(stage, len(numbers)))

    def _fail(self, error: S2dnasError) -> None:
        """Whoever is on the way gets the error in place of an answer."""
        for ticket, _ in self._tickets.values():
            ticket.end(error)
            if ticket.fewer(1):
                self._over.append(ticket)
        self._tickets.clear()
        self._free.clear()
        self._marked.clear()
        self._shadows.clear()
        self._next, self._hasty = numbers_from(), 0
        self._reopen()

    # --- the desk ------------------------------------------------------------------------------------------

    watches = True

    @property
    def hears_all(self) -> bool:
        """As a `Desk`."""
        return self._hasty > 0 or self._flow.remembers

    @property
    def hurries(self) -> bool:
        """As a `Desk`."""
        return self._hasty > 0

    def ran(self, stage: int, numbers: Numbers, seconds: float) -> None:
        """As a `Desk`."""
        self._clock.note(stage, len(numbers), seconds)
        self._counts.ran(stage, len(numbers), seconds)
        if not self._flow.is_chain:
            for number in numbers.tolist():
                ticket, row = self._tickets[number]
                assert ticket.went is not None, "not a chain"
                ticket.went[row, stage] = True

    def take(self, stage: int, numbers: Numbers, arrays: Mapping[str, Array], rows: Rows | slice) -> None:
        """As a `Desk`."""
        each = zip(
            numbers.tolist(), arrays[LABEL][rows].tolist(), arrays[CONFIDENCE][rows].tolist(), strict=True
        )
        likely: Array | None = None
        for at, (number, label, confidence) in enumerate(each):
            if number in self._shadows:
                self._compare(stage, number, label)
                continue
            ticket, row = self._tickets[number]
            ticket.label[row], ticket.confidence[row], ticket.exit[row] = label, confidence, stage
            if ticket.probabilities is not None:
                if likely is None:
                    likely = at_temperature(arrays[PROBABILITIES][rows].copy(), self._temperatures[stage])
                ticket.probabilities[row] = likely[at]
        if not self.hears_all:
            self.leave(numbers)

    def stays(self, place: int, numbers: Numbers) -> npt.NDArray[np.bool_]:
        """As a `Desk`."""
        ends = time.perf_counter() + self._clock.expects(place, len(numbers))
        stays = np.zeros(len(numbers), np.bool_)
        for at, number in enumerate(numbers.tolist()):
            if number in self._shadows:
                continue
            ticket, row = self._tickets[number]
            stays[at] = ticket.deadline is not None and ends > ticket.deadline and ticket.exit[row] >= 0
        return stays

    def leave(self, numbers: Numbers) -> None:
        """As a `Desk`."""
        for number in numbers.tolist():
            self._free.append(number)
            if self._shadows.pop(number, None) is not None:
                continue
            self._answered += 1
            ticket, row = self._tickets.pop(number)
            if number in self._marked:
                self._marked.remove(number)
                self._looked_at_whole(ticket.exit[row])
            self._hasty -= ticket.deadline is not None
            self._counts.exits[ticket.exit[row]] += 1
            if ticket.fewer(1):
                self._counts.answered(time.perf_counter() - ticket.since)
                self._over.append(ticket)

    # --- shadows -------------------------------------------------------------------------------------------

    course = 0

    def cast(self, numbers: Numbers, labels: Array) -> tuple[Rows, Numbers]:
        """As a `Shadowing`."""
        rows = [at for at, number in enumerate(numbers.tolist()) if number in self._marked]
        shadows = [self._number() for _ in rows]
        self._shadows.update(zip(shadows, labels[rows].tolist(), strict=True))
        self._since[shadows], self._deadline[shadows] = time.perf_counter(), math.inf
        return np.array(rows, np.intp), np.array(shadows, np.int64)

    def _compare(self, stage: int, number: int, label: int) -> None:
        """A shadow's answer, beside that of the sample that cast it."""
        if stage + 1 == len(self._flow.stops):
            assert self._audit is not None, "it had shadows cast"
            self._audit.add(label != self._shadows[number])

    def _looked_at_whole(self, exit_: int) -> None:
        """A marked sample has left; one that came to the last exit by itself is answered as it answers."""
        if exit_ + 1 == len(self._flow.stops):
            assert self._audit is not None, "it had samples marked"
            self._audit.add(otherwise=False)
