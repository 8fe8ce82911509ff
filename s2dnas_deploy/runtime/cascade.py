"""The cascade: each image goes from stage to stage as the bundle's routes send it, no further than it must.

Place in the flow: bundle ──load──▶ `Cascade` ──predict──▶ `Predictions` of a batch
                                            ──stream───▶ one `Prediction` after the other

Which samples go where is for `decide` to say, and `rooms` takes them there. What reads bundles and pictures
is imported by what needs it: to import this costs little more than to import onnxruntime.
"""

import contextlib
import os
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.decide.course import Course, Part, Rows, course_of
from s2dnas_deploy.decide.flow import LABEL, PROBABILITIES, Flow
from s2dnas_deploy.decide.rules import CONFIDENCE, NEVER
from s2dnas_deploy.decide.temperature import at_temperature
from s2dnas_deploy.errors import DataError, OptionError, ProviderError
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.runtime.lanes import Lanes
from s2dnas_deploy.runtime.predictions import Heard, Prediction, Predictions, Timing
from s2dnas_deploy.runtime.rooms import Numbers, Rooms
from s2dnas_deploy.runtime.stage_clock import StageClock
from s2dnas_deploy.runtime.stages import Array, Stages
from s2dnas_deploy.sessions.limits import finite_number, whole_number
from s2dnas_deploy.sessions.providers import CPU, choose_provider, is_choice

if TYPE_CHECKING:
    from s2dnas_deploy.bundle.bundle import Bundle
    from s2dnas_deploy.bundle.manifest import Manifest
    from s2dnas_deploy.runtime.bulk import Bulk, BulkOptions
    from s2dnas_deploy.runtime.pictures import Given, Source


_LARGEST_KEPT = 1024  # memory for larger batches is given back after each
_MOST_COURSES = 64


class Cascade:
    """A bundle, running. Safe to share between threads; pickled as the paths of its bundle and its key."""

    def __init__(
        self,
        bundle: "Bundle",
        *,
        provider: str = "auto",
        threads: int | None = None,
        allow_fallback: bool = False,
    ) -> None:
        from s2dnas_deploy.runtime.pictures import Reader

        self._how = {"provider": provider, "threads": threads, "allow_fallback": allow_fallback}
        self.folder, self.manifest, self.trust = bundle.folder, bundle.manifest, bundle.trust
        self.labels = bundle.manifest.labels
        self.digest = bundle.digest
        """The sha256 of its manifest."""
        self.names = tuple(stage.name for stage in bundle.manifest.stages)
        self.reader = Reader(bundle.manifest)
        self.flow = bundle.manifest.flow
        """Which samples go where, unless a call says otherwise."""
        self._stages: Stages | None = _start(bundle, provider, threads, allow_fallback=allow_fallback)
        self.provider = self._stages.provider.name
        """The provider that runs the stages; not the one asked for, if it fell back."""
        self._clock = StageClock(bundle.manifest.macs)
        self._free: list[Rooms | Lanes] = []
        self._course_of = lru_cache(_MOST_COURSES)(self._made_course)
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        bundle: Path | str,
        *,
        provider: str = "auto",
        threads: int | None = None,
        allow_fallback: bool = False,
        trust: Path | str | None = None,
    ) -> "Cascade":
        """Load a bundle from its folder.

        Args:
            bundle: the folder.
            provider: `auto` (the best there is), `cpu`, `cuda`, `tensorrt`, `openvino`, …
            threads: cores to use; all that the process may use, by default.
            allow_fallback: whether the CPU will do where the provider asked for is not there.
            trust: the file of a public key: only a bundle that its owner has signed, all of it.

        Returns:
            The cascade, ready to answer. Closing it gives memory and sessions back.

        Raises:
            BundleError: the bundle is damaged, hostile, not signed or of an unknown version.
            ProviderError: the provider is not there, or does not start.
            OptionError: an argument cannot be what it is.

        Example:
            >>> with Cascade.load("bundle/", provider="cpu", threads=1) as cascade:
            ...     print(cascade.labels[cascade.predict(["cat.jpg"]).label[0]])
        """
        from s2dnas_deploy.bundle.bundle import load_bundle

        key = None if trust is None else _path(trust, "the file of a public key to trust")
        read = load_bundle(_path(bundle, "the folder of a bundle"), key)
        return cls(read, provider=provider, threads=threads, allow_fallback=allow_fallback)

    # --- answering -----------------------------------------------------------------------------------------

    def predict(
        self,
        images: "Array | Sequence[Source]",
        *,
        thresholds: Sequence[float] | None = None,
        offsets: Sequence[float] | None = None,
        last_stage: int | None = None,
        settings: Mapping[str, str] | None = None,
        deadline_ms: float | None = None,
        probabilities: bool = False,
        timed: bool = False,
    ) -> Predictions:
        """Answer for a batch of images.

        Args:
            images: an array, uint8 [N, H, W, C] (float32 [N, C, H, W] for a bundle of `--float-input`), or a
                list of paths, of Pillow's pictures or of such arrays without N.
            thresholds: in place of the bundle's, one for each exit that may be passed; above 1, nobody exits.
            offsets: in place of the bundle's, what is added to the gate's numbers, one for each of its ways.
            last_stage: of a chain, no stage after it runs.
            settings: what the bundle lets callers choose, by name, such as `{"width": "half"}`.
            deadline_ms: a stage runs only if, by the times seen so far, it ends within so many milliseconds
                of the call. Those without which there is no answer run always.
            probabilities: whether those of all classes are wanted, too.
            timed: whether it is wanted how long each stage took.

        Returns:
            One answer per image, in the same order.

        Raises:
            DataError: an image cannot be read, or is not of the shape and type that the bundle takes.
            OptionError: an argument cannot be what it is.
            BundleError: a graph does not compute what the manifest says.
            ProviderError: the provider failed, as when memory runs out.

        Example:
            >>> said = cascade.predict(np.zeros((8, 32, 32, 3), np.uint8), thresholds=(0.9, 0.8))
            >>> said.label, said.confidence, said.exit, said.way  # [8], [8], [8], [8, stages]
        """
        start = time.perf_counter()
        if deadline_ms is not None:
            deadline_ms = finite_number(deadline_ms, "deadline in milliseconds", least=0)
        course = self.course(thresholds, last_stage, settings, offsets)
        pixels = self.reader.batch(images)
        desk = _Batch(
            course.flow,
            len(pixels),
            manifest=self.manifest if probabilities else None,
            clock=self._clock if timed or deadline_ms is not None else None,
            deadline=None if deadline_ms is None else start + deadline_ms / 1e3,
        )
        with self.rooms(len(pixels)) as rooms:
            rooms.open(course, desk)
            begun = time.perf_counter()
            rooms.enter_all(pixels)
            entered = time.perf_counter()
            if len(pixels):
                rooms.drain()
            ended = time.perf_counter()
        timing = None
        if desk.clock is not None:
            seconds = (*desk.seconds, *[0.0] * (len(self.flow.stops) - len(desk.seconds)))
            rest = ended - entered - sum(seconds)
            timing = Timing(copied=entered - begun, stages=seconds, rest=rest)
        return Predictions(
            label=desk.label,
            confidence=desk.confidence,
            exit=desk.exit,
            probabilities=desk.probabilities,
            timing=timing,
            stages=self.names,
            _ran=desk.went,
        )

    def all_exits(self, images: Array) -> Heard:
        """What every exit of a chain says of a batch."""
        return self._recorded(self.course((NEVER,) * len(self.flow.early)), images)

    def all_ways(self, images: Array) -> tuple[Heard, npt.NDArray[np.float32]]:
        """What every way behind a gate says of a batch, and the gate's numbers, [N, ways]."""
        ways, looks = len(self.flow.stops) - 1, self.flow.looked_at[0]
        assert looks is not None, "a gate has numbers"
        numbers = np.empty((len(images), ways), np.float32)
        heard = Heard.of_none(ways, len(images), len(self.labels))
        for way in range(ways):

            def junction(arrays: Mapping[str, Array], count: int, way: int = way) -> Sequence[Part]:
                numbers[:] = arrays[looks][:count]
                return ((1 + way, None),)

            course = self.course()
            told = self._recorded(replace(course, junctions=(junction, *course.junctions[1:])), images)
            for ours, theirs in zip(vars(heard).values(), vars(told).values(), strict=True):
                ours[way] = theirs[1 + way]
        return heard, numbers

    def _recorded(self, course: Course, images: Array) -> Heard:
        desk = _Recorder(Heard.of_none(len(self.names), len(images), len(self.labels)))
        with self.rooms(len(images)) as rooms:
            rooms.open(course, desk)
            rooms.enter_all(images)
            rooms.drain()
        return desk.heard

    def stream(self, sources: "Iterable[Given]", **options: Any) -> Iterator[Prediction]:
        """Answer for any number of images, one after the other, in bounded memory.

        Images are read ahead by threads, and those that go on wait for others, so late stages run full.

        Args:
            sources: paths, Pillow's pictures or arrays of one image each; any iterable, even without end.
            **options: `batch` (32 images at a time), `workers` (threads that read images), and `thresholds`,
                `offsets`, `last_stage`, `settings` and `probabilities` as for `predict`.

        Yields:
            One `Prediction` per source, in the same order.

        Raises:
            DataError: an image cannot be read; `stream_with_errors` gives the error in its place.
            OptionError: an option cannot be what it is.
            BundleError: a graph does not compute what the manifest says.
            ProviderError: the provider failed, as when memory runs out.

        Example:
            >>> for said in cascade.stream(sorted(Path("images").glob("*.jpg")), batch=64):
            ...     print(said.name, said.confidence, said.exit)
        """
        return _raising(self.stream_with_errors(sources, **options))

    def stream_with_errors(
        self, sources: "Iterable[Given]", **options: Any
    ) -> "Generator[Prediction | DataError]":
        """As `stream`, but for an image that cannot be read the answer is its `DataError`."""
        from s2dnas_deploy.runtime.bulk import bulk_options

        if isinstance(sources, (str, bytes, os.PathLike)):
            raise DataError(f"expected many images, got one path, {shown(sources)}: put it into a list")
        bulk = self.bulk(bulk_options(**options))
        try:
            each = iter(sources)
        except TypeError as problem:
            raise DataError(f"expected images, one after the other, got {shown(sources)}") from problem
        return bulk.answers(each)

    def bulk(self, options: "BulkOptions") -> "Bulk":
        """One way through many images, which counts what each stage had to do."""
        from s2dnas_deploy.runtime.bulk import Bulk

        course = self.course(options.thresholds, options.last_stage, options.settings, options.offsets)
        return Bulk(self.stages, self.reader, course, options)

    def course(
        self,
        thresholds: Sequence[float] | None = None,
        last_stage: int | None = None,
        settings: Mapping[str, str] | None = None,
        offsets: Sequence[float] | None = None,
    ) -> Course:
        """The course that samples take: with other thresholds or offsets, up to a stage, by the settings."""
        return self._course_of(
            None if thresholds is None else _numbers(thresholds, len(self.flow.early), _THRESHOLDS),
            None if last_stage is None else whole_number(last_stage, "last stage", 0, len(self.names) - 1),
            () if settings is None else _chosen(settings),
            None if offsets is None else self._offsets(offsets),
        )

    def _offsets(self, offsets: Sequence[float]) -> tuple[float, ...]:
        if self.flow.gate is None:
            raise OptionError("offsets are added to the numbers of a gate, and this bundle has none")
        return _numbers(offsets, len(self.flow.stops) - 1, _OFFSETS)

    def _made_course(
        self,
        thresholds: tuple[float, ...] | None,
        last_stage: int | None,
        settings: tuple[tuple[str, str], ...],
        offsets: tuple[float, ...] | None,
    ) -> Course:
        flow = self.flow if offsets is None else self.flow.with_offsets(offsets)
        if thresholds is not None:
            flow = flow.with_thresholds(thresholds)
        if last_stage is not None:
            flow = flow.up_to(last_stage)
        return course_of(flow, dict(settings))

    # --- parts ---------------------------------------------------------------------------------------------

    @property
    def stages(self) -> Stages:
        """The loaded stages, until the cascade is closed."""
        if self._stages is None:
            raise OptionError(f"the cascade of {self.folder} was closed; load it again")
        return self._stages

    def rooms(self, count: int) -> "_Lent":
        """Rooms for a batch, used by no one else meanwhile: a context."""
        stages = self.stages
        with self._lock:
            rooms = self._free.pop() if self._free else None
        if rooms is None or rooms.capacity < count:
            capacity = 1 << (max(count, 1) - 1).bit_length()
            rooms = Lanes(stages, capacity) if self.manifest.gathers else Rooms(stages, capacity)
        return _Lent(self, rooms)

    def give_back(self, rooms: Rooms | Lanes) -> None:
        """Keep rooms for the next batch, unless they are large or the cascade was closed meanwhile."""
        with self._lock:
            if self._stages is not None and rooms.capacity <= _LARGEST_KEPT:
                self._free.append(rooms)

    # --- life ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give memory and sessions back. Calls in other threads end as they would have."""
        with self._lock:
            self._free.clear()
        self._stages = None

    def __enter__(self) -> "Cascade":
        _ = self.stages  # a closed one cannot be entered
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (os.fspath(self.folder.absolute()), {**self._how, "trust": self.trust})

    def __repr__(self) -> str:
        state = "closed" if self._stages is None else self.provider
        return f"<Cascade {self.manifest.name}: {len(self.names)} stages, {state}>"


class _Lent:
    """Rooms in use, given back at the end. A generator as context would take 2 µs more in every call."""

    __slots__ = ("_cascade", "_rooms")

    def __init__(self, cascade: Cascade, rooms: Rooms | Lanes) -> None:
        self._cascade, self._rooms = cascade, rooms

    def __enter__(self) -> Rooms | Lanes:
        return self._rooms

    def __exit__(self, *error: object) -> None:
        self._cascade.give_back(self._rooms)


class _Batch:
    """The desk of one batch: an answer for each sample, and until when it may take."""

    def __init__(
        self,
        flow: Flow,
        count: int,
        *,
        manifest: "Manifest | None",
        clock: StageClock | None,
        deadline: float | None,
    ) -> None:
        """`manifest`: if probabilities are wanted, what says how they are told."""
        self.clock, self._deadline = clock, deadline
        self.watches = clock is not None or not flow.is_chain
        self.hurries = deadline is not None
        self.hears_all = self.hurries or flow.remembers
        self.label = np.empty(count, np.int64)
        self.confidence = np.empty(count, np.float32)
        self.exit = np.full(count, -1, np.int64) if self.hears_all else np.empty(count, np.int64)
        self.probabilities: npt.NDArray[np.float32] | None = None
        if manifest is not None:
            self.probabilities = np.empty((count, len(manifest.labels)), np.float32)
            self._temperatures = manifest.probability_temperatures
        self.seconds = [0.0] * len(flow.stops)
        # In a chain the exit tells the way.
        self.went = None if flow.is_chain else np.zeros((count, len(flow.stops)), np.bool_)

    def ran(self, stage: int, numbers: Numbers, seconds: float) -> None:
        """As a `Desk`."""
        self.seconds[stage] += seconds
        if self.clock is not None:
            self.clock.note(stage, len(numbers), seconds)
        if self.went is not None:
            self.went[numbers, stage] = True

    def take(self, stage: int, numbers: Numbers, arrays: Mapping[str, Array], rows: Rows | slice) -> None:
        """As a `Desk`."""
        self.label[numbers] = arrays[LABEL][rows]
        self.confidence[numbers] = arrays[CONFIDENCE][rows]
        self.exit[numbers] = stage
        if self.probabilities is not None:
            found = arrays[PROBABILITIES][rows]
            self.probabilities[numbers] = at_temperature(found, self._temperatures[stage])

    def stays(self, place: int, numbers: Numbers) -> npt.NDArray[np.bool_]:
        """As a `Desk`."""
        assert self._deadline is not None, "who hurries has a deadline"
        assert self.clock is not None, "who has a deadline looks at a clock"
        is_late = time.perf_counter() + self.clock.expects(place, len(numbers)) > self._deadline
        return np.full(len(numbers), is_late and bool((self.exit[numbers] >= 0).all()))

    def leave(self, numbers: Numbers) -> None:
        """As a `Desk`."""


class _Recorder:
    """A desk that writes every stage's answers down."""

    watches, hears_all, hurries = False, True, False

    def __init__(self, heard: Heard) -> None:
        self.heard = heard

    def ran(self, stage: int, numbers: Numbers, seconds: float) -> None:
        """As a `Desk`."""

    def take(self, stage: int, numbers: Numbers, arrays: Mapping[str, Array], rows: Rows | slice) -> None:
        """As a `Desk`."""
        self.heard.label[stage, numbers] = arrays[LABEL][rows]
        self.heard.confidence[stage, numbers] = arrays[CONFIDENCE][rows]
        self.heard.probabilities[stage, numbers] = arrays[PROBABILITIES][rows]

    def stays(self, place: int, numbers: Numbers) -> npt.NDArray[np.bool_]:
        """As a `Desk`."""
        raise AssertionError("nobody hurries")

    def leave(self, numbers: Numbers) -> None:
        """As a `Desk`."""


def _start(bundle: "Bundle", name: str, threads: int | None, *, allow_fallback: bool) -> Stages:
    """The stages on the provider asked for; on the CPU, if that may be and the provider does not start.

    It may be where a fallback is allowed, and where the best there is was asked for: onnxruntime-gpu lists
    CUDA on a machine without a GPU, too.
    """
    chosen = choose_provider(name, allow_fallback=allow_fallback)
    try:
        return Stages(bundle, chosen, threads=threads)
    except ProviderError:
        if chosen is CPU or not (allow_fallback or is_choice(name)):
            raise
        return Stages(bundle, CPU, threads=threads)


def _path(given: object, what: str) -> str:
    path = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    if not isinstance(path, str):
        raise OptionError(f"expected {what}, got {shown(given)}")
    return path


_THRESHOLDS = ("thresholds, a number for each exit that may be passed", "threshold (above 1, nobody exits)")
_OFFSETS = ("offsets, a number for each way behind the gate", "offset")


def _numbers(given: Sequence[float], count: int, what: tuple[str, str]) -> tuple[float, ...]:
    are_some = isinstance(given, (Sequence, np.ndarray)) and not isinstance(given, (str, bytes))
    if not are_some or getattr(given, "ndim", 1) != 1 or len(given) != count:
        raise OptionError(f"expected {count} {what[0]}, got {shown(given)}")
    return tuple(finite_number(each, what[1]) for each in given)


def _chosen(settings: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    if not isinstance(settings, Mapping) or not all(isinstance(each, str) for each in settings.values()):
        raise OptionError(f"expected settings by name, such as {{'width': 'half'}}, got {shown(settings)}")
    return tuple(sorted(settings.items()))


def _raising(answers: Generator[Prediction | DataError]) -> Iterator[Prediction]:
    with contextlib.closing(answers):
        for answer in answers:
            if isinstance(answer, DataError):
                raise answer
            yield answer


def _load(folder: str, how: dict[str, Any]) -> Cascade:
    return Cascade.load(folder, **how)
