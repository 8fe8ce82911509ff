"""What a caller asked for, and its answers in the making.

Place in the flow: `Service.submit` ──▶ `Ticket` ──▶ queue ──▶ a worker fills it in ──▶ whoever asked.
"""

import threading
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.decide.course import Course
from s2dnas_deploy.errors import S2dnasError
from s2dnas_deploy.runtime.predictions import Predictions
from s2dnas_deploy.runtime.stages import Array


class CancelledError(S2dnasError):
    """The caller did not wait for the answers."""


class Ticket:
    """A request of one caller: images [N, …], the course that they go, and an answer for each.

    `since` is when it came, and `deadline` when the answers are wanted, as `time.perf_counter` tells time. It
    ends once, with all answers or with an error.
    """

    __slots__ = (
        "_done",
        "_ended",
        "_lock",
        "audited",
        "caller",
        "cancelled",
        "confidence",
        "course",
        "deadline",
        "entered",
        "error",
        "exit",
        "images",
        "label",
        "left",
        "probabilities",
        "since",
        "stages",
        "went",
    )

    def __init__(
        self,
        images: Array,
        course: Course,
        *,
        caller: str,
        deadline: float | None,
        classes: int | None,
        stages: tuple[str, ...],
        audited: bool = False,
        ended: "Callable[[Ticket], None] | None" = None,
    ) -> None:
        """`classes`: of so many, if the probabilities of all are wanted; `ended` is called as it ends.

        `audited`: its images may be looked at further, for it asks for what was promised.
        """
        count = len(images)
        self.images, self.course, self.caller, self.stages = images, course, caller, stages
        self.since, self.deadline = time.perf_counter(), deadline
        self.entered, self.left, self.audited = 0, count, audited
        self.label = np.zeros(count, np.int64)
        self.confidence = np.zeros(count, np.float32)
        self.exit = np.full(count, -1, np.int64)
        self.probabilities: npt.NDArray[np.float32] | None = None
        if classes is not None:
            self.probabilities = np.zeros((count, classes), np.float32)
        self.went = None if course.flow.is_chain else np.zeros((count, len(stages)), np.bool_)
        self.cancelled = False
        self.error: S2dnasError | None = None
        self._ended, self._lock = ended, threading.Lock()
        self._done: threading.Event | None = None

    def fewer(self, count: int) -> bool:
        """So many images are answered, or need no answer any more; whether they were the last."""
        with self._lock:
            self.left -= count
            return self.left == 0

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to come."""
        return self.left == 0 or self.error is not None

    def cancel(self) -> None:
        """The caller no longer waits: what has not run yet need not."""
        self.cancelled = True
        self.end(CancelledError("the caller did not wait for the answers"))

    def end(self, error: S2dnasError | None = None) -> None:
        """All answers are there, or an error in their place; whoever waits is told, once."""
        with self._lock:
            if self.error is not None or (error is not None and self.left == 0):
                return
            self.error, done = error, self._done
            ended, self._ended = self._ended, None
        if done is not None:
            done.set()
        if ended is not None:
            ended(self)

    def result(self, timeout: float | None = None) -> Predictions:
        """Wait for the answers.

        Raises:
            TimeoutError: they were not there in so many seconds.
            S2dnasError: what kept them from being there.
        """
        with self._lock:
            if not self.is_over and self._done is None:
                self._done = threading.Event()
            done = self._done
        if done is not None and not done.wait(timeout):
            raise TimeoutError(f"no answer within {timeout:g} s")
        return self.answers()

    def answers(self) -> Predictions:
        """The answers, which must be there."""
        if self.error is not None:
            raise self.error
        return Predictions(
            label=self.label,
            confidence=self.confidence,
            exit=self.exit,
            probabilities=self.probabilities,
            stages=self.stages,
            _ran=self.went,
        )
