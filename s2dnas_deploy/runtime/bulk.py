"""Any number of images: decoding and inference overlap, late stages run full, the order stays.

Place in the flow: sources ──threads──▶ pixels ──▶ rooms ──▶ answers, in the order of the sources.

Survivors of many batches wait together before a stage, until its room is full. So memory is a batch of images
and features per stage, and the images read ahead, whatever the number of images.

After every window of images all rooms are emptied, full or not. That bounds how long an answer can wait for
its room to fill (and how many answers wait for it, to keep the order), and it makes the answers of a window
depend on the images of that window alone: a run that goes on from a window's start gives the very same bits.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.decide.course import Course, Rows
from s2dnas_deploy.decide.flow import LABEL, PROBABILITIES
from s2dnas_deploy.decide.rules import CONFIDENCE
from s2dnas_deploy.decide.temperature import at_temperature
from s2dnas_deploy.errors import DataError, OptionError
from s2dnas_deploy.runtime.lanes import Lanes
from s2dnas_deploy.runtime.pictures import Given, Reader
from s2dnas_deploy.runtime.predictions import Prediction
from s2dnas_deploy.runtime.rooms import Numbers, Rooms
from s2dnas_deploy.runtime.stages import Array, Stages
from s2dnas_deploy.sessions.limits import MOST_BATCH, MOST_WORKERS, whole_number
from s2dnas_deploy.sessions.providers import usable_cores

WINDOW_BATCHES = 64
Answer = Prediction | DataError


@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """How to go through many images; `workers` are the threads that decode."""

    batch: int = 32
    thresholds: Sequence[float] | None = None
    offsets: Sequence[float] | None = None
    last_stage: int | None = None
    settings: Mapping[str, str] | None = None
    probabilities: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch", whole_number(self.batch, "batch", 1, MOST_BATCH))
        if self.workers is not None:
            workers = whole_number(self.workers, "number of workers", 1, MOST_WORKERS)
            object.__setattr__(self, "workers", workers)

    @property
    def window(self) -> int:
        """After so many images all rooms are emptied."""
        return WINDOW_BATCHES * self.batch


def bulk_options(**options: Any) -> BulkOptions:
    """The options by name; an unknown name is an error that says which there are."""
    names = [field.name for field in fields(BulkOptions)]
    unknown = sorted(set(options) - set(names))
    if unknown:
        raise OptionError(f"expected options among {', '.join(names)}, got {', '.join(unknown)}")
    return BulkOptions(**options)


class Bulk:
    """One way through many images, and the desk for it; counts what each stage had to do."""

    def __init__(self, stages: Stages, reader: Reader, course: Course, options: BulkOptions) -> None:
        self.stages, self.reader, self.options = stages, reader, options
        self._labels = stages.manifest.labels
        self._temperatures = stages.manifest.probability_temperatures
        flow, self._names = course.flow, tuple(stage.name for stage in stages.manifest.stages)
        self.watches, self.hears_all, self.hurries = True, flow.remembers, False
        self.stage_samples = [0] * len(flow.stops)
        self.stage_seconds = [0.0] * len(flow.stops)
        self._waiting: dict[int, Answer] = {}
        # By number of a sample that is on its way, the stages so far; in a chain the exit tells them.
        self._ways: dict[int, tuple[str, ...]] | None = None if flow.is_chain else {}
        self._rooms = (Lanes if stages.resident else Rooms)(stages, options.batch)
        self._rooms.open(course, self)

    def answers(
        self, sources: Iterable[Given], stop: Callable[[], bool] = lambda: False
    ) -> Generator[Answer]:
        """One answer per source, in order; `stop` is asked at every image whether to leave it at that."""
        waiting, given = self._waiting, 0
        with closing(decoded(sources, self.reader, self.options)) as images:
            for number, image in enumerate(images):
                if stop():
                    return
                if isinstance(image, DataError):
                    waiting[number] = image
                else:
                    self._rooms.enter(number, image)
                drained = (number + 1) % self.options.window == 0
                if drained:
                    self._rooms.drain()
                # While samples are on their way, an answer may not be the last one.
                while given in waiting and (drained or not self.hears_all):
                    yield self._final(given)
                    given += 1
        self._rooms.drain()
        while given in waiting:
            yield self._final(given)
            given += 1

    def _final(self, number: int) -> Answer:
        answer = self._waiting.pop(number)
        if self._ways is None or isinstance(answer, DataError):
            return answer
        return replace(answer, way=self._ways.pop(number))

    # --- the desk ------------------------------------------------------------------------------------------

    def ran(self, stage: int, numbers: Numbers, seconds: float) -> None:
        """As a `Desk`."""
        self.stage_samples[stage] += len(numbers)
        self.stage_seconds[stage] += seconds
        if self._ways is not None:
            for number in numbers.tolist():
                self._ways[number] = (*self._ways.get(number, ()), self._names[stage])

    def take(self, stage: int, numbers: Numbers, arrays: Mapping[str, Array], rows: Rows | slice) -> None:
        """As a `Desk`."""
        each = zip(
            numbers.tolist(), arrays[LABEL][rows].tolist(), arrays[CONFIDENCE][rows].tolist(), strict=True
        )
        likely = None
        if self.options.probabilities:
            likely = at_temperature(arrays[PROBABILITIES][rows].copy(), self._temperatures[stage])
        for at, (number, label, confidence) in enumerate(each):
            self._waiting[number] = Prediction(
                label=label,
                name=self._labels[label],
                confidence=confidence,
                exit=stage,
                way=self._names[: stage + 1] if self._ways is None else (),
                probabilities=None if likely is None else likely[at],
            )

    def stays(self, place: int, numbers: Numbers) -> npt.NDArray[np.bool_]:
        """As a `Desk`."""
        raise AssertionError("nobody hurries")

    def leave(self, numbers: Numbers) -> None:
        """As a `Desk`."""


def decoded(sources: Iterable[Given], reader: Reader, options: BulkOptions) -> Generator[Array | DataError]:
    """The images of the sources, read ahead in threads by a few batches, in order."""
    workers = options.workers or usable_cores()
    chunk = min(options.batch, _CHUNK_IMAGES)
    most_ahead = min(2 * workers, _MOST_AHEAD // chunk) + options.batch // chunk
    stopped = threading.Event()

    def read(chunk: list[Any]) -> list[Array | DataError]:
        images: list[Array | DataError] = []
        for source in chunk:
            if stopped.is_set():
                break
            try:
                images.append(reader.one(source))
            except DataError as problem:
                images.append(problem)
        return images

    ahead: deque[Future[list[Array | DataError]]] = deque()
    iterator = iter(sources)
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="decode")
    try:
        while True:
            while len(ahead) < most_ahead:
                # Copies, for whoever gives pictures may fill the same memory with the next one.
                following = [_own(source) for source in islice(iterator, chunk)]
                if not following:
                    break
                ahead.append(pool.submit(read, following))
            if not ahead:
                return
            yield from ahead.popleft().result()
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _own(source: Any) -> Any:
    return source.copy() if isinstance(source, np.ndarray) else source


_CHUNK_IMAGES = 16
_MOST_AHEAD = 512
