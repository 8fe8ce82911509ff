"""A whole measurement: a bundle on this device, on real images, against the static network.

Place in the flow: what `s2dnas-bench BUNDLE --data images/` does. What all images are answered is found out
once; times are then taken by processes of their own, started one after the other, each of which lets all
subjects take turns on the same images.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.bench.answers import (
    LOOKED_AT,
    Answered,
    answer,
    decode_ms,
    image_bytes,
    pixels_of,
    refuse_noise,
    representative,
    static_accuracy,
)
from s2dnas_deploy.bench.crew import IMAGES, Crew
from s2dnas_deploy.bench.examples import examples_of
from s2dnas_deploy.bench.report import Configuration, Example, Measured, Report, Run
from s2dnas_deploy.bench.summary import mean_of
from s2dnas_deploy.bench.workers.subjects import exit_name
from s2dnas_deploy.bundle.bundle import Bundle, load_bundle, own_static, static_beside
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.decide.thresholds import Against, Point, choose_for_budget
from s2dnas_deploy.errors import DataError, OptionError
from s2dnas_deploy.files.atomic import passing_folder
from s2dnas_deploy.files.onnx_file import LARGEST_GRAPH_BYTES
from s2dnas_deploy.files.plain_file import read_file
from s2dnas_deploy.images.archive import StoredImage
from s2dnas_deploy.images.picture_file import LARGEST_FILE
from s2dnas_deploy.quoting import shortened, spelled_out
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.runtime.answers.inputs import Item, announced, find_items
from s2dnas_deploy.runtime.baseline import Baseline
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.stages import Array
from s2dnas_deploy.sessions.environment import look_around
from s2dnas_deploy.sessions.limits import (
    LEAST_SECONDS,
    MOST_BATCH,
    MOST_PROCESSES,
    MOST_SECONDS,
    MOST_THREADS,
    finite_number,
    whole_number,
)
from s2dnas_deploy.sessions.providers import choose_provider, is_choice, usable_cores

# More images are answered, but not timed: they would fill the memory and say the same.
_FEWEST_TIMED, _MOST_TIMED, _MOST_BYTES = 64, 4096, 2**26


@dataclass(frozen=True, kw_only=True)
class MeasureRequest:
    """What a person asks of `s2dnas-bench BUNDLE`."""

    bundle: Path
    places: tuple[str, ...]
    static: Path | None = None
    providers: tuple[str, ...] = ("auto",)
    threads: tuple[int, ...] = ()
    """None given: all cores that there are."""
    batches: tuple[int, ...] = (1,)
    processes: int = 5
    seconds: float = 20.0
    """For the warm timings of one configuration."""
    noise: bool = False
    trust: Path | None = None
    """The public key by whose owner the bundle must be signed."""

    def __post_init__(self) -> None:
        for option, given in (("--provider", self.providers), ("--batch", self.batches)):
            if not given:
                raise OptionError(f"expected at least one {option} to measure with, got none")
        checked = {
            "threads": tuple(whole_number(each, "--threads", 1, MOST_THREADS) for each in self.threads),
            "batches": tuple(whole_number(each, "--batch", 1, MOST_BATCH) for each in self.batches),
            "processes": whole_number(self.processes, "--processes", 1, MOST_PROCESSES),
            "seconds": finite_number(self.seconds, "--seconds", LEAST_SECONDS, MOST_SECONDS),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What is known before anything is timed."""

    answered: Answered
    pixels: Array
    exits: npt.NDArray[np.int64]
    digest: str
    """Of the pixels, in an order that no answer decides."""
    decode_ms: float | None
    baseline: Path | None
    static_macs: int | None
    static_accuracy: float | None
    examples: tuple[Example, ...]


def measure(request: MeasureRequest, reporter: Reporter) -> Iterator[Report]:
    """Do what is asked: after each configuration a report of all so far: a long sweep may be cut short."""
    environment = look_around()  # before the load is the measurement's own
    bundle = load_bundle(request.bundle, request.trust)
    first, *_ = configurations = _configurations(request, bundle)
    known = _find_out(request, bundle, first, reporter)
    with passing_folder("s2dnas-bench-") as folder:
        np.save(folder / IMAGES, known.pixels)
        crew = Crew(bundle, folder, known.baseline, processes=request.processes, seconds=request.seconds)
        cold = {name: crew.cold(name, first, reporter) for name in crew.subjects}
        measured, runs = _measured(request, bundle.manifest, known), tuple[Run, ...]()
        for configuration in configurations:
            runs = (*runs, crew.warm(configuration, reporter))
            yield Report(
                date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                measured=measured,
                environment=environment,
                boundary="from pixels in the host's memory to label and confidence there",
                decode_ms=known.decode_ms,
                answers=replace(known.answered.answers, static_accuracy=known.static_accuracy),
                frontier=_frontier(known.answered.scores, runs[0]),
                cold=cold,
                runs=runs,
                examples=known.examples,
            )


def _configurations(request: MeasureRequest, bundle: Bundle) -> list[Configuration]:
    """Every combination; providers by the names of those that run."""
    providers = dict.fromkeys(_running(name, bundle) for name in request.providers)
    each = product(providers, request.threads or (usable_cores(),), request.batches)
    return [Configuration(provider=p, threads=t, batch=b) for p, t, b in each]


def _running(name: str, bundle: Bundle) -> str:
    """The provider that a name comes to here: the best there is may be listed and not start."""
    if not is_choice(name):
        return choose_provider(name).name
    with Cascade(bundle, provider=name) as cascade:
        return cascade.provider


def _find_out(
    request: MeasureRequest, bundle: Bundle, configuration: Configuration, reporter: Reporter
) -> _Known:
    """All that needs sessions in this process, which are gone when others take timings."""
    baseline = _baseline(request, bundle.manifest, configuration, reporter)
    with Cascade(bundle, provider=configuration.provider, threads=configuration.threads) as cascade:
        items = announced(find_items(request.places, cascade.labels), reporter)
        if not request.noise:
            refuse_noise(pixels_of(cascade, items[:: max(len(items) // LOOKED_AT, 1)]))
        if baseline is not None:
            baseline(pixels_of(cascade, items[:1]))  # whether it takes these images shows before the work
        answered = answer(cascade, items, reporter)
        timed = representative(answered.exits)[: _timed(bundle.manifest)]
        pixels = pixels_of(cascade, [items[i] for i in timed])
        return _Known(
            answered=answered,
            pixels=pixels,
            exits=answered.exits[timed],
            digest=_digest_of(items),
            decode_ms=decode_ms(cascade, items),
            baseline=None if baseline is None else baseline.path,
            static_macs=None if baseline is None else baseline.macs,
            static_accuracy=(
                None if baseline is None else static_accuracy(baseline, cascade, items, reporter)
            ),
            examples=examples_of(cascade, items, answered),
        )


def _timed(manifest: Manifest) -> int:
    """How many images are timed at the most."""
    return min(max(_MOST_BYTES // image_bytes(manifest), _FEWEST_TIMED), _MOST_TIMED)


def _baseline(
    request: MeasureRequest, manifest: Manifest, configuration: Configuration, reporter: Reporter
) -> Baseline | None:
    path = request.static or exported_with(request.bundle, manifest, reporter)
    if path is None:
        reporter.say("no static network to compare with: give --static model.onnx")
        return None
    if not path.is_file():
        raise OptionError(f"--static {path}: no such file")
    provider, p = choose_provider(configuration.provider), manifest.preprocessing
    baseline = Baseline(path, provider, threads=configuration.threads, mean=p.mean, std=p.std)
    size = baseline.fixed_batch
    if size is not None and any(batch % size for batch in request.batches):
        reporter.say(f"{path} always answers {size} images at a time: smaller batches are filled up")
    return baseline


def exported_with(bundle: Path, manifest: Manifest, reporter: Reporter) -> Path | None:
    """What export has left beside the bundle; what lies there from another export is not compared with."""
    own, beside = own_static(bundle, manifest), static_beside(bundle)
    if own is None and beside.is_file():
        reporter.say(
            f"{beside} is not the static network that this bundle was exported with, and is left out; to "
            "compare with it all the same: --static"
        )
    return own


def _frontier(scores: ExitScores | None, run: Run) -> tuple[Point, ...]:
    """What other thresholds would come to, by the mean times of each exit as a network of its own."""
    if scores is None or scores.exits == 1:
        return ()
    means = [mean_of(run.subjects[exit_name(k)]) / run.batch for k in range(scores.exits)]
    cost = np.maximum.accumulate(means).tolist()  # a later exit that was timed as faster is noise
    against = Against.ANSWERS if scores.truth is None else Against.LAST_EXIT
    return choose_for_budget(scores, cost[-1], cost, against).curve


def _measured(request: MeasureRequest, manifest: Manifest, known: _Known) -> Measured:
    thresholds = manifest.flow.thresholds
    told = "|".join([*(entry.graph.sha256 for entry in manifest.stages), *map(repr, thresholds)])
    return Measured(
        name=manifest.name,
        digest=_sha256(told.encode()),
        precision=manifest.precision,
        thresholds=thresholds,
        stage_macs=manifest.macs,
        static=None if known.baseline is None else _told(str(known.baseline)),
        static_digest=None
        if known.baseline is None
        else _sha256(read_file(known.baseline, LARGEST_GRAPH_BYTES)),
        static_macs=known.static_macs,
        images=_told(", ".join(request.places)),
        images_digest=known.digest,
        timed_exits=tuple(known.exits.tolist()),
    )


def _digest_of(items: Sequence[Item]) -> str:
    """Of the images as they were named; what they are answered, and so which are timed, decides nothing."""
    digest = hashlib.sha256()
    for item in items:
        source = item.source
        if isinstance(source, DataError):
            raise source
        if isinstance(source, StoredImage):
            source = source.read()
        content = source.tobytes() if isinstance(source, np.ndarray) else read_file(source, LARGEST_FILE)
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _told(paths: str) -> str:
    """Names of files as people see them; they may hold anything, and there may be many."""
    return shortened(spelled_out(paths), 1000)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
