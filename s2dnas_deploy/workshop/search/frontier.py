"""A picture of a search: what every plan that was tried costs, and how often it is right.

Place in the flow: `Trial`s ──▶ frontier.svg. A plan is a point at the cost and accuracy of its dynamic
network within the budget, or at the means of its widths; the winner also shows its exits or widths, which are
what lies between cheap and good. The static network and the uniform plans show what there was without a
search. Finalists are where they are after their short training, and so is the winner if it is one of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s2dnas_deploy.quoting import number_of
from s2dnas_deploy.workshop.search.trials import Trial
from s2dnas_deploy.workshop.show.drawing import save_drawing


def plot_frontier(
    trials: Sequence[Trial],
    *,
    finalists: Sequence[Trial],
    winner: Trial,
    uniform: Sequence[Trial],
    static_accuracy: float,
    target: float,
    path: Path,
) -> None:
    """Draw accuracy against cost relative to the static network."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()

    def draw(of: Sequence[Trial], **style: Any) -> None:
        costs, accuracies = [trial.worth.cost for trial in of], [100 * trial.worth.accuracy for trial in of]
        axes.scatter(costs, accuracies, **style)

    draw(trials, s=12, alpha=0.5, label=f"{number_of(len(trials), 'plan')} tried")
    axes.plot(
        winner.worth.exit_cost,
        [100 * accuracy for accuracy in winner.worth.exit_accuracy],
        marker="s",
        color="tab:green",
        label="the winner's exits, all images leaving there"
        if winner.plan.exits_early
        else "the winner's widths",
    )
    draw(uniform, marker="D", s=40, color="tab:purple", zorder=2, label="uniform plans")
    if finalists:
        draw(
            finalists, marker="^", s=40, color="tab:orange", zorder=2, label="finalists, trained for a while"
        )
    draw([winner], marker="*", s=160, color="tab:red", zorder=3, label="the winner")
    axes.scatter([1.0], [100 * static_accuracy], marker="o", s=60, color="black", label="static network")
    if winner.plan.exits_early:  # of widths that the caller picks, each has a target of its own
        axes.axvline(target, color="grey", linestyle=":", label="target")
    axes.set_xlabel("average cost of an image, relative to the static network")
    axes.set_ylabel("accuracy, %, as judged in the search")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    save_drawing(figure, path)
