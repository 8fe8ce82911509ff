"""Whether weights were likelier trained with another normalisation than the one that nobody has chosen.

Place in the flow: a poor accuracy of the static network ──▶ the word that says which `--normalize` to give.
"""

from collections.abc import Callable, Iterator
from math import sqrt

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.quoting import number_of
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.training.normalise import preprocessing_for

Judge = Callable[[LabelledImages, Preprocessing], float]
"""The share of images that a network is right on, if they are prepared so."""

_OTHERS = ("unit", "none", "cifar10", "data")  # of cifar100, the numbers are nearly those of cifar10
_TRIED_ON = 200
_POOR, _CLEARLY_BETTER, _STANDARD_ERRORS = 0.5, 0.1, 3


def likelier_words(right: float, splits: ImageSplits, guessed: Preprocessing, judge: Judge) -> Iterator[str]:
    """What to give in place of the guess, if the network is `right` too seldom and something fits better."""
    by_chance = 1 / len(splits.class_names)
    if right - by_chance > _POOR * (1 - by_chance):
        return
    images = splits.val.evenly(_TRIED_ON).in_memory()
    now = judge(images, guessed)
    found = {name: judge(images, _normalised(name, splits, guessed)) for name in _OTHERS}
    best = max(found, key=lambda name: found[name])
    chance = _STANDARD_ERRORS * sqrt(found[best] * (1 - found[best]) / len(images))
    if found[best] - now > max(_CLEARLY_BETTER, chance):
        yield (
            f"with --normalize {best} the static network is right on {100 * found[best]:.1f}% of "
            f"{number_of(len(images), 'validation image')} in place of {100 * now:.1f}%: give it if your "
            "weights were trained so"
        )


def _normalised(name: str, splits: ImageSplits, guessed: Preprocessing) -> Preprocessing:
    shape = guessed.input_shape
    return preprocessing_for(
        name, (shape[0], shape[1], shape[2]), images=splits.train.evenly(_TRIED_ON), resize=guessed.resize
    )
