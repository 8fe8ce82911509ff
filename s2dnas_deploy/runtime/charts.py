"""Small charts as SVG: bars with whiskers, lines with points, and a bar in parts.

Place in the flow: numbers ──▶ text of an <svg>, a file of its own or a part of a page. Written by hand, for
a device has no plotting library. They are drawn for the width of a phone and grow with the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from textwrap import wrap

COLOURS = ("#1b6ca8", "#d1495b", "#66a182", "#edae49", "#8d6a9f", "#5c677d")
_WIDTH, _LEFT, _RIGHT, _ROW = 360, 66, 14, 24
_HEIGHT, _TOP, _BOTTOM = 230, 12, 40
_LETTER, _LINE = 6.4, 14  # how wide a letter of usual fonts is, and how high a line


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A named value with its interval, and marks further along."""

    name: str
    value: float
    low: float
    high: float
    marks: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points (x, y) that belong together, joined or each by itself."""

    name: str
    points: tuple[tuple[float, float], ...]
    joined: bool = True


def bars(rows: Sequence[Bar], unit: str) -> str:
    """A bar a row, its interval as a whisker, its marks as ticks."""
    height = _TOP + _ROW * len(rows) + _BOTTOM
    most = max(max((row.high, *row.marks)) for row in rows)
    scale = _Scale(0.0, most, _LEFT, _WIDTH - _RIGHT)
    parts = _x_axis(scale, height - _BOTTOM, unit)
    for i, row in enumerate(rows):
        y, colour = _TOP + _ROW * i + 4, COLOURS[i % len(COLOURS)]
        middle = y + 8
        parts += [
            _text(_LEFT - 6, middle + 4, row.name, anchor="end"),
            _rect(_LEFT, y, scale(row.value) - _LEFT, 16, colour),
            f'<path d="M{scale(row.low):.1f} {middle}H{scale(row.high):.1f}" stroke="#111"/>',
            *(f'<path d="M{scale(x):.1f} {y}v16" stroke="{colour}" stroke-width="2"/>' for x in row.marks),
        ]
    return _svg(parts, height)


def lines(of: Sequence[Line], below: str, beside: str) -> str:
    """Lines and points in one frame, with their names under it."""
    every = [point for line in of for point in line.points]
    lowest, highest = min(y for _, y in every), max(y for _, y in every)
    margin = 0.05 * (highest - lowest) or 0.5
    xs = _Scale(0.0, max(x for x, _ in every), _LEFT - 20, _WIDTH - _RIGHT)
    ys = _Scale(lowest - margin, highest + margin, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_x_axis(xs, _HEIGHT - _BOTTOM, below), *_y_axis(ys, beside)]
    for i, line in enumerate(of):
        colour = COLOURS[i % len(COLOURS)]
        at = [(xs(x), ys(y)) for x, y in line.points]
        if line.joined:
            joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
            parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{joined}"/>')
        else:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>' for x, y in at]
    legend, height = _legend([line.name for line in of], _HEIGHT + 2)
    return _svg([*parts, *legend], _HEIGHT + height)


def stacked(parts_of: Sequence[tuple[str, float]], unit: str) -> str:
    """One bar in parts, with their names and values under it; parts below 0 are not drawn."""
    total = sum(max(value, 0.0) for _, value in parts_of)
    scale = _Scale(0.0, total, 10, _WIDTH - 10)
    drawn, x = [], 0.0
    for i, (_, value) in enumerate(parts_of):
        width = scale(x + max(value, 0.0)) - scale(x)
        drawn.append(_rect(scale(x), 10, width, 26, COLOURS[i % len(COLOURS)]))
        x += max(value, 0.0)
    names = [f"{name}: {value:.4f} {unit}" for name, value in parts_of]
    legend, height = _legend(names, 50, columns=1)
    return _svg([*drawn, *legend], 54 + height)


def as_file(chart: str, title: str) -> str:
    """A chart that stands by itself: with a title, and the font and the ground that a page would give."""
    head, _, drawn = chart.partition(">")
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" ')
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return f"{head}><title>{escape(title)}</title>{ground}{drawn}"


class _Scale:
    """From a value to a place in the picture; `ticks` are round values between."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.span = low, (high - low) or 1.0
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / self.span

    def ticks(self) -> list[float]:
        rough = self.span / 4
        power = 10.0 ** floor(log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = ceil(self.low / step - 1e-9)
        return [step * i for i in range(first, floor((self.low + self.span) / step + 1e-9) + 1)]


def _x_axis(scale: _Scale, bottom: float, title: str) -> list[str]:
    start, end = scale.start, scale.end
    return [
        f'<path d="M{start} {bottom}H{end}" stroke="#888"/>',
        *(f'<path d="M{scale(x):.1f} {_TOP}V{bottom}" stroke="#ddd"/>' for x in scale.ticks()),
        *(_text(scale(x), bottom + 14, f"{x:.3g}", anchor="middle") for x in scale.ticks()),
        _text((start + end) / 2, bottom + 31, title, anchor="middle"),
    ]


def _y_axis(scale: _Scale, title: str) -> list[str]:
    left, right = _LEFT - 20, _WIDTH - _RIGHT
    middle = (scale.start + scale.end) / 2
    return [
        *(f'<path d="M{left} {scale(y):.1f}H{right}" stroke="#ddd"/>' for y in scale.ticks()),
        *(_text(left - 4, scale(y) + 4, f"{y:.4g}", anchor="end") for y in scale.ticks()),
        f'<text x="11" y="{middle}" text-anchor="middle" transform="rotate(-90 11 {middle})">'
        f"{escape(title)}</text>",
    ]


def _legend(names: Sequence[str], top: float, columns: int = 2) -> tuple[list[str], int]:
    """A square of each colour with its name, in several lines if it is long; and how high all of it is."""
    longest = int((_WIDTH // columns - 25) / _LETTER)
    wrapped = [wrap(name, longest) for name in names]
    parts, height = [], 0
    for first in range(0, len(names), columns):
        row = wrapped[first : first + columns]
        for column, texts in enumerate(row):
            x, y = 10 + column * _WIDTH // columns, top + height
            parts.append(_rect(x, y, 10, 10, COLOURS[(first + column) % len(COLOURS)]))
            parts += [_text(x + 15, y + 9 + _LINE * i, text) for i, text in enumerate(texts)]
        height += _LINE * max(map(len, row)) + 4
    return parts, height


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def _svg(parts: Sequence[str], height: float) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" font-size="11">{"".join(parts)}</svg>'
