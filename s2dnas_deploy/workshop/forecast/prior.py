"""What is known of exits before they are trained: how often they err, and how many images must go on.

Place in the flow: how unlike the static network each exit answers, once it is fitted + the static network's
error ──▶ the share of images that exits at each stage.

An exit that is fitted (`training/start`) and not trained yet answers some images otherwise than the static
network does: a share d of those that chance would. Training regains some of that. A static network that knows
all images it was trained on by heart has more weights than it needs, and one that errs on these as on others
has not: with r the part of its errors that it does not make on images it was trained on, exit k loses of the
static network's accuracy above chance

    lost_k = KEPT · max(0, d_k - OWN - SPARE · r)

which is what was found on small networks of three kinds, 1,100 to 8,000 images, within a few points. Without
images there is nothing to be fitted to, and by the share m of MACs up to the exit, d is guessed:
d = GUESS · ln 1/m.

Images that exit k is least sure of go on, until accuracy has fallen by no more than is allowed. Those whose
going on gains anything are about HARD times as many as those it errs on. With a part u of these, chosen by
confidence, the gap g_k to the last exit shrinks to (1 - u)² of what it was; so to be allowed a drop,

    u_k = 1 - √(drop / g_k), and 0 where the gap is smaller than the drop.

Thresholds are chosen on some hundred images, at even odds as README has it: of what may be lost, a part USED
is. So an exit that is nearly as good as the last one is worth more than a faster one that is not.

It is a rule of thumb to choose plans by, and no promise: that is for `s2dnas-calibrate` to make, on images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log, sqrt

_OWN, _SPARE, _KEPT = 0.14, 0.2, 0.2
_GUESS = 0.3
_HARD = 2.1
_DROP, _USED = 0.01, 0.6
"""How far accuracy may fall below the static network's, and the part of it that thresholds make use of."""
_TYPICAL_ERROR, _TYPICALLY_KNOWN = 0.2, 0.7


@dataclass(frozen=True, kw_only=True)
class Task:
    """How hard the images are: how often the static network errs, and how often chance is right."""

    error: float
    chance: float
    by_heart: float
    """The part of its errors that it does not make on images it was trained on."""


def unknown_task(classes: int) -> Task:
    """A network of so many classes, without images."""
    chance = 1 / classes
    return Task(error=min(_TYPICAL_ERROR, 1 - chance), chance=chance, by_heart=_TYPICALLY_KNOWN)


def guessed(macs: Sequence[float]) -> tuple[float, ...]:
    """How unlike the static network exits answer, by the MACs up to each."""
    return tuple(min(1.0, _GUESS * log(1 / min(share, 1.0))) for share in macs)


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What is expected of the exits of a plan, once they are trained."""

    accuracies: tuple[float, ...]
    shares: tuple[float, ...]
    """The share of images that exits at each stage."""
    falls_short: float
    """How far the last exit itself is expected to be below what is allowed."""


def outlook(task: Task, unlike: Sequence[float]) -> Outlook:
    """From how unlike the static network each fitted exit answers: 0 alike, 1 by chance."""
    static = 1 - task.error
    lost = [_KEPT * max(0.0, each - _OWN - _SPARE * task.by_heart) for each in unlike]
    accuracies = [static - part * max(0.0, static - task.chance) for part in lost]
    spare = accuracies[-1] - (static - _DROP)
    drop = _USED * max(0.0, spare)
    going_on = [1.0]
    for accuracy in accuracies[:-1]:
        gap = accuracies[-1] - accuracy
        part = 1 - sqrt(drop / gap) if gap > drop else 0.0
        going_on.append(min(going_on[-1], part * _HARD * (1 - accuracy)))
    shares = tuple(before - after for before, after in pairwise([*going_on, 0.0]))
    return Outlook(accuracies=tuple(accuracies), shares=shares, falls_short=max(0.0, -spare))
