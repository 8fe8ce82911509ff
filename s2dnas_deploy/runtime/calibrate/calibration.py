"""One calibration: from a bundle and images to thresholds in its manifest. What `s2dnas-calibrate` does.

Place in the flow: `CalibrationRequest` ──scores──▶ `Choice` ──▶ the bundle's manifest, replaced atomically.
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.bundle.bundle import MANIFEST, Bundle, load_bundle, verify_bundle
from s2dnas_deploy.bundle.entries import Expected, Promise
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.bundle.saving import check_manifest_replaceable, replace_manifest
from s2dnas_deploy.bundle.signature import SIGNATURE, Signer
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.decide.temperature import TemperatureFit
from s2dnas_deploy.decide.thresholds import (
    Against,
    Choice,
    Goal,
    choose_for_budget,
    choose_for_promise,
    exits_taken,
    in_points,
)
from s2dnas_deploy.errors import DataError, OptionError, RecordError
from s2dnas_deploy.files.atomic import check_writable
from s2dnas_deploy.images.archive import CALIBRATED_ON
from s2dnas_deploy.quoting import number_of
from s2dnas_deploy.reporter import Reporter, counted
from s2dnas_deploy.runtime.answers.inputs import Item, announced, find_items, truth_of
from s2dnas_deploy.runtime.answers.job import say_if_fallen_back
from s2dnas_deploy.runtime.baseline import Baseline, static_answers
from s2dnas_deploy.runtime.bulk import BulkOptions
from s2dnas_deploy.runtime.calibrate.recording import exit_scores, graphs_of
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.stages import Array
from s2dnas_deploy.runtime.timing import stage_ms, way_ms
from s2dnas_deploy.sessions.providers import choose_provider

_TIMED_IMAGES = 32
_TOO_GOOD = 4.0  # standard errors: once in 30,000 times by chance


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an image may cost on average: milliseconds on this device, or MACs."""

    amount: float
    in_ms: bool


@dataclass(frozen=True, kw_only=True)
class CalibrationRequest:
    """What to calibrate, on what, for what: a `goal` to prove or a `budget` to keep.

    `unlabelled`: compare with the last exit's answers, whatever the images are called. `scores`: a file where
    exit scores are kept; if it is there, no image is read.
    """

    bundle: Path
    places: tuple[str, ...]
    listed: tuple[str, ...] = ()
    goal: Goal | None = None
    budget: Budget | None = None
    unlabelled: bool = False
    provider: str = "auto"
    allow_fallback: bool = False
    threads: int | None = None
    bulk: BulkOptions
    scores: Path | None = None
    static: Path | None = None
    """The static network as ONNX, where the goal is to be compared with it."""
    by_clock: bool = False
    """What images cost that go on: time on this device; else MACs. A budget says it by its unit."""
    seed: int = 0
    write: bool = True
    trust: Path | None = None
    """The public key by whose owner the bundle must be signed."""
    sign: Path | None = None
    """The private key that signs what is written."""

    def __post_init__(self) -> None:
        if (self.goal is None) == (self.budget is None):
            raise OptionError("expected either a drop to prove or a budget to keep")
        by_static = self.goal is not None and self.goal.against is Against.STATIC
        if by_static != (self.static is not None):
            raise OptionError("a static network goes with a drop below the static network's accuracy")

    @property
    def in_ms(self) -> bool:
        """Whether stages are timed here."""
        return self.by_clock if self.budget is None else self.budget.in_ms


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What came of it: the choice, in what unit costs are, and the manifest with it."""

    choice: Choice
    unit: str
    against: Against
    images: int
    manifest: Manifest
    temperatures: tuple[TemperatureFit, ...] = ()
    static_accuracy: float | None = None
    unsigned: bool = False
    """Whether what was written replaced what was signed, and is not."""


def calibrate(request: CalibrationRequest, reporter: Reporter) -> Calibration:
    """Choose thresholds and write them into the bundle."""
    _check_writable(request)
    bundle = load_bundle(request.bundle, request.trust)
    _refuse_without_path(bundle)
    signer = None
    if request.sign is not None:
        signer = Signer(request.sign)
        verify_bundle(request.bundle)
    unsigned = request.write and signer is None and (request.bundle / SIGNATURE).exists()
    if unsigned:
        reporter.say(f"{request.bundle} is signed: other thresholds end that, unless --sign signs them")
    with Cascade(
        bundle, provider=request.provider, threads=request.threads, allow_fallback=request.allow_fallback
    ) as cascade:
        say_if_fallen_back(request.provider, cascade, reporter)
        items: tuple[Item, ...] = ()
        if request.places:
            items = announced(
                find_items(request.places, cascade.labels, request.listed, parts=CALIBRATED_ON), reporter
            )
            _refuse_doubles(items)
        scores = _scores(request, cascade, items, reporter)
        against = _against(request, scores)
        _say_if_too_good(scores, bundle.manifest.expected, reporter)
        _say_if_worthless(scores, cascade.labels, reporter)
        if request.static is not None:
            scores = replace(scores, static=_asked(request, scores, cascade, items, reporter))
        if request.in_ms:
            if not items:
                raise OptionError("costs in ms need images to time the stages on")
            cost, unit = _times_ms(cascade, items), "ms"
        else:
            cost, unit = [float(macs) for macs in _macs_until_each(bundle.manifest)], "MACs"
    if request.goal is not None:
        goal = replace(request.goal, against=against)
        reporter.say(f"choosing thresholds on {number_of(len(scores), 'image')}")
        choice = choose_for_promise(scores, goal, cost, np.random.default_rng(request.seed))
        promise = promise_of(choice, goal, len(scores))
    else:
        assert request.budget is not None  # the request has one or the other
        choice = choose_for_budget(scores, request.budget.amount, cost, against)
        promise = _budget_in_words(choice, request.budget, len(scores), against)
    promise = replace(promise, other_answers=_share_otherwise(scores, choice))
    manifest = with_choice(bundle, choice, promise, scores)
    if request.write:
        replace_manifest(bundle, manifest, signer)
    return Calibration(
        choice=choice,
        unit=unit,
        against=against,
        images=len(scores),
        manifest=manifest,
        temperatures=scores.temperatures,
        static_accuracy=_share_right(scores),
        unsigned=unsigned,
    )


def _share_otherwise(scores: ExitScores, choice: Choice) -> float:
    """How many images are answered otherwise than by the last exit."""
    taken = exits_taken(scores, choice.point.thresholds)
    said = scores.label[taken, np.arange(len(scores))]
    return float((said != scores.label[-1]).mean())


def _check_writable(request: CalibrationRequest) -> None:
    """What is written in the end can be, which is better known before the work."""
    if request.scores is not None:
        check_writable(request.scores, "--scores")
    if request.write:
        check_writable(request.bundle / MANIFEST, "--bundle")
        check_manifest_replaceable(request.bundle)


def _refuse_without_path(bundle: Bundle) -> None:
    """Only a chain and a gate have a path of numbers along which samples cost ever less."""
    if bundle.manifest.flow.gate is not None:
        return
    if not bundle.manifest.flow.is_chain:
        raise OptionError(
            f"{bundle.folder} is no chain of stages with an exit each, nor does a gate in its first stage "
            "pick one of the others: samples go by other rules, so there is no path to choose on"
        )
    if len(bundle.manifest.stages) < 2:
        raise OptionError(f"{bundle.folder} has one stage, so no threshold")


def promise_of(choice: Choice, goal: Goal, images: int) -> Promise:
    """What was proven, in words."""
    drop, probability = f"{100 * goal.drop:g}", f"{goal.probability:g}"
    observed = choice.point.loss - (goal.bound - goal.drop)
    on = number_of(images, "image")
    if choice.proven_on < images:
        on = f"{choice.proven_on} of the {images} images, drawn at random: an exact test proves most by these"
    said = {
        Against.LAST_EXIT: f"accuracy is at most {in_points(goal.drop)} below that of the last exit",
        Against.STATIC: f"accuracy is at most {in_points(goal.drop)} below that of the static network",
        Against.ACCURACY: f"accuracy is at least {100 * (1 - goal.bound):g}%",
        Against.ANSWERS: f"at most {drop}% of images get another answer than the last exit's",
    }[goal.against]
    return Promise(
        statement=f"With probability {probability} over the draw of the calibration images, {said}, for "
        f"images like these. Proven on {on}; observed on all: {_observed(goal.against, observed)}.",
        images=images,
        max_drop=goal.drop,
        probability=goal.probability,
        observed_drop=observed,
    )


def _budget_in_words(choice: Choice, budget: Budget, images: int, against: Against) -> Promise:
    amount = f"{budget.amount:g} ms" if budget.in_ms else f"{budget.amount / 1e6:g} M MACs"
    return Promise(
        statement=f"Chosen for the best accuracy within {amount} per image on average, on "
        f"{number_of(images, 'image')}; nothing is proven. Observed there: "
        f"{_observed(against, choice.point.loss)}.",
        images=images,
        max_drop=None,
        probability=None,
        observed_drop=choice.point.loss,
    )


def _observed(against: Against, drop: float) -> str:
    if against is Against.ANSWERS:
        return f"{100 * drop:.2f}% other answers"
    if not drop:
        return f"level with {against.value}"
    return f"{100 * abs(drop):.2f} points {'below' if drop > 0 else 'above'} {against.value}"


def with_choice(bundle: Bundle, choice: Choice, promise: Promise, scores: ExitScores) -> Manifest:
    """The manifest with the thresholds, and what to expect of them; with temperatures, if there are any."""
    gated, numbers = bundle.manifest.flow.gate is not None, choice.point.thresholds
    manifest = bundle.manifest.with_offsets(numbers) if gated else bundle.manifest.with_thresholds(numbers)
    if scores.temperatures:
        manifest = manifest.with_probability_temperatures([fit.temperature for fit in scores.temperatures])
    return replace(manifest, promise=promise, expected=_expected(manifest, choice, scores))


def _expected(manifest: Manifest, choice: Choice, scores: ExitScores) -> Expected | None:
    if scores.truth is None or choice.point.accuracy is None:
        return None
    macs, right = _macs_until_each(manifest), scores.label == scores.truth
    accuracies: tuple[float | None, ...] = tuple(right.mean(axis=1).tolist())
    shares = choice.point.shares
    if scores.gate is not None:  # behind a gate, only some come; the gate itself does not answer
        taken = exits_taken(scores, choice.point.thresholds)
        found = [right[k, taken == k] for k in range(scores.exits)]
        accuracies = (None, *(float(each.mean()) if len(each) else None for each in found))
        shares = (0.0, *shares)
    return Expected(
        images=len(scores),
        exit_accuracy=accuracies,
        exit_share=shares,
        cascade_accuracy=choice.point.accuracy,
        mean_macs=sum(share * cost for share, cost in zip(choice.point.shares, macs, strict=True)),
    )


def _macs_until_each(manifest: Manifest) -> list[int]:
    """MACs until each answer: of a chain, all before it; behind a gate, what all have in common, too."""
    if manifest.flow.gate is None:
        return list(accumulate(manifest.macs))
    return [manifest.macs[0] + macs for macs in manifest.macs[1:]]


def _scores(
    request: CalibrationRequest, cascade: Cascade, items: Sequence[Item], reporter: Reporter
) -> ExitScores:
    if request.scores is not None and request.scores.exists():
        reporter.say(f"going by the scores kept in {request.scores}; images are not read for them")
        return _kept(request.scores, cascade)
    if not items:
        raise OptionError("no images: give some, or --scores with a file where scores were kept")
    scores = exit_scores(cascade, items, request.bulk, counted(reporter.phase("exit scores")))
    if request.scores is not None:
        scores.save(request.scores)
    return scores


def _kept(path: Path, cascade: Cascade) -> ExitScores:
    """Scores from a file, if they are of this bundle."""
    scores = ExitScores.load(path)
    gated = cascade.flow.gate is not None
    there, wanted = _exits(scores.exits, scores.gate is not None), _exits(len(cascade.names) - gated, gated)
    if there != wanted:
        raise RecordError(f"{path} holds scores of {there}, the bundle has {wanted}")
    if scores.graphs and scores.graphs != graphs_of(cascade.manifest):
        raise RecordError(
            f"{path} holds scores of another bundle: its graphs are not those of {cascade.folder}; give "
            "another --scores, or remove the file"
        )
    try:
        scores.check_classes(len(cascade.labels))
    except RecordError as error:
        raise RecordError(f"{path} holds scores of other classes than the bundle's: {error}") from error
    return scores


def _asked(
    request: CalibrationRequest,
    scores: ExitScores,
    cascade: Cascade,
    items: Sequence[Item],
    reporter: Reporter,
) -> npt.NDArray[np.int64]:
    """What the static network answers to the images that the scores are of."""
    static, p = request.static, cascade.manifest.preprocessing
    assert static is not None, "no static network was given"
    if not static.is_file():
        raise OptionError(
            f"--static {static}: no such file; s2dnas-export --static-model writes one beside the bundle"
        )
    others = OptionError(
        f"--static {static} is asked about every image; expected the {len(scores)} that --scores "
        f"{request.scores} is of, got {number_of(len(items), 'image')}, or others"
    )
    truth = truth_of(items, cascade.labels) if items else None
    if truth is None or scores.truth is None or not np.array_equal(truth, scores.truth):
        raise others
    baseline = Baseline(static, choose_provider("cpu"), threads=request.threads, mean=p.mean, std=p.std)
    told, digest = counted(reporter.phase("answers of the static network")), hashlib.sha256()

    def seen(images: Array) -> None:
        digest.update(np.ascontiguousarray(images).data)

    answers = static_answers(baseline, cascade, items, told, seen)
    if scores.images not in ("", digest.hexdigest()):
        raise others
    return answers


def _share_right(scores: ExitScores) -> float | None:
    """The static network's accuracy on the images, if it was asked."""
    if scores.static is None or scores.truth is None:
        return None
    return float((scores.static == scores.truth).mean())


def _say_if_too_good(scores: ExitScores, expected: Expected | None, reporter: Reporter) -> None:
    """Images that the last exit knows far better than those before were perhaps trained on."""
    if scores.truth is None or expected is None:
        return
    here, before = float((scores.label[-1] == scores.truth).mean()), expected.exit_accuracy[-1]
    if before is None:
        return
    counts = len(scores), expected.images
    together = (here * counts[0] + before * counts[1]) / sum(counts)
    spread = math.sqrt(together * (1 - together) * sum(1 / count for count in counts))
    if here - before > _TOO_GOOD * spread:
        reporter.say(
            f"the last exit is right on {100 * here:.2f}% of these {number_of(counts[0], 'image')}, and on "
            f"{100 * before:.2f}% of the {counts[1]} that the bundle knows of: if these were trained on, "
            "what is chosen on them promises too much"
        )


def _say_if_worthless(scores: ExitScores, labels: Sequence[str], reporter: Reporter) -> None:
    """A network that has learnt nothing loses nothing early, and looks like a success."""
    if scores.truth is None:
        return
    counts = np.bincount(scores.truth, minlength=len(labels))
    here, guess = float((scores.label[-1] == scores.truth).mean()), float(counts.max()) / len(scores)
    if here <= guess < 1:
        reporter.say(
            f"the last exit is right on {100 * here:.2f}% of these images, no more than answering "
            f"{labels[int(counts.argmax())]!r} always would be: it has learnt nothing that could be kept"
        )


def _refuse_doubles(items: Sequence[Item]) -> None:
    """An image that counts twice proves nothing the second time."""
    twice = [name for name, count in Counter(map(_which, items)).items() if count > 1]
    if twice:
        raise DataError(f"{len(twice)} images were named more than once, {twice[0]} for one; name each once")


def _which(item: Item) -> str:
    """The image itself: a file may be named in several ways, and by links."""
    return os.path.realpath(item.source) if isinstance(item.source, str) else item.name


def _against(request: CalibrationRequest, scores: ExitScores) -> Against:
    """What to compare with, given what is known of the images."""
    if request.unlabelled:
        return Against.ANSWERS
    if scores.truth is None:
        raise DataError(
            "the true class is not known for every image: put images into folders named after the bundle's "
            "classes, or add --unlabelled to compare with the last exit's answers"
        )
    return Against.LAST_EXIT if request.goal is None else request.goal.against


def _times_ms(cascade: Cascade, items: Sequence[Item]) -> list[float]:
    """Milliseconds until each exit, one image at a time, on this device."""
    step = max(1, len(items) // _TIMED_IMAGES)
    images = [cascade.reader.one(item.source)[None] for item in items[::step][:_TIMED_IMAGES]]
    gated = cascade.flow.gate is not None
    return list(way_ms(cascade, images) if gated else accumulate(stage_ms(cascade, images)))


def _exits(count: int, gated: bool) -> str:
    return f"{number_of(count, 'exit')} behind a gate" if gated else f"{number_of(count, 'exit')}"
