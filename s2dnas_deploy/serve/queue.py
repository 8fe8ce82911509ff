"""The queue before the first stage: bounded by time and by the bytes of its pixels, and fair to its callers.

Place in the flow: tickets ──put──▶ `Queue` ──take, a sample of each caller in turn──▶ a worker's rooms.

Who would wait too long, by the time that samples have taken lately, is refused at once and told when to come
back: a queue that grows only makes everybody wait longer. The pixels of all that was admitted and is not
answered yet have a bound, too.
"""

import threading
from collections import OrderedDict, deque

from s2dnas_deploy.errors import S2dnasError
from s2dnas_deploy.serve.ticket import Ticket

_MOMENT = 0.2
"""Seconds of work after which what a sample takes is known anew; what was known before counts half."""


class BusyError(S2dnasError):
    """More was asked for than can be done; `retry_after` says in how many seconds it may be otherwise."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ClosedError(S2dnasError):
    """The service takes no more requests: it is being shut down."""


class Queue:
    """Tickets whose samples wait for the first stage, by caller. Safe to share between threads."""

    def __init__(self, most_bytes: int, most_seconds: float, workers: int = 1) -> None:
        """`most_seconds` that a sample may have to wait, of which so many `workers` take theirs."""
        self.most_bytes, self.most_seconds, self._workers = most_bytes, most_seconds, workers
        self.changed = threading.Condition()
        self.closed = False
        self.samples = 0
        """So many have not been taken yet."""
        self.held_bytes = 0
        """The pixels of all that was admitted and is not answered."""
        self._callers: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._each, self._answered, self._worked = 0.0, 0, 0.0

    def put(self, ticket: Ticket) -> None:
        """Admit a ticket, or raise."""
        size = ticket.images.nbytes
        with self.changed:
            if self.closed:
                raise ClosedError("the service is being shut down and takes no more requests")
            if self.held_bytes + size > self.most_bytes or self.wait > self.most_seconds:
                raise self._busy(size)
            self.held_bytes += size
            self.samples += len(ticket.images)
            self._callers.setdefault(ticket.caller, deque()).append(ticket)
            self.changed.notify()

    def take(self, most: int) -> list[tuple[Ticket, int]]:
        """At most so many samples, one of each caller in turn; to be called with `changed` held."""
        taken: list[tuple[Ticket, int]] = []
        while self._callers and len(taken) < most:
            caller, tickets = self._callers.popitem(last=False)
            ticket = tickets[0]
            if ticket.error is None:
                taken.append((ticket, ticket.entered))
                ticket.entered += 1
                self.samples -= 1
            else:  # its caller is gone
                rest = len(ticket.images) - ticket.entered
                self.samples -= rest
                ticket.entered += rest
                if ticket.fewer(rest):
                    self.held_bytes -= ticket.images.nbytes
            if ticket.entered == len(ticket.images):
                tickets.popleft()
            if tickets:
                self._callers[caller] = tickets
        return taken

    def give_back(self, tickets: list[Ticket], answered: int, seconds: float) -> None:
        """These are over: others may come. A worker has answered so many samples in so many seconds."""
        with self.changed:
            self.held_bytes -= sum(ticket.images.nbytes for ticket in tickets)
            self._answered += answered
            self._worked += seconds
            if self._worked >= _MOMENT and self._answered:
                each = self._worked / self._answered
                self._each = (self._each + each) / 2 if self._each else each
                self._answered, self._worked = 0, 0.0

    @property
    def wait(self) -> float:
        """The seconds that one more sample would have to wait, about."""
        return self.samples * self._each / self._workers

    def close(self) -> None:
        """Admit nobody any more."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def _busy(self, size: int) -> BusyError:
        if size > self.most_bytes:
            return BusyError(
                f"a request of {size} bytes of pixels is more than is admitted at all, {self.most_bytes}: "
                "send fewer images at a time",
                0.0,
            )
        wait = self.wait
        if wait > self.most_seconds:
            later = wait - self.most_seconds
            return BusyError(
                f"one has to wait for {wait:.1f} s, and {self.most_seconds:g} s are admitted: try again in "
                f"{later:.1f} s",
                later,
            )
        return BusyError(
            f"{self.held_bytes} of {self.most_bytes} bytes of pixels are waiting for answers: try again in "
            f"{wait or 1.0:.1f} s",
            wait or 1.0,
        )
