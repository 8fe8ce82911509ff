"""The record of a measurement: what was measured, on what, and every timing that was taken.

Place in the flow: `measure` ──▶ `Report` ──▶ one JSON file, of which table, CSV and page are views, and which
`compare` holds against another. Times are in milliseconds, as they were taken; estimates are made from them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from s2dnas_deploy.bench.workers.job import batches_of
from s2dnas_deploy.bench.workers.subjects import CASCADE, STATIC, YARDSTICKS, exit_name
from s2dnas_deploy.bundle.device_profile import Milliseconds
from s2dnas_deploy.bundle.entries import MAX_STAGES
from s2dnas_deploy.decide.thresholds import Point
from s2dnas_deploy.errors import RecordError
from s2dnas_deploy.files.bounds import Between, Count, Length, Name, Share, Shown
from s2dnas_deploy.files.document import LARGEST_BYTES, Form, Head, check_record
from s2dnas_deploy.quoting import number_of, shown
from s2dnas_deploy.sessions.environment import Environment
from s2dnas_deploy.sessions.limits import MOST_BATCH
from s2dnas_deploy.sessions.providers import PROVIDERS

FORMAT, VERSION = "s2dnas-bench", 1

LONGEST_JPEG = 2**12
_BASE64_OF_JPEG = re.compile("/9j/[A-Za-z0-9+/]+={0,2}")

_MOST = 1_000_000
_Starts = Annotated[tuple[Milliseconds, ...], Length(1, _MOST)]
_PartMs = Annotated[float, Between(0, 10**9)]
_Images = Annotated[int, Between(1, 2**53)]
_Stage = Annotated[int, Between(0, MAX_STAGES - 1)]
_Macs = Annotated[int, Between(1, 2**62)]
_Batches = Annotated[tuple[_PartMs, ...], Length(1, _MOST)]
Taken = Annotated[tuple[Annotated[tuple[_Batches, ...], Length(1, _MOST)], ...], Length(1, _MOST)]
"""Of a subject: by process, by block, by batch."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured: a bundle, by the digest of its graphs and thresholds, and the images."""

    name: Name
    digest: Name
    precision: Name
    thresholds: tuple[float, ...]
    stage_macs: Annotated[tuple[Count, ...], Length(1, MAX_STAGES)]
    static: Shown | None
    """The static network's file, its digest and its MACs, where they are known."""
    static_digest: Name | None
    static_macs: _Macs | None
    images: Shown
    images_digest: Name
    timed_exits: Annotated[tuple[_Stage, ...], Length(1, _MOST)]
    """Where the images that were timed leave, in the order in which they were."""

    def __post_init__(self) -> None:
        check_record(self, RecordError)
        if self.static is None and (self.static_digest, self.static_macs) != (None, None):
            raise RecordError("a static network is told of that was not measured")
        if max(self.timed_exits) >= len(self.stage_macs):
            raise RecordError(f"images took exit {max(self.timed_exits)} of {len(self.stage_macs)} stages")
        if not 0 < sum(self.stage_macs) <= 2**62:
            raise RecordError("expected MACs of all stages above 0, and at most 2^62")


@dataclass(frozen=True, kw_only=True)
class Way:
    """Images that went through the same stages, by number, and got the answer of the same one."""

    stages: Annotated[tuple[_Stage, ...], Length(1, MAX_STAGES)]
    exit: _Stage
    images: Count


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What all images came to, by exit; accuracies are None where the true classes are not known.

    The accuracy of an exit on all images is told of a chain only. In measurements of 0.1.0, all of chains,
    `ways` are None.
    """

    images: _Images
    counts: Annotated[tuple[Count, ...], Length(1, MAX_STAGES)]
    cascade_accuracy: Share | None
    exit_accuracy: tuple[Share, ...] | None
    static_accuracy: Share | None
    ways: Annotated[tuple[Way, ...], Length(1, _MOST)] | None = None

    def __post_init__(self) -> None:
        check_record(self, RecordError)
        for way in self.ways or ():
            if max(*way.stages, way.exit) >= len(self.counts):
                raise RecordError(f"a way of {len(self.counts)} stages has more: {shown(way.stages)}")
        if self.ways is not None and sum(way.images for way in self.ways) != self.images:
            raise RecordError(f"expected ways of {self.images:,} images, got those of others")
        if sum(self.counts) != self.images:
            raise RecordError(f"{sum(self.counts):,} images left at some exit, of {self.images:,}")
        if self.exit_accuracy is not None and len(self.exit_accuracy) != len(self.counts):
            raise RecordError(f"{len(self.exit_accuracy)} accuracies for {len(self.counts)} exits")

    @property
    def all_ways(self) -> tuple[Way, ...]:
        """The ways; in a chain, through all stages up to the exit."""
        if self.ways is not None:
            return self.ways
        return tuple(
            Way(stages=tuple(range(k + 1)), exit=k, images=count) for k, count in enumerate(self.counts)
        )

    @property
    def shares(self) -> tuple[float, ...]:
        """The share that leaves at each exit."""
        return tuple(count / self.images for count in self.counts)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One of the images that left at an exit, as a small JPEG in base64, with its true and answered class."""

    exit: _Stage
    truth: Name | None
    answer: Name
    jpeg: Annotated[str, Length(1, LONGEST_JPEG)]

    def __post_init__(self) -> None:
        check_record(self, RecordError)
        if not _BASE64_OF_JPEG.fullmatch(self.jpeg):
            raise RecordError("jpeg: expected a JPEG in base64, got what is none")


@dataclass(frozen=True, kw_only=True)
class Cold:
    """Starts from nothing, a process each: milliseconds for libraries, the network, and first answers."""

    libraries: _Starts
    network: _Starts
    first: _Starts
    second: _Starts
    peak_bytes: Annotated[tuple[Count, ...], Length(1, _MOST)]

    def __post_init__(self) -> None:
        check_record(self, RecordError)


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Joules that so many images took, one batch after the other, and which counter told."""

    joules: Annotated[float, Between(0, 10**12)]
    images: _Images
    source: Name

    def __post_init__(self) -> None:
        check_record(self, RecordError)


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What a bundle is run with."""

    provider: Name
    threads: Annotated[int, Between(1, 2**20)]  # `limits` has this machine's, and a report may be another's
    batch: Annotated[int, Between(1, MOST_BATCH)]

    @property
    def in_words(self) -> str:
        """All three."""
        return f"{self.provider}, {number_of(self.threads, 'thread')}, batch {self.batch}"


@dataclass(frozen=True, kw_only=True)
class Run(Configuration):
    """Warm timings in one configuration: of every subject, and of the cascade in parts."""

    subjects: Mapping[Name, Taken]
    stages: Annotated[tuple[Taken, ...], Length(1, MAX_STAGES)]
    copied: Taken
    moved: Taken
    energy: Mapping[Name, Energy] | None
    """By subject; None where nothing counts it."""

    def __post_init__(self) -> None:
        check_record(self, RecordError)
        if self.provider not in PROVIDERS:
            raise RecordError(f"provider: expected {' or '.join(PROVIDERS)}, got {shown(self.provider)}")
        exits = [exit_name(k) for k in range(len(self.stages))] if exit_name(0) in self.subjects else []
        missing = [name for name in (CASCADE, *YARDSTICKS, *exits) if name not in self.subjects]
        if missing:
            raise RecordError(f"subjects: expected {missing[0]} among them, got none")
        for name, taken in self._all_taken():
            self._check_laid_out(name, taken)
        for name, taken in (*self.subjects.items(), ("stages", self._of_all_stages())):
            if min(ms for process in taken for block in process for ms in block) <= 0:
                raise RecordError(f"{shown(name)}: expected times above 0, got 0")

    def _of_all_stages(self) -> Taken:
        """A batch that no stage took time for has gone nowhere; it need not come to the first."""
        return tuple(
            tuple(tuple(map(sum, zip(*blocks, strict=True))) for blocks in zip(*processes, strict=True))
            for processes in zip(*self.stages, strict=True)
        )

    def _all_taken(self) -> Iterator[tuple[str, Taken]]:
        yield from self.subjects.items()
        yield from ((f"stage {k}", taken) for k, taken in enumerate(self.stages))
        yield from (("copied", self.copied), ("moved", self.moved))

    def _check_laid_out(self, name: str, taken: Taken) -> None:
        """All that took turns did so in the same blocks of the same processes, of so many batches each."""
        blocks, here = ([len(process) for process in each] for each in (self.subjects[CASCADE], taken))
        batches, whole = {len(block) for process in taken for block in process}, batches_of(self.batch)
        if here != blocks or batches != {whole}:
            raise RecordError(
                f"{shown(name)}: expected as many blocks as of the cascade, of {whole} batches each"
            )


@dataclass(frozen=True, kw_only=True)
class Report:
    """All of it. `boundary` says in words what a timing includes; reading a file is not among it."""

    date: Name
    measured: Measured
    environment: Environment
    boundary: Shown
    decode_ms: Milliseconds | None
    """To read an image; None of images that were in an archive."""
    answers: Answers
    frontier: tuple[Point, ...]
    cold: Mapping[Name, Cold]
    runs: Annotated[tuple[Run, ...], Length(1, _MOST)]
    examples: Annotated[tuple[Example, ...], Length(0, 100)] = ()
    """Some images of each exit; none in measurements of 0.1.0, nor of images that are no pictures."""

    def __post_init__(self) -> None:
        check_record(self, RecordError)
        stages = len(self.measured.stage_macs)
        for told in (self.answers.counts, *(run.stages for run in self.runs)):
            if len(told) != stages:
                raise RecordError(f"expected as many exits as stages, {stages}, got {len(told)}")
        if any(example.exit >= stages for example in self.examples):
            raise RecordError(f"examples: expected exits of {stages} stages, got another")
        is_known = self.measured.static is not None
        if self.answers.static_accuracy is not None and not is_known:
            raise RecordError("answers.static_accuracy: a static network is told of that was not measured")
        if any((STATIC in run.subjects) != is_known for run in self.runs):
            raise RecordError("expected times of the static network if, and only if, it was measured")

    def to_json(self, **more: Any) -> str:
        """The document; what there is more is for others to read."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self), **more}) + "\n"

    @staticmethod
    def load(path: Path) -> "Report":
        """Read what `to_json` wrote."""
        return _FORM.load(path)


_FORM = Form(
    record=Report,
    error=RecordError,
    head=Head(format=FORMAT, version=VERSION, writer="s2dnas-bench --out"),
    passed_over=frozenset({"summary"}),
    largest_bytes=4 * LARGEST_BYTES,
)
