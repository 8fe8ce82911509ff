"""The service: one process, many callers, and the same rooms that `Cascade` has, with a clock.

Place in the flow: a `Cascade` ──▶ `Service`; callers ──submit──▶ `Ticket` ──result──▶ `Predictions`.

Answers are those of `Cascade.predict`, whoever else is served at the time: thresholds, settings, the last
stage and the deadline are a request's own. (Sums within a graph may come in another order in another batch,
so a confidence may differ in its last digits.)
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from s2dnas_deploy.decide.rules import NEVER
from s2dnas_deploy.errors import DataError, OptionError
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.predictions import Predictions
from s2dnas_deploy.runtime.stage_clock import StageClock
from s2dnas_deploy.serve.ask import Tensors
from s2dnas_deploy.serve.audit import Audit, bound_of, more_cautious
from s2dnas_deploy.serve.counts import Counts
from s2dnas_deploy.serve.defaults import BATCH, MAX_QUEUE_MS, MAX_WAIT_MS, MOST_MIB
from s2dnas_deploy.serve.queue import Queue
from s2dnas_deploy.serve.ticket import Ticket
from s2dnas_deploy.serve.worker import Worker
from s2dnas_deploy.sessions.limits import MOST_BATCH, finite_number, whole_number

if TYPE_CHECKING:
    from s2dnas_deploy.runtime.pictures import Source
    from s2dnas_deploy.runtime.stages import Array

OnBroken = Literal["tell", "raise-thresholds"]
_MOST_WORKERS = 64


class Service:
    """Answers many callers at once; safe to share between threads."""

    def __init__(
        self,
        cascade: Cascade,
        *,
        batch: int = BATCH,
        max_wait_ms: float = MAX_WAIT_MS,
        workers: int = 1,
        most_bytes: int = MOST_MIB * 2**20,
        max_queue_ms: float = MAX_QUEUE_MS,
        audit: float = 0.0,
        on_broken: OnBroken = "tell",
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Begin to serve.

        Args:
            cascade: the bundle, loaded; it must stay open.
            batch: samples that a stage runs at once, at the most.
            max_wait_ms: how long in all a sample may wait for others before later stages, while a full batch
                waits to begin; less where fewer do, and not at all where nobody does.
            workers: threads that run stages, each in rooms of its own. Survivors meet in larger batches the
                fewer there are, so one that runs graphs on all cores is best but on large machines.
            most_bytes: of pixels that were admitted and are not answered yet.
            max_queue_ms: how long one may have to wait before the first stage; whoever would is refused.
            audit: the share of samples that go through all stages when there is time, to watch the promise.
            on_broken: what comes of a promise that is broken: it is told, or thresholds rise besides.
            say: who is told.
        """
        self.cascade, self.tensors = cascade, Tensors.of(cascade.manifest)
        self.max_wait = finite_number(max_wait_ms, "wait in milliseconds", least=0) / 1e3
        self.batch = whole_number(batch, "batch", 1, MOST_BATCH)
        workers = whole_number(workers, "number of workers", 1, _MOST_WORKERS)
        most_seconds = finite_number(max_queue_ms, "queue in milliseconds", least=0) / 1e3
        self.queue = Queue(whole_number(most_bytes, "number of bytes", 1, 2**62), most_seconds, workers)
        stages, course = cascade.stages, cascade.course()
        self.thresholds: tuple[float, ...] | None = None
        """In place of the bundle's, once a promise was broken."""
        self.audit = self._audit(audit, on_broken, say)
        never = None if self.audit is None else cascade.course((NEVER,) * len(cascade.flow.early))
        clock = StageClock(cascade.manifest.macs)
        self._counts = [Counts(len(cascade.names)) for _ in range(workers)]
        self._workers = [
            Worker(
                stages,
                course,
                self.queue,
                clock,
                counts,
                batch=self.batch,
                wait=self.max_wait,
                audit=self.audit,
                never=never,
            )
            for counts in self._counts
        ]
        for worker in self._workers:
            worker.start()

    def _audit(self, share: float, on_broken: OnBroken, say: Callable[[str], None]) -> Audit | None:
        """Who watches the promise, if it is to be watched."""
        if not 0 <= finite_number(share, "share to audit", least=0) <= 1:
            raise OptionError(f"expected a share to audit from 0 to 1, got {share:g}")
        if not share:
            return None
        if not self.cascade.flow.is_chain:
            raise OptionError("--audit is for a chain of stages, whose last exit knows best")
        audit = Audit(share=share, bound=bound_of(self.cascade.manifest.promise), say=say)
        if on_broken == "raise-thresholds":
            audit.on_broken = lambda: self._raise(say)
        return audit

    def _raise(self, say: Callable[[str], None]) -> None:
        now = self.thresholds or self.cascade.flow.thresholds
        self.thresholds = more_cautious(now)
        say(f"thresholds are {', '.join(f'{each:.4g}' for each in self.thresholds)} from now on")

    def submit(
        self,
        images: "Array | Sequence[Source]",
        *,
        thresholds: Sequence[float] | None = None,
        offsets: Sequence[float] | None = None,
        last_stage: int | None = None,
        settings: Mapping[str, str] | None = None,
        deadline_ms: float | None = None,
        probabilities: bool = False,
        caller: str = "",
        ended: Callable[[Ticket], None] | None = None,
    ) -> Ticket:
        """Ask for answers; returns at once.

        Args:
            images: as for `Cascade.predict`; an array is not copied: leave it as it is until the end.
            thresholds: as there.
            offsets: as there.
            last_stage: as there.
            settings: as there.
            deadline_ms: as there, from now on.
            probabilities: as there.
            caller: who asks; callers are served in turn, whatever each has asked for.
            ended: called with the ticket as it ends, by a thread that is not to be kept.

        Raises:
            BusyError: more waits than may; it says when to come back.
            ClosedError: the service is being shut down.
            DataError: an image cannot be read.
            OptionError: an argument cannot be what it is.
        """
        now, cascade = time.perf_counter(), self.cascade
        if deadline_ms is not None:
            deadline_ms = finite_number(deadline_ms, "deadline in milliseconds", least=0)
        as_promised = all(each is None for each in (thresholds, last_stage, settings, offsets))
        chosen = self.thresholds if as_promised else thresholds
        course = cascade.course(chosen, last_stage, settings, offsets)
        pixels = cascade.reader.batch(images)
        if not len(pixels):
            raise DataError("expected one image or more, got none")
        ticket = Ticket(
            pixels,
            course,
            caller=caller,
            deadline=None if deadline_ms is None else now + deadline_ms / 1e3,
            classes=len(cascade.labels) if probabilities else None,
            stages=cascade.names,
            audited=as_promised and deadline_ms is None,
            ended=ended,
        )
        self.queue.put(ticket)
        return ticket

    def predict(self, images: "Array | Sequence[Source]", **asked: object) -> Predictions:
        """Ask, and wait for the answers."""
        return self.submit(images, **asked).result()  # type: ignore[arg-type]

    @property
    def counts(self) -> Counts:
        """What was done so far."""
        return Counts.sum(self._counts)

    def close(self, timeout: float | None = None) -> bool:
        """Take no more requests, and wait until all that were accepted are answered; whether they are."""
        self.queue.close()
        until = None if timeout is None else time.monotonic() + timeout
        for worker in self._workers:
            if worker is not threading.current_thread():
                worker.join(None if until is None else max(0.0, until - time.monotonic()))
        return not any(worker.is_alive() for worker in self._workers)

    def __enter__(self) -> "Service":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
