"""The record of a measurement: what was measured, on what, and every timing that was taken.

Place in the flow: `measure` ──▶ `Report` ──▶ one JSON file, of which table, CSV and page are views, and which
`compare` holds against another. Times are in milliseconds, as they were taken; estimates are made from them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.files.document import from_document
from s2dnas_deploy.run.calibrate import Point
from s2dnas_deploy.run.environment import Environment

FORMAT, VERSION = "s2dnas-bench", 1

Taken = tuple[tuple[tuple[float, ...], ...], ...]
"""Of a subject: by process, by block, by batch."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured: a bundle, by the digest of its graphs and thresholds, and the images."""

    name: str
    digest: str
    precision: str
    thresholds: tuple[float, ...]
    stage_macs: tuple[int, ...]
    static: str | None
    """The static network's file, its digest and its MACs, where they are known."""
    static_digest: str | None
    static_macs: int | None
    images: str
    images_digest: str
    timed_exits: tuple[int, ...]
    """Where the images that were timed leave, in the order in which they were."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What all images came to, by exit; accuracies are None where the true classes are not known."""

    images: int
    counts: tuple[int, ...]
    cascade_accuracy: float | None
    exit_accuracy: tuple[float, ...] | None
    static_accuracy: float | None

    @property
    def shares(self) -> tuple[float, ...]:
        """The share that leaves at each exit."""
        return tuple(count / self.images for count in self.counts)


@dataclass(frozen=True, kw_only=True)
class Cold:
    """Starts from nothing, a process each: milliseconds for libraries, the network, and first answers."""

    libraries: tuple[float, ...]
    network: tuple[float, ...]
    first: tuple[float, ...]
    second: tuple[float, ...]
    peak_bytes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Joules that so many images took, one batch after the other, and which counter told."""

    joules: float
    images: int
    source: str


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a bundle is run with."""

    provider: str
    threads: int
    batch: int

    @property
    def in_words(self) -> str:
        """All three."""
        return f"{self.provider}, {self.threads} threads, batch {self.batch}"


@dataclass(frozen=True, kw_only=True)
class Run(Setting):
    """Warm timings in one setting: of every subject, and of the cascade in parts."""

    subjects: Mapping[str, Taken]
    stages: tuple[Taken, ...]
    copied: Taken
    moved: Taken
    energy: Mapping[str, Energy] | None
    """By subject; None where nothing counts it."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All of it. `boundary` says in words what a timing includes; reading a file is not among it."""

    date: str
    measured: Measured
    environment: Environment
    boundary: str
    decode_ms: float | None
    """To read an image; None of images that were in an archive."""
    answers: Answers
    frontier: tuple[Point, ...]
    cold: Mapping[str, Cold]
    runs: tuple[Run, ...]

    def to_json(self, **more: Any) -> str:
        """The document; what there is more is for others to read."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self), **more}) + "\n"

    @staticmethod
    def load(path: Path) -> "Report":
        """Read what `to_json` wrote."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["format"] != FORMAT or document["version"] != VERSION:
                raise ValueError(f"format {document['format']!r}, version {document['version']!r}")
            return from_document(Report, document)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
            raise DataError(f"{path}: expected what s2dnas-bench --out wrote, got: {problem!r}") from problem
