"""What is timed: the cascade, each exit as a network of its own, the static network, and yardsticks.

Place in the flow: `Job` ──load──▶ `Subject`s, which the `worker` calls in turns on the same images. All run
on sessions with the same settings, get pixels in the host's memory, and end with the answer there.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from s2dnas_deploy.run.baseline import Baseline
from s2dnas_deploy.run.bench.job import Job
from s2dnas_deploy.run.calibrate import NEVER
from s2dnas_deploy.run.cascade import Cascade
from s2dnas_deploy.run.providers import choose_provider
from s2dnas_deploy.run.stages import Array

CASCADE, STATIC = "cascade", "static"
YARDSTICKS = ARITHMETIC, MEMORY = "arithmetic", "memory"
_WEIGHTS = 2**21  # 8 MiB, more than most processors have for a core of their own

Subject = Callable[[Array], Any]


def exit_name(stage: int) -> str:
    """The subject that answers everything at one exit."""
    return f"exit {stage}"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Where the milliseconds of one batch went: copied in, in each stage, survivors moved together."""

    copied: float
    stages: tuple[float, ...]
    moved: float


class InParts:
    """The cascade's stages along the same exits, with a look at the clock around each piece of work."""

    def __init__(self, cascade: Cascade) -> None:
        self._cascade = cascade
        self.stages = len(cascade.rules)

    def __call__(self, images: Array) -> Parts:
        """The same batch, in parts."""
        cascade, clock = self._cascade, time.perf_counter
        stages, moved = [0.0] * len(cascade.rules), 0.0
        with cascade.seats(len(images)) as seats:
            start = clock()
            seats.sit(images)
            copied = clock() - start
            for k, rule in enumerate(cascade.rules):
                start = clock()
                _, sure, _ = seats.run(k)
                stages[k] = clock() - start
                start = clock()
                go_on = (~rule.leaves(sure)).nonzero()[0]
                if not len(go_on):
                    break
                seats.stay(go_on, k)
                moved += clock() - start
        in_ms = tuple(1e3 * seconds for seconds in stages)
        return Parts(copied=1e3 * copied, stages=in_ms, moved=1e3 * moved)


class Arithmetic:
    """A fixed product by numpy, a fraction of a millisecond: how fast the machine computes just now."""

    def __init__(self) -> None:
        self._matrix = np.random.default_rng(0).random((192, 192), dtype=np.float32)

    def __call__(self, images: Array) -> None:
        """The product; what the images are does not matter."""
        self._matrix @ self._matrix


class Memory:
    """A fixed sum by numpy, of as much as the weights of a network: how fast memory is read just now.

    Who else uses the machine shares its memory, and a stage of many weights feels that; one of few does not.
    """

    def __init__(self) -> None:
        self._numbers = np.random.default_rng(0).random(_WEIGHTS, dtype=np.float32)

    def __call__(self, images: Array) -> None:
        """The sum; what the images are does not matter."""
        self._numbers.sum()


def load_subject(job: Job, name: str) -> Subject:
    """One subject, ready to answer."""
    return _static(job) if name == STATIC else _cascade(job).predict


def load_all(job: Job) -> tuple[dict[str, Subject], InParts]:
    """All subjects, and the cascade in parts."""
    cascade = _cascade(job)
    subjects: dict[str, Subject] = {CASCADE: cascade.predict}
    for k in range(len(cascade.rules)):
        never = (NEVER,) * (len(cascade.rules) - 1)
        subjects[exit_name(k)] = partial(cascade.predict, thresholds=never, last_stage=k)
    if job.static is not None:
        subjects[STATIC] = _static(job)
    return {**subjects, ARITHMETIC: Arithmetic(), MEMORY: Memory()}, InParts(cascade)


def _cascade(job: Job) -> Cascade:
    return Cascade.load(job.bundle, provider=job.provider, threads=job.threads, trust=job.trust)


def _static(job: Job) -> Baseline:
    assert job.static is not None, "no static network was given"
    provider = choose_provider(job.provider)
    return Baseline(Path(job.static), provider, threads=job.threads, mean=job.mean, std=job.std)
