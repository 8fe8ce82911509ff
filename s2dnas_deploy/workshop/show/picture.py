"""The picture of a plan: every layer a row, its channels coloured by the stage that computes them.

Place in the flow: `MultiStageNetwork` ──▶ an SVG or PNG file that says at a glance who owns what and where
each stage exits. Rows run from the image down to the classifier; above them a bar shows each stage's share
of the static network's MACs. All lengths are in inches, y grows downwards. It draws; it counts nothing.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from s2dnas_deploy.errors import S2dnasError
from s2dnas_deploy.files.atomic import write_atomically
from s2dnas_deploy.plan import OUTPUT
from s2dnas_deploy.workshop.network.costs import StageCosts, stage_costs, static_costs
from s2dnas_deploy.workshop.network.division import Division
from s2dnas_deploy.workshop.network.graph import Node
from s2dnas_deploy.workshop.network.network import MultiStageNetwork
from s2dnas_deploy.workshop.network.operators import OPERATORS

Point = tuple[float, float]

_CANVASES = {".svg": FigureCanvasSVG, ".png": FigureCanvasAgg}
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "s2dnas", "font.family": "sans-serif"}

# Okabe and Ito, "Color Universal Design", in an order in which neighbours differ in lightness as well.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#4D4D4D")
_DARK = frozenset({"#0072B2", "#009E73", "#D55E00", "#4D4D4D"})  # white text is readable on these
_HATCHES = ("", "////")  # stages 8 to 15 have the colours again, hatched
_INK, _FAINT, _EMPTY = "#222222", "#777777", "#E4E4E4"

_WIDTH, _MARGIN = 11.0, 0.35
_LEFT, _RIGHT = 2.85, 9.55  # where channels begin, and where the widest layer ends
_TITLE, _BAR = 0.95, 0.34  # heights
_CHIP = 0.27
_LETTER = 0.0085  # about how wide a letter is, for each point of its size
_PER_MARK_LINE, _PER_LEGEND_LINE = 3, 4  # how many stages fit side by side


@dataclass(frozen=True, kw_only=True)
class Row:
    """One layer: its channels per stage, and where it is drawn."""

    node: Node
    counts: tuple[int, ...]
    reuses: bool
    top: float


@dataclass(frozen=True, kw_only=True)
class ExitMark:
    """Where some stages exit: below the last layer that must run before them."""

    stages: tuple[int, ...]
    place: str
    top: float


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where everything goes."""

    rows: tuple[Row, ...]
    marks: tuple[ExitMark, ...]
    pitch: float
    legend_lines: int
    height: float


def save_picture(network: MultiStageNetwork, path: Path, *, title: str) -> None:
    """Draw the network's division into `path`, an .svg or .png file, atomically."""
    suffix = path.suffix.lower()
    if suffix not in _CANVASES:
        raise S2dnasError(f"cannot draw {path}; expected a name that ends in {' or '.join(_CANVASES)}")
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        metadata = {"Date": None} if suffix == ".svg" else {}
        canvas = _CANVASES[suffix](draw(network, title=title))
        canvas.print_figure(buffer, format=suffix[1:], dpi=130, metadata=metadata)
    write_atomically(path, lambda stream: stream.write(buffer.getvalue()))


def draw(network: MultiStageNetwork, *, title: str) -> Figure:
    """The figure: title, MACs per stage, then layers and exits from top to bottom."""
    stages, static = stage_costs(network), static_costs(network)
    layout = lay_out(network.division)
    figure = Figure(figsize=(_WIDTH, layout.height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(layout.height, 0)
    axes.set_axis_off()
    _draw_title(axes, title, network.division)
    if network.division.plan.nested:
        _draw_nested_macs(axes, stages, static.macs)
    else:
        _draw_macs(axes, stages, static.macs)
    _draw_legend(axes, stages, static.macs, "width" if network.division.plan.nested else "stage")
    _draw_rows(axes, layout)
    _draw_marks(axes, layout, _chips(network.division, stages, static.macs))
    return figure


# --- layout --------------------------------------------------------------------------------------------


def lay_out(division: Division) -> Layout:
    """Rows for the layers that make channels or mix blocks of them, and marks between for the exits."""
    layers = [node for node in division.divisible.body if _is_row(node)]
    pitch = float(np.clip(13.0 / len(layers), 0.17, 0.30))
    legend_lines = -(-division.plan.stages // _PER_LEGEND_LINE)
    top = _TITLE + _BAR + 0.27 * legend_lines + 0.38
    below = _exits_below(division, layers)
    rows, marks = [], []
    for place, node in enumerate(layers):
        rows.append(_row(division, node, top))
        top += pitch
        for name, stages in below.get(place, {}).items():
            marks.append(ExitMark(stages=tuple(stages), place=name, top=top))
            top += _mark_height(len(stages))
    return Layout(
        rows=tuple(rows), marks=tuple(marks), pitch=pitch, legend_lines=legend_lines, height=top + 0.15
    )


def _is_row(node: Node) -> bool:
    return OPERATORS[node.operator].mixes or node.operator == "grouped_conv"


def _row(division: Division, node: Node, top: float) -> Row:
    levels = division.levels[node.name]
    counts = tuple(int((levels == stage).sum()) for stage in range(division.plan.stages))
    return Row(node=node, counts=counts, reuses=node.name not in division.plan.no_reuse, top=top)


def _exits_below(division: Division, layers: Sequence[Node]) -> dict[int, dict[str, list[int]]]:
    """The exits by the last layer that must run before them, and by the node that they read; and the gate."""
    below: dict[int, dict[str, list[int]]] = {}

    def there(name: str) -> list[int]:
        covered = division.divisible.space.covered_by(name)
        last = max((place for place, node in enumerate(layers) if node.name in covered), default=0)
        return below.setdefault(last, {}).setdefault(name, [])

    for stage, name in enumerate(division.plan.exits):
        there(name).append(stage)
    if division.plan.gate is not None:
        there(division.plan.gate)
    return below


def _mark_height(stages: int) -> float:
    lines = max(1, -(-stages // _PER_MARK_LINE))
    return 0.16 + lines * (_CHIP + 0.06)


# --- drawing -------------------------------------------------------------------------------------------


def _draw_title(axes: Axes, title: str, division: Division) -> None:
    stages = division.plan.stages
    who = f"{stages} stages" if stages > 1 else "one stage"
    colours = "which stage computes them."
    if division.plan.nested:
        who, colours = f"{stages} nested widths", "which width has them first; wider ones have them, too."
        who += "" if division.plan.gate is None else f", with a gate after {division.plan.gate}"
    axes.text(_MARGIN, 0.42, f"{title}: {who}", size=15, weight="bold", color=_INK, va="center")
    axes.text(
        _MARGIN,
        0.74,
        f"Each row is a layer, as wide as it has channels. Colours say {colours}",
        size=9.5,
        color=_FAINT,
        va="center",
    )


def _draw_macs(axes: Axes, stages: Sequence[StageCosts], static_macs: int) -> None:
    """A bar as long as the static network's MACs, with each stage's part, and what each part is."""
    scale = (_WIDTH - 2 * _MARGIN) / max(static_macs, sum(stage.macs for stage in stages))
    axes.add_patch(Rectangle((_MARGIN, _TITLE), static_macs * scale, _BAR, facecolor=_EMPTY, linewidth=0))
    left = _MARGIN
    for stage in stages:
        width = stage.macs * scale
        _draw_block(axes, stage.stage, (left, _TITLE), width, _BAR)
        if width > 0.55:
            share = _percent(stage.macs, static_macs)
            _write_inside(axes, stage.stage, (left + width / 2, _TITLE + _BAR / 2), share, size=10)
        left += width
    if (rest := _MARGIN + static_macs * scale - left) > 1.6:
        text = f"{_percent(int(rest / scale), static_macs)} no longer computed"
        axes.text(left + rest / 2, _TITLE + _BAR / 2, text, size=9, color=_FAINT, ha="center", va="center")


def _draw_nested_macs(axes: Axes, widths: Sequence[StageCosts], static_macs: int) -> None:
    """The same bar with what each width takes by itself: one over the other, the thinnest on top."""
    scale = (_WIDTH - 2 * _MARGIN) / static_macs
    thinner = [0, *(width.macs for width in widths[:-1])]
    for width, hidden in reversed(list(zip(widths, thinner, strict=True))):
        _draw_block(axes, width.stage, (_MARGIN, _TITLE), width.macs * scale, _BAR)
        if (width.macs - hidden) * scale > 0.55:
            middle = _MARGIN + (width.macs + hidden) / 2 * scale
            share = _percent(width.macs, static_macs)
            _write_inside(axes, width.stage, (middle, _TITLE + _BAR / 2), share, size=10)


def _draw_legend(axes: Axes, stages: Sequence[StageCosts], static_macs: int, part: str) -> None:
    column = (_WIDTH - 2 * _MARGIN) / min(len(stages), _PER_LEGEND_LINE)
    for stage in stages:
        line, place = divmod(stage.stage, _PER_LEGEND_LINE)
        x, y = _MARGIN + place * column, _TITLE + _BAR + 0.12 + 0.27 * line
        _draw_block(axes, stage.stage, (x, y), 0.18, 0.18)
        text = f"{part} {stage.stage}: {_percent(stage.macs, static_macs)} of the static MACs"
        axes.text(x + 0.26, y + 0.1, text, size=9, color=_INK, va="center")


def _draw_rows(axes: Axes, layout: Layout) -> None:
    scale = (_RIGHT - _LEFT) / max(sum(row.counts) for row in layout.rows)
    size = min(9.0, layout.pitch * 72 * 0.52)
    before = None
    for row in layout.rows:
        middle = row.top + layout.pitch / 2
        _draw_channels(axes, row, layout.pitch, scale, size)
        name = _shortened(row.node.name, size)
        axes.text(_LEFT - 0.1, middle, name, size=size, color=_INK, ha="right", va="center")
        space = row.node.shape[1:]
        if space != before:
            _draw_size(axes, row, space, first=before is None)
        before = space


def _draw_channels(axes: Axes, row: Row, pitch: float, scale: float, size: float) -> None:
    height, left = pitch * 0.82, _LEFT
    top = row.top + (pitch - height) / 2
    for stage, count in enumerate(row.counts):
        width = count * scale
        if count:
            _draw_block(axes, stage, (left, top), width, height)
        if width > _LETTER * size * (len(str(count)) + 1):
            _write_inside(axes, stage, (left + width / 2, top + height / 2), str(count), size=size * 0.9)
        left += width
    note = "" if row.reuses else "  no reuse"
    text = f"{sum(row.counts)}{note}"
    axes.text(left + 0.06, top + height / 2, text, size=size * 0.9, color=_FAINT, va="center")


def _draw_size(axes: Axes, row: Row, space: tuple[int, ...], *, first: bool) -> None:
    """The size of the feature maps, where it changes."""
    text = "×".join(str(length) for length in space) or "vector"
    if not first:
        axes.plot([_LEFT, _WIDTH - _MARGIN], [row.top, row.top], color="#BBBBBB", linewidth=0.6, zorder=0)
    axes.text(_WIDTH - _MARGIN, row.top + 0.05, text, size=8, color=_FAINT, ha="right", va="top")


def _chips(division: Division, stages: Sequence[StageCosts], static_macs: int) -> list[str]:
    """What is said of each exit: what it takes to come there."""
    if division.plan.nested:
        return [f"WIDTH {each.stage}   {_percent(each.macs, static_macs)} of MACs" for each in stages]
    so_far = np.cumsum([stage.macs for stage in stages])
    return [f"EXIT {k}   after {_percent(int(macs), static_macs)} of MACs" for k, macs in enumerate(so_far)]


def _draw_marks(axes: Axes, layout: Layout, chips: Sequence[str]) -> None:
    """Under the layers that an exit needs: a line, and a chip for each stage that ends here."""
    for mark in layout.marks:
        y = mark.top + 0.05
        colour = _COLOURS[mark.stages[0] % len(_COLOURS)] if len(mark.stages) == 1 else _INK
        axes.plot([_MARGIN, _WIDTH - _MARGIN], [y, y], color=colour, linewidth=1.6)
        name = OUTPUT if mark.place == OUTPUT else f"at {_shortened(mark.place, 9.5)}"
        if not mark.stages:
            axes.text(_LEFT, y + 0.22, _GATE, size=9, color=_INK, va="center", weight="bold")
        axes.text(
            _LEFT - 0.1, y + 0.22, name, size=8.5, color=_FAINT, ha="right", va="center", style="italic"
        )
        for place, stage in enumerate(mark.stages):
            line, column = divmod(place, _PER_MARK_LINE)
            left = _LEFT + column * (_WIDTH - _MARGIN - _LEFT) / _PER_MARK_LINE
            _draw_chip(axes, stage, left, y + 0.08 + line * (_CHIP + 0.06), chips[stage])


_GATE = "GATE   what is above is one for all widths; a sample goes on with one of them"


def _draw_chip(axes: Axes, stage: int, left: float, top: float, text: str) -> None:
    width = (_WIDTH - _MARGIN - _LEFT) / _PER_MARK_LINE - 0.12
    axes.add_patch(
        FancyBboxPatch(
            (left + 0.05, top + 0.05),
            width - 0.1,
            _CHIP - 0.1,
            boxstyle="round,pad=0.05,rounding_size=0.1",
            facecolor=_COLOURS[stage % len(_COLOURS)],
            linewidth=0,
        )
    )
    _write_inside(axes, stage, (left + width / 2, top + _CHIP / 2), text, size=9, weight="bold")


def _draw_block(axes: Axes, stage: int, corner: Point, width: float, height: float) -> None:
    """What a stage owns, in its colour."""
    axes.add_patch(
        Rectangle(
            corner,
            width,
            height,
            facecolor=_COLOURS[stage % len(_COLOURS)],
            hatch=_HATCHES[stage // len(_COLOURS)],
            edgecolor="white",
            linewidth=0.5 if width > 0.05 else 0,
        )
    )


def _write_inside(
    axes: Axes, stage: int, middle: Point, text: str, *, size: float, weight: str = "normal"
) -> None:
    ground = _COLOURS[stage % len(_COLOURS)]
    colour = "white" if ground in _DARK else _INK
    behind = {"facecolor": ground, "linewidth": 0, "pad": 0.8} if stage >= len(_COLOURS) else None
    axes.text(*middle, text, size=size, color=colour, ha="center", va="center", weight=weight, bbox=behind)


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole if whole else 0.0
    return f"{share:.0f}%" if share >= 9.5 else f"{share:.1f}%"


def _shortened(name: str, size: float) -> str:
    """A name too long for the left margin keeps its end, which tells layers apart."""
    limit = int((_LEFT - 0.1 - _MARGIN) / (_LETTER * size))
    return name if len(name) <= limit else f"…{name[1 - limit :]}"
