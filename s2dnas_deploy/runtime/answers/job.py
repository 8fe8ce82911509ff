"""One run over many images: from places to an output and a summary. What `s2dnas-run` does.

Place in the flow: `RunRequest` ──▶ items ──bulk──▶ records ──▶ `--out` or a stream; at the end, a `Summary`.
"""

import math
import os
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from s2dnas_deploy.bundle.bundle import Bundle, load_bundle
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.errors import DataError, OptionError, RecordError
from s2dnas_deploy.files.atomic import naming
from s2dnas_deploy.quoting import number_of, shown
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.runtime.answers.inputs import Item, announced, find_items
from s2dnas_deploy.runtime.answers.output import Output, spelled
from s2dnas_deploy.runtime.answers.records import (
    Format,
    Record,
    flat,
    format_of,
    header_of,
    line_of,
    record_of,
)
from s2dnas_deploy.runtime.budget import settings_within
from s2dnas_deploy.runtime.bulk import Answer, Bulk, BulkOptions
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.sessions.providers import is_choice

_SECONDS_BETWEEN_FLUSHES = 0.5
_TIMED_BATCHES = 4  # by which a budget is kept
_MOST_REASONS = 1000  # of millions of files, each may be damaged in a way of its own
_NUMBER = re.compile("[0-9]+")


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What to run on what: `places` as `inputs` takes them, `listed` the names that `-` stands for."""

    bundle: Path
    places: tuple[str, ...]
    listed: tuple[str, ...] = ()
    provider: str = "auto"
    allow_fallback: bool = False
    threads: int | None = None
    bulk: BulkOptions
    out: Path | None = None
    form: Format | None = None
    resume: bool = False
    trust: Path | None = None
    """The public key by whose owner the bundle must be signed."""
    budget_ms: float | None = None
    """What an image may take on average: the best choice of a setting that keeps to it is taken."""

    def __post_init__(self) -> None:
        if self.budget_ms is None:
            return
        if not 0 < self.budget_ms < math.inf:
            raise OptionError(f"expected a budget above 0 ms, got {self.budget_ms:g}")
        if self.bulk.settings is not None or self.resume:
            raise OptionError(
                "--budget-ms chooses the setting anew, by this moment's clock: leave it out where --setting "
                "or --resume is given, and name the setting that the run has begun with"
            )
        if self.bulk.thresholds is not None or self.bulk.last_stage is not None:
            raise OptionError(
                "--budget-ms is for bundles that let you choose a setting; --threshold and --last-stage are "
                "for chains of stages (s2dnas-calibrate --target-ms keeps these to a budget)"
            )


class Interruption(Protocol):
    """Who may ask a run to stop."""

    def begin(self) -> None:
        """From here on the run looks, between two images, whether it is asked."""

    def __call__(self) -> bool:
        """Whether it is."""
        ...


class _Never:
    """Nobody asks."""

    def begin(self) -> None:
        pass

    def __call__(self) -> bool:
        return False


_NEVER = _Never()


@dataclass(frozen=True, kw_only=True)
class ExitTally:
    """How many images left at an exit, how many of them have a known class, how many of those are right."""

    images: int
    labelled: int
    right: int


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How many images got no answer for such a reason, the first of them, and what was said of that."""

    images: int
    first: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run amounts to. `stage_ms`: mean time of an image in a stage, None if none was there."""

    exits: tuple[ExitTally, ...]
    failed: int
    failures: tuple[Failure, ...]
    """The reasons of those that failed, the most frequent first."""
    resumed: int
    seconds: float
    stage_ms: tuple[float | None, ...]
    stage_macs: tuple[int, ...]
    stage_samples: tuple[int, ...]
    names: tuple[str, ...] | None
    """Of the stages; None of a chain, where stage k is what lies between exits k - 1 and k."""
    provider: str
    interrupted: bool = False

    @property
    def answered(self) -> int:
        """Images that were classified."""
        return sum(tally.images for tally in self.exits)


class Answering(Protocol):
    """Who answers for the images of a run, a window after the other; counts what each stage had to do."""

    @property
    def options(self) -> BulkOptions:
        """How it goes through them."""
        ...

    @property
    def provider(self) -> str:
        """What runs the stages."""
        ...

    @property
    def stage_samples(self) -> Sequence[int]:
        """How many images were in each stage; those past the last that may answer are not told of."""
        ...

    @property
    def stage_seconds(self) -> Sequence[float]:
        """How long they took there."""
        ...

    def answers_from(self, first: int, stop: Callable[[], bool]) -> Generator[Answer]:
        """The answers from an image on with which a window starts, in order, until it is asked to stop."""
        ...


Opened = AbstractContextManager[Answering]
Open = Callable[[RunRequest, Bundle, Sequence[Item]], Opened]


def run_job(
    request: RunRequest,
    stream: BinaryIO,
    reporter: Reporter,
    stop: Interruption = _NEVER,
    *,
    elsewhere: Open | None = None,
) -> Summary:
    """Classify all images of the request; what is written goes to `stream` if there is no `out`.

    `elsewhere` opens who answers, if this process does not.
    """
    form = format_of(request.out, request.form)
    if request.resume and request.out is None:
        raise OptionError("--resume needs the --out of the interrupted run")
    if request.out is not None and _is_inside(request.out, request.bundle):
        raise OptionError(
            f"--out {request.out} is inside the bundle, which holds what was exported and no more; "
            "give a place outside"
        )
    bundle = load_bundle(request.bundle, request.trust)
    items = announced(find_items(request.places, bundle.manifest.labels, request.listed), reporter)
    watch = _Watch(reporter, stop)
    job = _Job(request=request, manifest=bundle.manifest, digest=bundle.digest, items=items, form=form)
    with (
        _here(request, bundle, items, reporter) if elsewhere is None else elsewhere(request, bundle, items)
    ) as answering:
        if request.out is not None:
            return _written(job, request.out, answering, watch)
        sink = _Sink(file=stream, form=form, name="stdout", ways=job.ways)
        sink.write(header_of(form, ways=sink.ways))
        return _answer(answering, job, sink, watch)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is to be answered, and in what form it is written."""

    request: RunRequest
    manifest: Manifest
    digest: str
    items: Sequence[Item]
    form: Format

    @property
    def ways(self) -> bool:
        """Whether records tell their way; in a chain, the exit does."""
        return not self.manifest.flow.is_chain


def _written(job: _Job, out: Path, answering: Answering, watch: "_Watch") -> Summary:
    """The answers, in a file that survives being interrupted."""
    items, run = job.items, _identity(job, answering)
    with Output(out, job.form, run, images=len(items), resume=job.request.resume, ways=job.ways) as output:
        _check_same_items(output.written, items, output, len(answering.stage_samples))
        if output.finished:
            _check_complete(output, len(items))
            watch.reporter.say(f"{out} is complete already; remove it to run again")
        sink = _Sink(
            file=output.file,
            form=output.line_form,
            name=str(out),
            ways=job.ways,
            written=output.written,
        )
        summary = _answer(answering, job, sink, watch)
        if not summary.interrupted and not output.finished:
            output.complete()
    return summary


@dataclass(frozen=True)
class _Here:
    """Whoever runs the job answers itself."""

    bulk: Bulk
    items: Sequence[Item]

    @property
    def options(self) -> BulkOptions:
        return self.bulk.options

    @property
    def provider(self) -> str:
        return self.bulk.stages.provider.name

    @property
    def stage_samples(self) -> Sequence[int]:
        return self.bulk.stage_samples

    @property
    def stage_seconds(self) -> Sequence[float]:
        return self.bulk.stage_seconds

    def answers_from(self, first: int, stop: Callable[[], bool]) -> Generator[Answer]:
        return self.bulk.answers((item.source for item in self.items[first:]), stop)


@contextmanager
def _here(request: RunRequest, bundle: Bundle, items: Sequence[Item], reporter: Reporter) -> Generator[_Here]:
    with Cascade(
        bundle,
        provider=request.provider,
        threads=request.threads,
        allow_fallback=request.allow_fallback,
    ) as cascade:
        request = _within_budget(request, cascade, items, reporter)
        bulk = cascade.bulk(request.bulk)
        say_if_fallen_back(request.provider, cascade, reporter)
        if cascade.stages.goes_through_host:
            reporter.say(
                f"features pass through the host between stages: for {cascade.provider}, export with --gather"
            )
        yield _Here(bulk, items)


def _within_budget(
    request: RunRequest, cascade: Cascade, items: Sequence[Item], reporter: Reporter
) -> RunRequest:
    """With the setting that keeps to the budget, if there is one to keep to."""
    if request.budget_ms is None:
        return request
    found, asked = [], items[: _TIMED_BATCHES * request.bulk.batch]
    for item in asked:
        with suppress(DataError):  # it is told of in its place
            found.append(cascade.reader.one(item.source))
    if not found:
        raise DataError(
            f"--budget-ms: none of the first {number_of(len(asked), 'image')} can be read, so there is "
            "nothing to time; give --setting in its place"
        )
    # A last batch that is not full takes longer for an image than those of the run will.
    size = min(request.bulk.batch, len(found))
    batches = [np.stack(found[at : at + size]) for at in range(0, len(found) - size + 1, size)]
    settings = settings_within(cascade, request.budget_ms, batches)
    reporter.say(f"within {request.budget_ms:g} ms an image on this device: --setting {_in_words(settings)}")
    return replace(request, budget_ms=None, bulk=replace(request.bulk, settings=settings))


def _in_words(settings: Mapping[str, str]) -> str:
    return ",".join(f"{name}={choice}" for name, choice in settings.items())


def say_if_fallen_back(asked: str, cascade: Cascade, reporter: Reporter) -> None:
    """Nobody should have to find out later that it was the CPU."""
    if asked != cascade.provider and not is_choice(asked):
        reporter.say(f"--provider {asked} is not there: running on {cascade.provider} (--allow-fallback)")


class _Tallies:
    """Counts records, exit by exit."""

    def __init__(self, exits: int) -> None:
        self.images, self.labelled, self.right = [0] * exits, [0] * exits, [0] * exits
        self.failed = 0
        self._failures: dict[str, Failure] = {}

    def add(self, record: Record) -> None:
        if "error" in record:
            self._add_failure(record["file"], record["error"])
            return
        k = record["exit"]
        self.images[k] += 1
        if "truth" in record:
            self.labelled[k] += 1
            self.right[k] += record["truth"] == record["label"]

    def _add_failure(self, file: str, reason: str) -> None:
        """Reasons that differ by their numbers, as by the size of an image, are one."""
        self.failed += 1
        kind = _NUMBER.sub("0", reason)
        known = self._failures.get(kind)
        if known is not None:
            self._failures[kind] = replace(known, images=known.images + 1)
        elif len(self._failures) < _MOST_REASONS:
            self._failures[kind] = Failure(images=1, first=file, reason=reason)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The reasons so far, the most frequent first."""
        return tuple(sorted(self._failures.values(), key=lambda failure: -failure.images))

    def shares(self) -> str:
        """Share of each exit so far."""
        total = max(sum(self.images), 1)
        exits = " / ".join(f"{100 * count / total:.0f}%" for count in self.images)
        return f"leave at {exits}" + (f", {self.failed} failed" if self.failed else "")


@dataclass(frozen=True)
class _Sink:
    """Where lines go, in what form, how it is called, and the records that are there already."""

    file: BinaryIO
    form: Format
    name: str
    ways: bool
    written: Sequence[Record] = ()

    def write(self, line: bytes) -> None:
        with naming(self.name):
            self.file.write(line)

    def flush(self) -> None:
        with naming(self.name):
            self.file.flush()


@dataclass(frozen=True)
class _Watch:
    """Who is told how it goes, and who may ask to stop."""

    reporter: Reporter
    stop: Interruption


def _answer(answering: Answering, job: _Job, sink: _Sink, watch: _Watch) -> Summary:
    """Write a record for every item that has none; go on from the start of the window where those end."""
    manifest, items, exits = job.manifest, job.items, len(answering.stage_samples)
    tallies = _Tallies(exits)
    for record in sink.written:
        tallies.add(record)
    done = told = len(sink.written)
    first = done if done == len(items) else done - done % answering.options.window
    update = watch.reporter.phase("answering")
    begun = flushed = time.monotonic()
    watch.stop.begin()
    with closing(answering.answers_from(first, watch.stop)) as answers:
        for number, answer in enumerate(answers, start=first):
            if number < done:
                continue
            record = record_of(items[number], answer, way=sink.ways)
            sink.write(line_of(record, sink.form, ways=sink.ways))
            tallies.add(record)
            told = number + 1
            now = time.monotonic()
            if now - flushed > _SECONDS_BETWEEN_FLUSHES:
                sink.flush()
                flushed = now
                rate = (told - done) / (now - begun)
                update(told, len(items), f"{rate:.0f}/s, {tallies.shares()}")
            if watch.stop():
                break
    sink.flush()
    interrupted = told < len(items)
    if not interrupted:
        update(len(items), len(items), tallies.shares())
    return Summary(
        exits=tuple(
            ExitTally(images=images, labelled=labelled, right=right)
            for images, labelled, right in zip(tallies.images, tallies.labelled, tallies.right, strict=True)
        ),
        failed=tallies.failed,
        failures=tallies.failures,
        resumed=done,
        seconds=time.monotonic() - begun,
        stage_ms=tuple(
            1e3 * seconds / samples if samples else None
            for seconds, samples in zip(answering.stage_seconds, answering.stage_samples, strict=True)
        ),
        stage_macs=manifest.macs[:exits],
        stage_samples=tuple(answering.stage_samples),
        names=None if manifest.flow.is_chain else manifest.flow.called,
        provider=answering.provider,
        interrupted=interrupted,
    )


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a path leads into a folder, links followed; those that lead to each other lead nowhere."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _identity(job: _Job, answering: Answering) -> dict[str, object]:
    """What must be the same when a run is resumed, for its answers to be those of one run."""
    return {
        "bundle": job.digest,
        "provider": answering.provider,
        "threads": job.request.threads,
        **{
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(answering.options).items()
            if key != "workers"
        },
        "format": job.form,
    }


def _check_complete(output: Output, items: int) -> None:
    """A complete output must have an answer for every image that is given now."""
    if len(output.written) < items:
        raise OptionError(
            f"{output.out} is complete with {number_of(len(output.written), 'image')}, now {items} are "
            "given; give another --out, or remove it"
        )


def _check_same_items(written: Sequence[Record], items: Sequence[Item], output: Output, exits: int) -> None:
    """The records that are there must be those of the first items, and of these exits."""
    deepest = max((record["exit"] for record in written if "exit" in record), default=0)
    if deepest >= exits:
        raise RecordError(
            f"{output.out} tells of exit {deepest}, of {exits} from 0: it is damaged; remove it to begin anew"
        )
    for number, (record, item) in enumerate(zip(written, items, strict=False)):
        name = flat(item.name) if output.line_form == "csv" else item.name
        if record["file"] not in (name, spelled(name)):
            raise OptionError(
                f"{output.out}: image {number} was {shown(record['file'])}, now it is {shown(item.name)}; "
                "resume with the same images"
            )
