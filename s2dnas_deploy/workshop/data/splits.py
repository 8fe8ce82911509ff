"""Who trains, who chooses, who judges: divide labelled images by class and seed, before any is decoded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.images.pixels import Pixels
from s2dnas_deploy.quoting import named_in_line, shortened

_MOST_NAMED, _LONGEST_LIST = 100, 400

Index = NDArray[np.int64]
OnRead = Callable[[int], None]


class PixelSource(Protocol):
    """Where pixels are found."""

    def decode(self, positions: Index, out: Pixels) -> None:
        """Write the images at `positions` [M] to `out`, uint8 [M, C, H, W].

        Raises an `UnreadableError` at its end if some could not be read.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class UnreadImages:
    """Images whose labels are known and whose pixels are still where they were found."""

    labels: Index
    """[N]"""
    positions: Index
    """[N]: where the source has each of them"""
    source: PixelSource

    def __len__(self) -> int:
        return len(self.labels)

    def pick(self, index: Index) -> "UnreadImages":
        """Return the images at `index` [M] only."""
        return UnreadImages(labels=self.labels[index], positions=self.positions[index], source=self.source)


@dataclass(frozen=True, kw_only=True, eq=False)
class UnreadSplits:
    """What a source holds, as it divides it itself."""

    train: UnreadImages
    val: UnreadImages | None
    test: UnreadImages | None
    class_names: tuple[str, ...]
    where: str
    """What messages call the source."""

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise DataError(
                f"{self.where}: expected at least 2 classes, got {len(self.class_names)}"
                f" ({named_in_line(', '.join(self.class_names)) or 'none'})"
            )
        if len(set(self.class_names)) < len(self.class_names):
            raise DataError(
                f"{self.where}: expected class names that differ, got [{listed(self.class_names)}]"
            )
        present = np.bincount(self.train.labels, minlength=len(self.class_names))
        empty = [name for name, count in zip(self.class_names, present, strict=True) if count == 0]
        if empty:
            raise DataError(
                f"{self.where}: every class needs at least one image to train on, none found for"
                f" {listed(empty)}. Add images, or leave these classes out."
            )


def with_val(found: UnreadSplits, *, fraction: float, seed: int) -> tuple[UnreadImages, UnreadImages]:
    """Return what to train on and what to choose by, the latter split off the former if there is none."""
    if found.val is not None:
        return found.train, found.val
    counts = np.bincount(found.train.labels)
    lonely = [name for name, count in zip(found.class_names, counts, strict=True) if count == 1]
    if lonely:
        raise DataError(
            f"{found.where}: validation images are split off those to train on, which takes at least 2 of"
            f" each class; got 1 for {listed(lonely)}. Add images, leave these classes out, or provide"
            " validation images."
        )
    kept, held_out = hold_out(found.train.labels, fraction=fraction, seed=seed)
    return found.train.pick(kept), found.train.pick(held_out)


def hold_out(labels: Index, *, fraction: float, seed: int) -> tuple[Index, Index]:
    """Divide the positions of `labels` into (kept, held out), at least one of each class in both."""
    random = np.random.default_rng(seed)
    held_out = []
    for members in _by_class(labels):
        count = min(max(1, int(len(members) * fraction + 0.5)), len(members) - 1)
        held_out.append(random.permutation(members)[:count])
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[np.concatenate(held_out)] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def limited(images: UnreadImages, *, limit: int, seed: int) -> UnreadImages:
    """Return at most `limit` of the images, in the proportions of the classes, at least one of each class.

    The classes share out the places by Sainte-Laguë's method: member r of a class of n has the claim
    (r + 1/2) / n, and the smallest claims win; r = 0 always does.
    """
    if len(images) <= limit:
        return images
    random = np.random.default_rng(seed)
    claims = np.empty(len(images))
    for members in _by_class(images.labels):
        ranks = np.arange(len(members))
        claims[random.permutation(members)] = np.where(ranks == 0, 0.0, (ranks + 0.5) / len(members))
    return images.pick(np.sort(np.argsort(claims, kind="stable")[:limit]))


def listed(names: Sequence[str]) -> str:
    """Return the names in one line, of which a person can read the end as well."""
    return shortened(", ".join(repr(name) for name in names[:_MOST_NAMED]), _LONGEST_LIST)


def _by_class(labels: Index) -> list[Index]:
    """Positions of each class that occurs, ascending."""
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels))
    return [members for members in np.split(order, ends[:-1]) if len(members)]
