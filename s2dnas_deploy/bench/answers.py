"""What all images come to: where each leaves the cascade, and what every exit would say of it.

Place in the flow: images ──▶ `Answered`, once, before anything is timed; and which of the images are timed.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.bench.report import Answers, Way
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.errors import DataError
from s2dnas_deploy.reporter import Reporter, counted
from s2dnas_deploy.runtime.answers.inputs import Item, truth_of
from s2dnas_deploy.runtime.baseline import Baseline, static_answers
from s2dnas_deploy.runtime.bulk import BulkOptions
from s2dnas_deploy.runtime.calibrate.recording import exit_scores
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.predictions import Prediction
from s2dnas_deploy.runtime.stages import Array

_LIKE_NEIGHBOURS = 0.3
LOOKED_AT = 100
"""So many images tell whether all are noise."""
_DECODED = 64


@dataclass(frozen=True, kw_only=True)
class Answered:
    """All images: whose answer each gets, and, of a chain, what every exit would say of it."""

    answers: Answers
    exits: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    scores: ExitScores | None


def answer(cascade: Cascade, items: Sequence[Item], reporter: Reporter) -> Answered:
    """As `s2dnas-run` answers, and then what every exit of a chain says of every image."""
    progress = reporter.phase("answering")
    left, labels, right = np.empty(len(items), np.int64), np.empty(len(items), np.int64), 0
    ways: Counter[tuple[int, tuple[str, ...]]] = Counter()
    for i, (item, said) in enumerate(zip(items, cascade.stream(item.source for item in items), strict=True)):
        assert isinstance(said, Prediction)
        left[i], labels[i] = said.exit, said.label
        ways[said.exit, said.way] += 1
        right += said.name == item.truth
        progress(i + 1, len(items), "")
    truth, scores = truth_of(items, cascade.labels), None
    if cascade.flow.is_chain:
        told = counted(reporter.phase("answering at every exit"))
        scores = exit_scores(cascade, items, BulkOptions(), told)
    return Answered(
        answers=Answers(
            images=len(items),
            counts=tuple(np.bincount(left, minlength=len(cascade.names)).tolist()),
            cascade_accuracy=None if truth is None else right / len(items),
            exit_accuracy=None if scores is None or truth is None else _accuracies(scores, truth),
            static_accuracy=None,
            ways=tuple(
                Way(stages=tuple(map(cascade.names.index, way)), exit=exit_, images=count)
                for (exit_, way), count in sorted(ways.items())
            ),
        ),
        exits=left,
        labels=labels,
        scores=scores,
    )


def _accuracies(scores: ExitScores, truth: npt.NDArray[np.int64]) -> tuple[float, ...]:
    return tuple((scores.label == truth).mean(axis=1).tolist())


def representative(exits: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """An order of all images of which every beginning has the exits of the whole, as nearly as can be.

    The images of an exit are spread over the order at even distances.
    """
    places = np.empty(len(exits))
    for k in np.unique(exits):
        mine = np.flatnonzero(exits == k)
        places[np.random.default_rng(0).permutation(mine)] = (np.arange(len(mine)) + 0.5) / len(mine)
    return np.argsort(places, kind="stable")


def decode_ms(cascade: Cascade, items: Sequence[Item]) -> float | None:
    """Milliseconds to read an image from its file; None of images that are in memory already."""
    files = [item.source for item in items if isinstance(item.source, str)][:_DECODED]
    if not files:
        return None
    cascade.reader.one(files[0])
    started = time.perf_counter()
    for source in files:
        cascade.reader.one(source)
    return 1e3 * (time.perf_counter() - started) / len(files)


def pixels_of(cascade: Cascade, items: Sequence[Item]) -> Array:
    """Images as the graphs take them."""
    return cascade.reader.batch([item.source for item in items])


def image_bytes(manifest: Manifest) -> int:
    """How much memory the pixels of an image take."""
    return int(np.prod(manifest.image_shape)) * np.dtype(manifest.image_type).itemsize


def refuse_noise(pixels: Array) -> None:
    """Exits fire at random on noise; in photographs and drawings, neighbours are alike."""
    left, right = (np.float64(each).ravel() for each in (pixels[:, :, :-1], pixels[:, :, 1:]))
    alike = float(np.corrcoef(left, right)[0, 1]) if left.std() and right.std() else 1.0
    if alike < _LIKE_NEIGHBOURS:
        raise DataError(
            f"the images look like random noise: neighbouring pixels correlate by {alike:.2f}, those of "
            "pictures by 0.5 and more. Where noise leaves the cascade tells nothing of real images: give "
            "those, or --noise if this is meant"
        )


def static_accuracy(
    baseline: Baseline, cascade: Cascade, items: Sequence[Item], reporter: Reporter
) -> float | None:
    """How often the static network is right; None where the true classes are not known."""
    truth = truth_of(items, cascade.labels)
    if truth is None:
        return None
    progress = counted(reporter.phase("answering by the static network"))
    return float((static_answers(baseline, cascade, items, progress) == truth).mean())
