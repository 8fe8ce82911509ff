"""How long a run lasts, and how its learning rate goes: as asked, or for as long as the exits gain.

`--epochs N` is a linear warm-up and a cosine to zero over N epochs. Where nobody says how many, the rate goes
up, stays, and goes down along a cosine. It goes down once the exits no longer gain; at the latest so that the
epochs do not become more than suit the number of images.

What decides is the exits' accuracy after each epoch, which a checkpoint has: a run that goes on ends where it
would have ended. It is that on the validation images, for the loss on those trained on falls by a tenth and
more from part to part when no exit gains any more. Thresholds are proven on these images, so they
decide little: means over a fifth of the run say when it is enough, and no epoch's weights are chosen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from s2dnas_deploy.workshop.training.descent import schedule
from s2dnas_deploy.workshop.training.settings import Settings

# Measured: so many images need so many epochs, and others in this relation.
_IMAGES, _EPOCHS, _POWER = 50_000, 8, -0.3
_FEWEST, _MOST = 4, 120
_DECAY = 0.3  # of the run
_TIGHTENED_BY = 0.4  # of the most epochs
_EARLIEST = 0.6  # of the most epochs; before, accuracies go up and down
_PART, _SHORTEST_PART = 5, 2  # a fifth of the epochs that are over
_LEAST_GAIN = 0.005  # from one part to the next


def epochs_for(images: int) -> int:
    """The most epochs that are of use, by the number of images to train on."""
    suited: float = _EPOCHS * (max(images, 1) / _IMAGES) ** _POWER
    return min(_MOST, max(_FEWEST, round(suited)))


@dataclass(frozen=True, kw_only=True)
class Course:
    """The course of a run whose epochs have so many steps each, as far as is known after some of them."""

    settings: Settings
    epochs: int
    """As many as asked for, or the most."""
    steps_per_epoch: int
    accuracies: tuple[float, ...] = ()
    """The mean of all exits' after each epoch that is over."""

    @classmethod
    def of(cls, settings: Settings, *, images: int, steps_per_epoch: int) -> "Course":
        """As the settings say, or as suits so many images."""
        epochs = epochs_for(images) if settings.epochs is None else settings.epochs
        return cls(settings=settings, epochs=epochs, steps_per_epoch=steps_per_epoch)

    @property
    def most_steps(self) -> int:
        """Steps of a run that does not end early."""
        return self.epochs * self.steps_per_epoch

    @cached_property
    def steps(self) -> int:
        """Steps of the run, as far as is known."""
        return self.most_steps if self.settings.epochs is not None else self._end * self.steps_per_epoch

    def rate(self, step: int) -> float:
        """The learning rate at a step, as a share of its peak."""
        done = step / self.most_steps
        if self.settings.epochs is not None or done < self.settings.warmup:
            return schedule(done, self.settings.warmup)
        over = step / self.steps_per_epoch - self._begin_of_decay
        return schedule(over / (self._end - self._begin_of_decay), 0.0) if over > 0 else 1.0

    def allowed(self, step: int, share: float) -> float:
        """What images may take of a network with gates at a step, on average."""
        return allowed_after(step / self.most_steps, share)

    @property
    def _latest(self) -> int:
        """The epoch after which the rate goes down if exits gain all the time."""
        return max(1, round((1 - _DECAY) * self.epochs))

    @cached_property
    def _begin_of_decay(self) -> int:
        """The epoch after which the rate goes down: the first without a gain, or the latest."""
        earliest = math.ceil(max(_EARLIEST, 2 * self.settings.warmup) * self.epochs)
        over = range(earliest, min(self._latest, len(self.accuracies) + 1))
        return next((epoch for epoch in over if _has_settled(self.accuracies[:epoch])), self._latest)

    @property
    def _end(self) -> int:
        """The epoch after which the run ends: going down takes a share of the whole."""
        begin = self._begin_of_decay
        return self.epochs if begin == self._latest else begin + max(1, round(begin * _DECAY / (1 - _DECAY)))


def allowed_after(done: float, share: float) -> float:
    """What images may take of a network with gates after a part of a run: from all of it to a share."""
    return 1 - (1 - share) * min(1.0, done / _TIGHTENED_BY)


def _has_settled(accuracies: Sequence[float]) -> bool:
    """Whether the latest fifth of the epochs gained hardly anything over the fifth before."""
    part = max(_SHORTEST_PART, len(accuracies) // _PART)
    if len(accuracies) < 2 * part:
        return False
    return fmean(accuracies[-part:]) - fmean(accuracies[-2 * part : -part]) < _LEAST_GAIN
