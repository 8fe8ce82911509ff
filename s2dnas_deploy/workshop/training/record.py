"""What a training run leaves to look at: a line of JSON per epoch, and a plot of accuracy per exit."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s2dnas_deploy.files.atomic import write_text_atomically
from s2dnas_deploy.workshop.show.drawing import save_drawing


def write_metrics(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Replace the log by one JSON object a line, an epoch each."""
    write_text_atomically(path, "".join(json.dumps(dict(row)) + "\n" for row in metrics))


def plot_accuracy(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw validation accuracy against epochs, one line per exit."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    epochs = [row["epoch"] for row in metrics]
    for stage in range(len(metrics[0]["val_accuracy"])):
        axes.plot(
            epochs, [100 * row["val_accuracy"][stage] for row in metrics], label=f"exit {stage}", marker="."
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation accuracy, %")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    save_drawing(figure, path)
