"""The cascade: stages run one after the other, each only for the samples that none before it was sure of.

Place in the flow: bundle ──load──▶ `Cascade` ──predict──▶ `Predictions` of a batch
                                            ──stream───▶ one `Prediction` after the other

Which samples leave where is for `bundle.exits` to say. What reads bundles and pictures is
imported by what needs it: to import this costs little more than to import onnxruntime.
"""

import contextlib
import os
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.bundle.exits import ExitRule
from s2dnas_deploy.errors import DataError, OptionError, ProviderError
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.run.clock import StageClock
from s2dnas_deploy.run.limits import finite_number, whole_number
from s2dnas_deploy.run.providers import CPU, choose_provider, is_choice
from s2dnas_deploy.run.seats import Seats
from s2dnas_deploy.run.stages import Array, Stages

if TYPE_CHECKING:
    from s2dnas_deploy.bundle.bundle import Bundle
    from s2dnas_deploy.run.pictures import Given, Source


_LARGEST_KEPT = 1024  # memory for larger batches is given back after each


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What the cascade says of a batch, one row per sample.

    `label` int64 [N], `confidence` float32 [N], `exit` int64 [N]: the stage after which the sample left;
    `probabilities` float32 [N, classes] and `stage_seconds` (per stage, 0 if it did not run) if asked for.
    """

    label: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    exit: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32] | None = None
    stage_seconds: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What the cascade says of one image: the class by number and name, how sure it is, and where it left."""

    label: int
    name: str
    confidence: float
    exit: int
    probabilities: npt.NDArray[np.float32] | None = None


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
        from s2dnas_deploy.run.pictures import Reader

        self._how = {"provider": provider, "threads": threads, "allow_fallback": allow_fallback}
        self.folder, self.manifest, self.trust = bundle.folder, bundle.manifest, bundle.trust
        self.labels = bundle.manifest.labels
        self.reader = Reader(bundle.manifest)
        self.rules = tuple(entry.exit for entry in bundle.manifest.stages)
        self._stages: Stages | None = _start(bundle, provider, threads, allow_fallback=allow_fallback)
        self.provider = self._stages.provider.name
        """The provider that runs the stages; not the one asked for, if it fell back."""
        self._clock = StageClock(bundle.manifest.macs)
        self._free: list[Seats] = []
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
        """Load a bundle from its folder, on `threads` cores (all that the process may use, by default).

        With `trust`, a public key: only one that its owner has signed, all of it.
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
        last_stage: int | None = None,
        deadline_ms: float | None = None,
        probabilities: bool = False,
        timed: bool = False,
    ) -> Predictions:
        """Answer for a batch: an array (uint8 [N, H, W, C], or as `--float-input` takes), paths, pictures.

        `thresholds` replaces the bundle's, one per exit but the last. No stage after `last_stage` runs. With
        `deadline_ms` a stage runs only if, by the times seen so far, it ends within so many milliseconds of
        the call; stage 0 always runs.
        """
        start = time.perf_counter()
        if deadline_ms is not None:
            deadline_ms = finite_number(deadline_ms, "deadline in milliseconds", least=0)
        rules = self.rules_with(thresholds, last_stage)
        pixels = self.reader.batch(images)
        count = len(pixels)
        deadline = None if deadline_ms is None else start + deadline_ms / 1e3
        timed = timed or deadline is not None
        seconds = [0.0] * len(self.rules)
        label = np.empty(count, np.int64)
        confidence = np.empty(count, np.float32)
        exits = np.empty(count, np.int64)
        every = np.empty((count, len(self.labels)), np.float32) if probabilities else None
        rows: Any = slice(None)  # of the answer, those that are still in
        with self.seats(count) as seats:
            if count:
                seats.sit(pixels)
            for k, rule in enumerate(rules if count else ()):
                begun = time.perf_counter() if timed else 0.0
                said, sure, likely = seats.run(k)
                if timed:
                    seconds[k] = time.perf_counter() - begun
                    self._clock.note(k, seats.count, seconds[k])
                # All who are still in get this answer; those who go on get a better one later.
                label[rows], confidence[rows], exits[rows] = said, sure, k
                if every is not None:
                    every[rows] = likely
                go_on = (~rule.leaves(sure)).nonzero()[0]
                if not len(go_on):
                    break
                if (
                    deadline is not None
                    and time.perf_counter() + self._clock.expects(k + 1, len(go_on)) > deadline
                ):
                    break
                if len(go_on) < seats.count:
                    rows = go_on if isinstance(rows, slice) else rows[go_on]
                    seats.stay(go_on, k)
        return Predictions(
            label=label,
            confidence=confidence,
            exit=exits,
            probabilities=every,
            stage_seconds=tuple(seconds) if timed else None,
        )

    def stream(self, sources: "Iterable[Given]", **options: Any) -> Iterator[Prediction]:
        """Answer for any number of images, one after the other, in bounded memory; see `bulk`.

        Options are those of `bulk.BulkOptions`: batch, thresholds, last_stage, probabilities, workers. An
        image that cannot be read ends it with a `DataError`; see `stream_with_errors`.
        """
        return _raising(self.stream_with_errors(sources, **options))

    def stream_with_errors(
        self, sources: "Iterable[Given]", **options: Any
    ) -> "Generator[Prediction | DataError]":
        """As `stream`, but for an image that cannot be read the answer is its `DataError`."""
        from s2dnas_deploy.run.bulk import Bulk, bulk_options

        if isinstance(sources, (str, bytes, os.PathLike)):
            raise DataError(f"expected many images, got one path, {shown(sources)}: put it into a list")
        bulk = Bulk(self, bulk_options(**options))
        try:
            each = iter(sources)
        except TypeError as problem:
            raise DataError(f"expected images, one after the other, got {shown(sources)}") from problem
        return bulk.answers(each)

    def rules_with(
        self, thresholds: Sequence[float] | None = None, last_stage: int | None = None
    ) -> tuple[ExitRule, ...]:
        """The exits in use: with other thresholds, or only up to a stage, which then takes all."""
        rules = self.rules
        if thresholds is not None:
            early = [
                replace(rule, threshold=threshold)
                for rule, threshold in zip(rules, _numbers(thresholds, len(rules) - 1), strict=False)
            ]
            rules = (*early, rules[-1])
        if last_stage is not None:
            last_stage = whole_number(last_stage, "last stage", 0, len(rules) - 1)
            rules = (*rules[:last_stage], replace(rules[last_stage], threshold=None))
        return rules

    # --- parts ---------------------------------------------------------------------------------------------

    @property
    def stages(self) -> Stages:
        """The loaded stages, until the cascade is closed."""
        if self._stages is None:
            raise OptionError(f"the cascade of {self.folder} was closed; load it again")
        return self._stages

    @contextlib.contextmanager
    def seats(self, count: int) -> Iterator[Seats]:
        """Seats for a batch, used by no one else meanwhile."""
        stages = self.stages
        with self._lock:
            seats = self._free.pop() if self._free else None
        if seats is None or seats.capacity < count:
            seats = Seats(stages, 1 << (max(count, 1) - 1).bit_length())
        try:
            yield seats
        finally:
            with self._lock:
                if self._stages is not None and seats.capacity <= _LARGEST_KEPT:
                    self._free.append(seats)

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
        return f"<Cascade {self.manifest.name}: {len(self.rules)} stages, {state}>"


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


def _numbers(thresholds: Sequence[float], count: int) -> tuple[float, ...]:
    are_some = isinstance(thresholds, (Sequence, np.ndarray)) and not isinstance(thresholds, (str, bytes))
    if not are_some or getattr(thresholds, "ndim", 1) != 1 or len(thresholds) != count:
        raise OptionError(
            f"expected {count} thresholds, one number for each exit but the last, got {shown(thresholds)}"
        )
    return tuple(finite_number(threshold, "threshold (above 1, nobody leaves)") for threshold in thresholds)


def _raising(answers: Generator[Prediction | DataError]) -> Iterator[Prediction]:
    with contextlib.closing(answers):
        for answer in answers:
            if isinstance(answer, DataError):
                raise answer
            yield answer


def _load(folder: str, how: dict[str, Any]) -> Cascade:
    return Cascade.load(folder, **how)
