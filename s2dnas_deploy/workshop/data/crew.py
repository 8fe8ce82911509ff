"""Processes that make batches ahead of the step that learns from them, each as orders come.

Place in the flow: `Order`s ──▶ `worker`s ──▶ batches, in the order in which they were asked for. Processes of
our own instead of torch's: those import torch, 200 MB each, and pass batches through shared memory, of which
a container has 64 MB. How many there are changes nothing but time: all that is random is in the orders.
"""

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import IO

from s2dnas_deploy.errors import S2dnasError, TrainingError
from s2dnas_deploy.images.pixels import Pixels
from s2dnas_deploy.workshop.data.batch import Maker, Order

AHEAD = 2
"""So many batches are asked for of each process, before the first is needed."""
_MOST_BY_ITSELF = 8
_ENDS_WITHIN_SECONDS = 5.0


def workers_here() -> int:
    """As many as there are cores for this process; more than some do not help to feed one network."""
    return min(_MOST_BY_ITSELF, len(os.sched_getaffinity(0)))


class Crew:
    """So many processes; orders are given in turns, and taken in turns."""

    def __init__(self, maker: Maker, workers: int) -> None:
        self._workers = [_Worker(maker) for _ in range(workers)]
        self._turns = deque[_Worker]()
        self._asked = 0

    @property
    def has_room(self) -> bool:
        """Whether another batch should be asked for."""
        return len(self._turns) < AHEAD * len(self._workers)

    def ask(self, order: Order) -> None:
        """Have a batch made."""
        worker = self._workers[self._asked % len(self._workers)]
        self._asked += 1
        self._turns.append(worker)
        worker.ask(order)

    def take(self) -> Pixels:
        """The batch that was asked for first of those not taken; waits for it."""
        return self._turns.popleft().take()

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for worker in self._workers:
            worker.close()


class _Worker:
    """One process, and a thread that empties its output: a process that waits to be read makes nothing."""

    def __init__(self, maker: Maker) -> None:
        # Modules are looked for where this process does, not in the folder that is the current one.
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            "from s2dnas_deploy.workshop.data.worker import main; main()"
        )
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **one},
        )
        self._made: SimpleQueue[Pixels | S2dnasError | None] = SimpleQueue()
        Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()
        self._send(maker)

    def ask(self, order: Order) -> None:
        """Have a batch made after those asked for before."""
        self._send(order)

    def take(self) -> Pixels:
        """The next batch."""
        made = self._made.get()
        if isinstance(made, S2dnasError):
            raise made
        if made is None:
            raise TrainingError(
                f"a process that decodes images ended with {self._process.wait()}; what it said is above. "
                "Was there memory enough? --workers 0 decodes without processes"
            )
        return made

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait(_ENDS_WITHIN_SECONDS)
        with suppress(OSError):
            self._stdin.close()

    def _send(self, message: Maker | Order) -> None:
        # The process may be gone; `take` tells.
        with suppress(OSError):
            pickle.dump(message, self._stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._stdin.flush()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None, "it was started with a pipe"
        return self._process.stdin

    def _read(self, stream: IO[bytes]) -> None:
        with suppress(EOFError, OSError, pickle.UnpicklingError), stream:
            for made in _messages(stream):
                self._made.put(made)
        self._made.put(None)


def _messages(stream: IO[bytes]) -> Iterator[Pixels | S2dnasError]:
    while True:
        yield pickle.load(stream)  # noqa: S301 - from a process that was started here
