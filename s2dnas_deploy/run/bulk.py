"""Any number of images: decoding and inference overlap, late stages run full, the order stays.

Place in the flow: sources ──threads──▶ pixels ──▶ room 0 ──stage 0──▶ room 1 ──stage 1──▶ … ──▶ answers.

Each stage has a room that holds one batch. Those who do not leave after stage k go to room k + 1, from as
many batches as it takes; a stage runs when its room is full. So memory is one batch of images and of the
features that are still read, per stage, and the images read ahead, whatever the number of images.

After every window of images all rooms are emptied, full or not. That bounds how long an answer can wait for
its room to fill (and how many answers wait for it, to keep the order), and it makes the answers of a window
depend on the images of that window alone: a run that goes on from a window's start gives the very same bits.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.bundle.manifest import ANSWERS, CONFIDENCE, IMAGE, LABEL, PROBABILITIES
from s2dnas_deploy.errors import DataError, OptionError
from s2dnas_deploy.run.cascade import Cascade, Prediction
from s2dnas_deploy.run.limits import MOST_BATCH, MOST_WORKERS, whole_number
from s2dnas_deploy.run.pictures import Given, Reader
from s2dnas_deploy.run.providers import usable_cores
from s2dnas_deploy.run.stages import Array, Stages, features_read_after

WINDOW_BATCHES = 64
Answer = Prediction | DataError


@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """How to go through many images; `workers` are the threads that decode."""

    batch: int = 32
    thresholds: Sequence[float] | None = None
    last_stage: int | None = None
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
    """One way through many images; counts what each stage had to do."""

    def __init__(self, cascade: Cascade, options: BulkOptions) -> None:
        self.cascade, self.options = cascade, options
        self.rules = cascade.rules_with(options.thresholds, options.last_stage)
        self.stage_samples = [0] * len(self.rules)
        self.stage_seconds = [0.0] * len(self.rules)
        stages = cascade.stages
        self._desk: _Rooms | _Device = _Device(self) if stages.resident else _Rooms(self, stages)

    def answers(
        self, sources: Iterable[Given], stop: Callable[[], bool] = lambda: False
    ) -> Generator[Answer]:
        """One answer per source, in order; `stop` is asked at every image whether to leave it at that."""
        waiting: dict[int, Answer] = {}
        given = 0
        with closing(decoded(sources, self.cascade.reader, self.options)) as images:
            for number, image in enumerate(images):
                if stop():
                    return
                if isinstance(image, DataError):
                    waiting[number] = image
                else:
                    self._desk.enter(number, image, waiting)
                if (number + 1) % self.options.window == 0:
                    self._desk.empty(waiting)
                while given in waiting:
                    yield waiting.pop(given)
                    given += 1
        self._desk.empty(waiting)
        while given in waiting:
            yield waiting.pop(given)
            given += 1

    def note(self, stage: int, count: int, seconds: float) -> None:
        """A stage has run."""
        self.stage_samples[stage] += count
        self.stage_seconds[stage] += seconds

    def prediction(self, label: int, confidence: float, exit_: int, likely: Array | None) -> Prediction:
        """What is said of one image."""
        return Prediction(
            label=label,
            name=self.cascade.labels[label],
            confidence=confidence,
            exit=exit_,
            probabilities=likely,
        )


class _Rooms:
    """A room before each stage; survivors of many batches gather there."""

    def __init__(self, bulk: Bulk, stages: Stages) -> None:
        self.bulk, self.stages = bulk, stages
        manifest = stages.manifest
        self.carried = tuple(features_read_after(manifest, k) for k in range(len(bulk.rules)))
        self.rooms = []
        for k in range(len(bulk.rules)):
            brought = self.carried[k - 1] if k else (IMAGE,)
            given = [spec.name for spec in manifest.stages[k].gives]
            names = (*brought, *given, *ANSWERS, *stages.rows[k])
            self.rooms.append(_Room(stages, names, bulk.options.batch, k))

    def enter(self, number: int, image: Array, waiting: dict[int, Answer]) -> None:
        room = self.rooms[0]
        room.buffers.arrays[IMAGE][room.count] = image
        room.numbers[room.count] = number
        room.count += 1
        if room.count == self.bulk.options.batch:
            self._serve(0, waiting)

    def empty(self, waiting: dict[int, Answer]) -> None:
        """Serve everybody who waits, so that nobody does."""
        for k, room in enumerate(self.rooms):
            if room.count:
                self._serve(k, waiting)

    def _serve(self, k: int, waiting: dict[int, Answer]) -> None:
        """Run stage k on its room: some leave, the others go to the next room."""
        room, count = self.rooms[k], self.rooms[k].count
        begun = time.perf_counter()
        self.stages.run(k, room.buffers, count)
        self.bulk.note(k, count, time.perf_counter() - begun)
        room.count = 0
        arrays = room.buffers.arrays
        leaves = self.bulk.rules[k].leaves(arrays[CONFIDENCE][:count])
        self._let_go(k, leaves.nonzero()[0], waiting)
        stay = (~leaves).nonzero()[0]
        while len(stay):
            following = self.rooms[k + 1]
            fit = stay[: self.bulk.options.batch - following.count]
            following.welcome(room, fit, self.carried[k])
            stay = stay[len(fit) :]
            if following.count == self.bulk.options.batch:
                self._serve(k + 1, waiting)

    def _let_go(self, k: int, rows: npt.NDArray[np.intp], waiting: dict[int, Answer]) -> None:
        room, arrays = self.rooms[k], self.rooms[k].buffers.arrays
        for row, number, label, confidence in zip(
            rows.tolist(),
            room.numbers[rows].tolist(),
            arrays[LABEL][rows].tolist(),
            arrays[CONFIDENCE][rows].tolist(),
            strict=True,
        ):
            likely = arrays[PROBABILITIES][row].copy() if self.bulk.options.probabilities else None
            waiting[number] = self.bulk.prediction(label, confidence, k, likely)


class _Room:
    """One batch before a stage: which images are there, and what the stage reads of them."""

    def __init__(self, stages: Stages, names: Iterable[str], batch: int, stage: int) -> None:
        self.buffers = stages.buffers(batch, names)
        self.numbers = np.zeros(batch, np.int64)
        self.count = 0
        for name in stages.rows[stage]:  # graphs that pick rows themselves find all of theirs here
            self.buffers.arrays[name][:] = np.arange(len(self.buffers.arrays[name]))

    def welcome(self, room: "_Room", rows: npt.NDArray[np.intp], names: Iterable[str]) -> None:
        """Let these rows of the room before in, with what is still to be read of them."""
        seats = slice(self.count, self.count + len(rows))
        for name in names:
            room.buffers.arrays[name].take(rows, axis=0, out=self.buffers.arrays[name][seats], mode="clip")
        self.numbers[seats] = room.numbers[rows]
        self.count += len(rows)


class _Device:
    """Features live on the device and stay there: each batch goes through the stages by itself."""

    def __init__(self, bulk: Bulk) -> None:
        self.bulk = bulk
        self.numbers: list[int] = []
        self.images: list[Array] = []

    def enter(self, number: int, image: Array, waiting: dict[int, Answer]) -> None:
        self.numbers.append(number)
        self.images.append(image)
        if len(self.images) == self.bulk.options.batch:
            self.empty(waiting)

    def empty(self, waiting: dict[int, Answer]) -> None:
        if not self.images:
            return
        options = self.bulk.options
        said = self.bulk.cascade.predict(
            np.stack(self.images),
            thresholds=options.thresholds,
            last_stage=options.last_stage,
            probabilities=options.probabilities,
            timed=True,
        )
        for k, seconds in enumerate((said.stage_seconds or ())[: len(self.bulk.rules)]):
            self.bulk.note(k, int((said.exit >= k).sum()), seconds)
        likely = said.probabilities
        for i, number in enumerate(self.numbers):
            waiting[number] = self.bulk.prediction(
                int(said.label[i]),
                float(said.confidence[i]),
                int(said.exit[i]),
                None if likely is None else likely[i].copy(),
            )
        self.numbers, self.images = [], []


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
