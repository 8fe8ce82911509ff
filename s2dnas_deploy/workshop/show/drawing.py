"""Figures of matplotlib as files: the same figure, the same bytes, whenever it is drawn."""

from pathlib import Path
from typing import TYPE_CHECKING

from s2dnas_deploy.files.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_drawing(figure: "Figure", path: Path) -> None:
    """Write it as SVG, without the date and the random names that would be in it."""
    import matplotlib  # here, for whoever draws has waited for it already

    with matplotlib.rc_context({"svg.hashsalt": "s2dnas"}):
        write_atomically(path, lambda stream: figure.savefig(stream, format="svg", metadata={"Date": None}))
