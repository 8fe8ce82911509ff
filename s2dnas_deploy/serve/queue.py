"""The queue before the first stage: bounded by the bytes of its pixels, and fair to its callers.

Place in the flow: tickets ──put──▶ `Queue` ──take, a sample of each caller in turn──▶ a worker's rooms.

What is bounded are the pixels of all that was admitted and is not answered yet. Whoever is past the bound is
refused at once, and told when to come back: a queue that grows only makes everybody wait longer.
"""

import threading
import time
from collections import OrderedDict, deque

from s2dnas_deploy.errors import S2dnasError
from s2dnas_deploy.serve.ticket import Ticket

_FORGETS = 0.9
"""What is known of the rate after a second without news."""


class BusyError(S2dnasError):
    """More was asked for than can be done; `retry_after` says in how many seconds it may be otherwise."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ClosedError(S2dnasError):
    """The service takes no more requests: it is being shut down."""


class Queue:
    """Tickets whose samples wait for the first stage, by caller. Safe to share between threads."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.changed = threading.Condition()
        self.closed = False
        self.samples = 0
        """So many have not been taken yet."""
        self.held_bytes = 0
        """The pixels of all that was admitted and is not answered."""
        self._callers: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._rate, self._counted, self._counted_at = 0.0, 0, time.perf_counter()

    def put(self, ticket: Ticket) -> None:
        """Admit a ticket, or raise."""
        size = ticket.images.nbytes
        with self.changed:
            if self.closed:
                raise ClosedError("the service is being shut down and takes no more requests")
            if self.held_bytes + size > self.most_bytes:
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

    def give_back(self, tickets: list[Ticket]) -> None:
        """These are answered: others may come."""
        with self.changed:
            self.held_bytes -= sum(ticket.images.nbytes for ticket in tickets)
            self._count(sum(len(ticket.images) for ticket in tickets))

    def close(self) -> None:
        """Admit nobody any more."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def _count(self, answered: int) -> None:
        now = time.perf_counter()
        self._counted += answered
        if (elapsed := now - self._counted_at) >= 1:
            known = _FORGETS**elapsed if self._rate else 0.0
            self._rate = known * self._rate + (1 - known) * self._counted / elapsed
            self._counted, self._counted_at = 0, now

    def _busy(self, size: int) -> BusyError:
        if size > self.most_bytes:
            return BusyError(
                f"a request of {size} bytes of pixels is more than is admitted at all, {self.most_bytes}: "
                "send fewer images at a time",
                0.0,
            )
        waiting = self.samples / self._rate if self._rate else 1.0
        return BusyError(
            f"{self.held_bytes} of {self.most_bytes} bytes of pixels are waiting for answers: try again "
            f"in {waiting:.1f} s",
            waiting,
        )
