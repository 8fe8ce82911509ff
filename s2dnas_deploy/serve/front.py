"""Where requests come in, whatever they were spoken in: decoded, submitted and waited for, in one event loop.

Place in the flow: HTTP and gRPC ──`Ask`──▶ `Front` ──▶ `Service` ──▶ a ticket that has ended.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import TypeVar

from s2dnas_deploy.serve.ask import Ask, pixels_of
from s2dnas_deploy.serve.bell import Bell
from s2dnas_deploy.serve.house import House
from s2dnas_deploy.serve.service import Service
from s2dnas_deploy.serve.ticket import Ticket
from s2dnas_deploy.serve.tracing import Traces

Result = TypeVar("Result")

_WATCH_SECONDS = 0.02
"""After so long it is asked whether the client still waits; most answers are there before."""


class Front:
    """What the servers of all protocols share. Made in the event loop that they run in."""

    def __init__(self, house: House) -> None:
        self.house, self._bell, self._traces = house, Bell(), Traces()
        self.refused: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(thread_name_prefix="s2dnas-decode")

    async def aside(self, act: Callable[..., Result], *given: object) -> Result:
        """Do what takes its time in another thread: the loop has others to serve."""
        return await self._loop.run_in_executor(self._threads, act, *given)

    async def ended(
        self,
        ask: Ask,
        service: Service,
        caller: str,
        watch: Callable[[Ticket], None] | None = None,
        parent: Mapping[str, str] = MappingProxyType({}),
    ) -> Ticket:
        """The ticket of a request, once it has ended; `watch` is told of one that takes longer.

        `parent` names the caller's span, if it traces its requests.
        """
        pixels = (
            await self.aside(pixels_of, ask.images, service.cascade.reader)
            if isinstance(ask.images, tuple)
            else ask.images
        )
        ticket = service.submit(pixels, caller=caller, ended=self._bell.ring, **ask.options)
        timer = None if watch is None else self._loop.call_later(_WATCH_SECONDS, watch, ticket)
        try:
            await self._bell.hear(ticket)
        except asyncio.CancelledError:  # the caller is gone
            ticket.cancel()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._traces.tell(ticket, service.cascade.manifest.name, parent)
        return ticket

    async def close(self) -> None:
        """Answer all that was accepted, and end."""
        await self._loop.run_in_executor(None, self.house.close)
        self._threads.shutdown(wait=False, cancel_futures=True)
