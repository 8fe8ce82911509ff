"""What is timed: the cascade, each exit or choice of a setting by itself, the static network, and yardsticks.

Place in the flow: `Job` ──load──▶ `Subject`s, which the `worker` calls in turns on the same images. All run
on sessions with the same settings, get pixels in the host's memory, and end with the answer there.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from s2dnas_deploy.bench.workers.job import Job
from s2dnas_deploy.decide.rules import NEVER
from s2dnas_deploy.runtime.baseline import Baseline
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.stages import Array
from s2dnas_deploy.sessions.providers import choose_provider

CASCADE, STATIC = "cascade", "static"
YARDSTICKS = ARITHMETIC, MEMORY = "arithmetic", "memory"
_WEIGHTS = 2**21  # 8 MiB, more than most processors have for a core of their own

Subject = Callable[[Array], Any]


def exit_name(stage: int) -> str:
    """The subject that answers everything at one exit."""
    return f"exit {stage}"


def choice_name(setting: str, choice: str) -> str:
    """The subject that answers as it does if a caller chooses that; the other settings are as they are."""
    return f"{setting}={choice}"


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


def load_all(job: Job) -> tuple[dict[str, Subject], Cascade]:
    """All subjects, and the cascade itself."""
    cascade = _cascade(job)
    subjects: dict[str, Subject] = {CASCADE: cascade.predict}
    if cascade.flow.is_chain:
        never = (NEVER,) * len(cascade.flow.early)
        for k in range(len(cascade.names)):
            subjects[exit_name(k)] = partial(cascade.predict, thresholds=never, last_stage=k)
    for name, each in cascade.flow.settings.items():
        for choice in each.choices:
            subjects[choice_name(name, choice)] = partial(cascade.predict, settings={name: choice})
    if job.static is not None:
        subjects[STATIC] = _static(job)
    return {**subjects, ARITHMETIC: Arithmetic(), MEMORY: Memory()}, cascade


def _cascade(job: Job) -> Cascade:
    return Cascade.load(job.bundle, provider=job.provider, threads=job.threads, trust=job.trust)


def _static(job: Job) -> Baseline:
    assert job.static is not None, "no static network was given"
    provider = choose_provider(job.provider)
    return Baseline(Path(job.static), provider, threads=job.threads, mean=job.mean, std=job.std)
