"""What is timed: the cascade, each exit as a network of its own, the static network, and yardsticks.

Place in the flow: `Job` ──load──▶ `Subject`s, which the `worker` calls in turns on the same images. All run
on sessions with the same settings, get pixels in the host's memory, and end with the answer there.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from s2dnas_deploy.bundle.bundle import MACS
from s2dnas_deploy.bundle.manifest import CONFIDENCE, LABEL
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.run.bench.job import Job
from s2dnas_deploy.run.calibrate import NEVER
from s2dnas_deploy.run.cascade import Cascade
from s2dnas_deploy.run.providers import Provider, choose_provider, make_session
from s2dnas_deploy.run.stages import Array

CASCADE, STATIC = "cascade", "static"
YARDSTICKS = ARITHMETIC, MEMORY = "arithmetic", "memory"
_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}

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


class Baseline:
    """A network in one ONNX file, of this package's making or another's, that answers with classes.

    It is given what the bundle is given. One that takes floats has them normalised here, for somebody has to;
    the bundle's own graphs do it inside.
    """

    def __init__(
        self,
        path: Path,
        provider: Provider,
        *,
        threads: int | None,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.path, self._provider = path, provider
        self._mean, self._std = (np.asarray(each, np.float32).reshape(-1, 1, 1) for each in (mean, std))
        self._session = make_session(str(path), provider, threads=threads)
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            several = ", ".join(value.name for value in inputs)
            raise OptionError(f"{path}: expected a network with one input, the images; it has {several}")
        self._input = inputs[0]
        names = [output.name for output in self._session.get_outputs()]
        self._outputs = [LABEL, CONFIDENCE] if {LABEL, CONFIDENCE} <= set(names) else names[:1]
        size = self._input.shape[0]
        self.fixed_batch = size if isinstance(size, int) else None

    @property
    def macs(self) -> int | None:
        """Its MACs for one image, if the file tells."""
        told = self._session.get_modelmeta().custom_metadata_map.get(MACS, "")
        return int(told) if told.isdigit() else None

    def __call__(self, images: Array) -> Array:
        """The class of each image; one call after the other for a graph of a fixed batch size."""
        size = self.fixed_batch or len(images)
        said = [self._answer(images[i : i + size]) for i in range(0, len(images), size)]
        return said[0] if len(said) == 1 else np.concatenate(said)

    def _answer(self, images: Array) -> Array:
        short = (self.fixed_batch or 0) - len(images)
        given = np.concatenate([images, np.repeat(images[-1:], short, axis=0)]) if short > 0 else images
        binding = self._session.io_binding()
        binding.bind_cpu_input(self._input.name, np.ascontiguousarray(self.taken(given)))
        for name in self._outputs:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        answer: Array = binding.get_outputs()[0].numpy()
        if self._outputs[0] != LABEL:
            answer = answer.reshape(len(answer), -1).argmax(axis=1)
        return answer[: len(images)]

    def taken(self, pixels: Array) -> Array:
        """What the bundle takes as this network takes it: as it is, or normalised to float [N, C, H, W]."""
        kind, shape = _TYPES.get(self._input.type), tuple(self._input.shape[1:])
        if kind is not None and _fits(shape, pixels.shape[1:]) and pixels.dtype == kind:
            return pixels
        height, width, channels = pixels.shape[1:]
        takes_floats = pixels.dtype == np.uint8 and kind in (np.float32, np.float16)
        if takes_floats and _fits(shape, (channels, height, width)):
            planes = pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
            normalised: Array = ((planes - self._mean) / self._std).astype(kind)
            return normalised
        raise OptionError(
            f"{self.path}: it takes {self._input.type} {list(self._input.shape)}; expected what the bundle "
            f"takes, {pixels.dtype} [N, {', '.join(map(str, pixels.shape[1:]))}], or for a bundle of bytes "
            f"float [N, {channels}, {height}, {width}], normalised as in training"
        )


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
    return Cascade.load(job.bundle, provider=job.provider, threads=job.threads)


def _static(job: Job) -> Baseline:
    assert job.static is not None, "no static network was given"
    provider = choose_provider(job.provider)
    return Baseline(Path(job.static), provider, threads=job.threads, mean=job.mean, std=job.std)


def _fits(declared: tuple[Any, ...], shape: tuple[int, ...]) -> bool:
    """Whether images of a shape fit what a graph declares; a size without a number may be any."""
    pairs = zip(declared, shape, strict=False)
    return len(declared) == len(shape) and all(not isinstance(d, int) or d == s for d, s in pairs)
