"""A picture of a calibration: accuracy against cost along the path, and the point that was chosen.

Written as SVG by hand, for a device has no plotting library and two axes need none.
"""

from html import escape

from s2dnas_deploy.run.calibrate import Point
from s2dnas_deploy.run.calibration import Calibration

_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 40, 60


def calibration_svg(calibration: Calibration) -> str:
    """The picture, as text."""
    choice = calibration.choice
    points = [*choice.curve, choice.full, choice.point]
    scale = 1.0 if calibration.unit == "ms" else 1e-6
    unit = "ms" if calibration.unit == "ms" else "M MACs"
    xs = [point.cost * scale for point in points]
    ys = [_height(point) for point in points]
    frame = _Frame(max(xs), min(ys), max(ys))
    title = f"{calibration.manifest.name}: chosen on {calibration.images} images"
    what = "accuracy" if choice.full.accuracy is not None else "same answers as the last exit"
    curve = sorted(zip(xs[:-2], ys[:-2], strict=True))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="14">{escape(title)}</text>',
        *frame.axes(f"average cost of an image, {unit}", f"{what}, %"),
        '<polyline fill="none" stroke="#1f77b4" stroke-width="2" points="'
        + " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in curve)
        + '"/>',
        *frame.mark(xs[-2], ys[-2], "#555555", "every stage on every image"),
        *frame.mark(xs[-1], ys[-1], "#d62728", f"chosen: {ys[-1]:.2f}% at {xs[-1]:.3g} {unit}"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _height(point: Point) -> float:
    return 100 * (1 - point.loss if point.accuracy is None else point.accuracy)


class _Frame:
    """Where numbers are in the picture."""

    def __init__(self, highest_x: float, lowest: float, highest: float) -> None:
        margin = max(0.05 * (highest - lowest), 0.1)
        self.highest_x, self.lowest, self.highest = 1.05 * highest_x, lowest - margin, highest + margin

    def x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * value / self.highest_x

    def y(self, value: float) -> float:
        share = (value - self.lowest) / (self.highest - self.lowest)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    def axes(self, below: str, beside: str) -> list[str]:
        """Two lines, five numbers on each, and what they are."""
        bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        lines = [f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="black"/>']
        for i in range(5):
            x = self.highest_x * i / 4
            y = self.lowest + (self.highest - self.lowest) * i / 4
            lines += [
                f'<text x="{self.x(x):.1f}" y="{bottom + 18}" text-anchor="middle">{x:.3g}</text>',
                f'<text x="{_LEFT - 6}" y="{self.y(y) + 4:.1f}" text-anchor="end">{y:.1f}</text>',
            ]
        middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
        return [
            *lines,
            f'<text x="{middle_x}" y="{_HEIGHT - 14}" text-anchor="middle">{escape(below)}</text>',
            f'<text x="18" y="{middle_y}" text-anchor="middle" transform="rotate(-90 18 {middle_y})">'
            f"{escape(beside)}</text>",
        ]

    def mark(self, x: float, y: float, colour: str, text: str) -> list[str]:
        """A dot and what it is, written to the side where there is room."""
        px, py = self.x(x), self.y(y)
        left = px > _WIDTH / 2
        anchor, shift = ("end", -8) if left else ("start", 8)
        return [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5" fill="{colour}"/>',
            f'<text x="{px + shift:.1f}" y="{py + 18:.1f}" text-anchor="{anchor}" fill="{colour}">'
            f"{escape(text)}</text>",
        ]
