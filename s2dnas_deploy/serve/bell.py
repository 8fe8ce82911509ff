"""From the workers' threads to the event loop: many tickets that end at once wake it once.

Place in the flow: a worker ends tickets ──ring──▶ the loop ──▶ whoever awaits each.
"""

import asyncio
from collections import deque

from s2dnas_deploy.serve.ticket import Ticket


class Bell:
    """Wakes the futures of tickets in one event loop. Made in that loop, rung by any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended: deque[Ticket] = deque()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._rung = False

    def ring(self, ticket: Ticket) -> None:
        """As `ended` of `Service.submit`."""
        self._ended.append(ticket)
        if not self._rung:  # else the loop will look after this
            self._rung = True
            self._loop.call_soon_threadsafe(self._answer)

    async def hear(self, ticket: Ticket) -> None:
        """Wait until it has ended."""
        if ticket.is_over:
            return
        future = self._loop.create_future()
        self._waiting[id(ticket)] = future
        try:
            if not ticket.is_over:
                await future
        finally:
            self._waiting.pop(id(ticket), None)

    def _answer(self) -> None:
        self._rung = False  # before it looks: who comes later rings again
        while self._ended:
            future = self._waiting.get(id(self._ended.popleft()))
            if future is not None and not future.done():
                future.set_result(None)
