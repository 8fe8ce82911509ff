"""What a person should know before a long training, and after it: how good, and what images can prove.

Place in the flow: `session` and the search say these lines once images and weights are read, and once a
network is trained. They judge nothing themselves.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from statistics import fmean
from typing import Any

from s2dnas_deploy.decide.exact_tests import least_images, most_useful, smallest_drop
from s2dnas_deploy.decide.thresholds import MAX_DROP, Goal, in_points
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.quoting import number_of
from s2dnas_deploy.workshop.data.labelled import ImageSplits
from s2dnas_deploy.workshop.data.splits import listed
from s2dnas_deploy.workshop.training.batches import Waited
from s2dnas_deploy.workshop.training.gate import Learnt
from s2dnas_deploy.workshop.training.saved import Saved
from s2dnas_deploy.workshop.training.settings import Settings

_DEFAULT = Goal(drop=MAX_DROP)
_FAR_BELOW, _MUCH_WAITING = 0.05, 0.1
_FEWEST_EPOCHS, _GAINED_BY_TWICE = 3, 0.5


def static_words(accuracy: Mapping[str, float], splits: ImageSplits) -> str:
    """How good the static network is on the images that judge it; `accuracy` by part, val and test."""
    counts = {"val": ("validation", splits.val), "test": ("test", splits.test)}
    said = (
        f"{100 * accuracy[part]:.2f}% on {number_of(len(images), f'{name} image')}"
        for part, (name, images) in counts.items()
        if images is not None and part in accuracy
    )
    return f"static network: {', '.join(said)}"


def gate_words(learnt: Learnt) -> str:
    """What a gate does before anything is added to its numbers."""
    shares = " / ".join(f"{100 * share:.0f}%" for share in learnt.shares)
    return (
        f"the gate sends {shares} of training images to the widths: {100 * learnt.accuracy:.1f}% right, the "
        f"widest {100 * learnt.widest_accuracy:.1f}%. s2dnas-calibrate moves the balance"
    )


def blocks_words(saved: Saved) -> str:
    """What gates spare on validation images."""
    runs = " / ".join(f"{100 * share:.0f}%" for share in saved.runs)
    spent = f"{100 * saved.spent:.1f}%"
    return f"a validation image takes {spent} of the MACs on average; the blocks run for {runs} of the images"


def cautions(
    splits: ImageSplits,
    *,
    normalize_guessed: bool,
    weights_may_know_val: bool,
    to_be_divided: bool,
    limited: bool,
) -> Iterator[str]:
    """What was decided silently, or will be missing in the end."""
    if normalize_guessed:
        yield "no --normalize: images are normalised as for ImageNet; were those the weights were trained on?"
    if splits.have_alpha:
        yield (
            "some images have an alpha channel: it is dropped, as torchvision's ImageFolder drops it, so "
            "what is transparent shows the colour that the file keeps under it"
        )
    if weights_may_know_val and splits.val_is_split_off:
        yield (
            f"{len(splits.val)} validation images are split off those to train on. If the weights were "
            "trained on these, they look better here than they are, and so do thresholds chosen on them: "
            "put images that they were not trained on into val/"
        )
    for part, images in (("validation", splits.val), ("test", splits.test)):
        there = set() if images is None else set(images.labels.tolist())
        absent = [name for label, name in enumerate(splits.class_names) if label not in there]
        if images is not None and absent:
            yield f"there are no {part} images of {listed(absent)}"
    if to_be_divided and most_useful(_DEFAULT.test(len(splits.val))) is None:
        drop, enough = smallest_drop(len(splits.val), _DEFAULT.probability), least_images(_DEFAULT.test(1))
        more = "a larger --val-fraction" if splits.val_is_split_off else "more images in val/"
        yield (
            f"on {number_of(len(splits.val), 'validation image')} s2dnas-calibrate can prove a drop of "
            f"{in_points(drop)} at the least; {in_points(_DEFAULT.drop)} takes {enough} or more"
            + ("" if limited else f" ({more})")
        )


def shortfall(
    static: Mapping[str, float] | None, exits: Sequence[float], settings: Settings, epochs: int, plan: Plan
) -> str | None:
    """What to do about a last answer that has become far worse than the static network it came from."""
    if static is None or epochs == 0 or static["val"] - exits[-1] < _FAR_BELOW:
        return None
    last, besides = "the last exit", ", and so does a plan whose last stage owns more"
    if plan.nested or plan.stages == 1:
        last, besides = ("the widest" if plan.nested else "it"), ""
    return (
        f"{last} is {100 * (static['val'] - exits[-1]):.1f} points below the static network: more "
        f"--epochs (now {epochs}), a smaller --lr (now {settings.lr:g}) or another --augment (now "
        f"{settings.augment}) may help{besides}"
    )


def waiting_words(waited: Waited) -> str:
    """How much of the time training did nothing but wait for images, and what to do if that is much."""
    remedies = f"; more --workers (now {waited.workers}) or smaller files may help"
    much = waited.share > _MUCH_WAITING
    return f"training waited for images {100 * waited.share:.1f}% of the time{remedies if much else ''}"


def outlook(metrics: Sequence[Mapping[str, Any]], images: int) -> str | None:
    """How far a longer run would get, going by the accuracies on so many validation images, epoch by epoch.

    A run twice as long gained half of what the exits had gained in the last third of the shorter one: the
    median of eight that were measured, of which the least was nothing and the most all of it.
    """
    if len(metrics) < _FEWEST_EPOCHS:
        return None
    means = [fmean(row["val_accuracy"]) for row in metrics]
    part = max(1, len(means) // 10)
    mark = round(len(means) * 2 / 3)
    now = fmean(means[-part:])
    gained = now - fmean(means[max(0, mark - part) : mark])
    # Two standard errors of half the gain; on the same images, accuracies vary about half as much.
    chance = 0.5 * sqrt(now * (1 - now) / images)
    return (
        f"over the last third of {len(means)} epochs answers gained {100 * gained:.1f} points: a run twice "
        f"as long would gain about {100 * max(0.0, _GAINED_BY_TWICE * gained):.1f}, give or take "
        f"{100 * chance:.1f} as judged by {number_of(images, 'validation image')}"
    )
