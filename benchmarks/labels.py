"""Labels beside the curves that they name, where they lie over nothing else.

Place in the flow: points, lines and words, in pixels ──▶ where each label goes. It draws nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, hypot, pi, sin

Place = tuple[float, float]
"""Pixels from the left and from the bottom."""

_ANGLES = 32
_DISTANCES = (7, 12, 18, 26, 36, 48, 62, 78, 96, 120)
_GAP = 2.0
_OVER_A_LINE, _OVER_A_POINT = 25.0, 400.0


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: "Box") -> bool:
        """Whether both have something in common, or nearly."""
        return (
            self.left < other.right + _GAP
            and other.left < self.right + _GAP
            and self.bottom < other.top + _GAP
            and other.bottom < self.top + _GAP
        )

    def has(self, place: Place) -> bool:
        """Whether a place is within, or nearly."""
        x, y = place
        near = 2 * _GAP
        return self.left - near < x < self.right + near and self.bottom - near < y < self.top + near

    def is_within(self, other: "Box") -> bool:
        """Whether all of it is in another."""
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.bottom <= self.bottom
            and self.top <= other.top
        )


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What is to be named: its points, one after the other, and how wide and high its label is."""

    points: tuple[Place, ...]
    size: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Label:
    """Where a label goes, and the point of its curve that it stands beside."""

    box: Box
    beside: Place


def placed(curves: Sequence[Curve], within: Box) -> list[Label]:
    """A label for each curve, near it and over no other label; best over no line and no point, too."""
    marks = [point for curve in curves for point in curve.points]
    lines = [place for curve in curves for place in _along(curve.points)]
    labels: list[Label] = []
    for curve in curves:
        free = [
            (cost + _cost(label, marks, lines), label)
            for cost, label in _candidates(curve)
            if label.box.is_within(within) and not any(label.box.overlaps(other.box) for other in labels)
        ]
        if not free:
            raise ValueError("no room for a label: draw a larger picture")
        labels.append(min(free, key=lambda each: each[0])[1])
    return labels


def _candidates(curve: Curve) -> Iterator[tuple[float, Label]]:
    """Around each of its points, nearer ones at less cost."""
    width, height = curve.size
    for x, y in curve.points:
        for distance in _DISTANCES:
            for step in range(_ANGLES):
                across, up = cos(2 * pi * step / _ANGLES), sin(2 * pi * step / _ANGLES)
                middle_x, middle_y = x + across * (distance + width / 2), y + up * (distance + height / 2)
                box = Box(
                    left=middle_x - width / 2,
                    right=middle_x + width / 2,
                    bottom=middle_y - height / 2,
                    top=middle_y + height / 2,
                )
                yield distance, Label(box=box, beside=(x, y))


def _cost(label: Label, marks: Sequence[Place], lines: Sequence[Place]) -> float:
    """What it lies over, and what the way to its point crosses."""
    over = _OVER_A_POINT * sum(map(label.box.has, marks)) + _OVER_A_LINE * sum(map(label.box.has, lines))
    x, y = label.beside
    end = nearest_in(label.box, label.beside)
    length = hypot(end[0] - x, end[1] - y)
    way = [place for place in _along((label.beside, end)) if hypot(place[0] - x, place[1] - y) > _GAP * 3]
    crossed = sum(hypot(a[0] - b[0], a[1] - b[1]) < _GAP * 3 for a in way for b in marks)
    return over + _OVER_A_LINE * crossed + length / 4


def nearest_in(box: Box, place: Place) -> Place:
    """The place of a box that is nearest to another."""
    return min(max(place[0], box.left), box.right), min(max(place[1], box.bottom), box.top)


def _along(points: Sequence[Place]) -> Iterator[Place]:
    """Places on the lines between points, a few pixels apart."""
    for (x, y), (to_x, to_y) in pairwise(points):
        steps = max(1, round(hypot(to_x - x, to_y - y) / 4))
        for step in range(steps + 1):
            yield x + (to_x - x) * step / steps, y + (to_y - y) * step / steps
