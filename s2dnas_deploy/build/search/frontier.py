"""A picture of a search: what every plan that was tried costs, and how often it is right.

Place in the flow: `Trial`s ──▶ frontier.svg. A plan is a point at the cost and accuracy of its dynamic
network within the budget; the winner also shows its exits, which are what lies between cheap and good.
"""

from collections.abc import Sequence
from pathlib import Path

from s2dnas_deploy.build.search.trials import Trial
from s2dnas_deploy.bundle.files import write_atomically


def plot_frontier(trials: Sequence[Trial], winner: Trial, target: float, path: Path) -> None:
    """Draw accuracy against cost relative to the static network."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.scatter(
        [trial.worth.cost for trial in trials],
        [100 * trial.worth.accuracy for trial in trials],
        s=12,
        alpha=0.5,
        label=f"{len(trials)} plans tried",
    )
    worth = winner.worth
    axes.plot(
        worth.exit_cost,
        [100 * accuracy for accuracy in worth.exit_accuracy],
        marker="s",
        color="tab:green",
        label="the winner's exits, all images leaving there",
    )
    axes.scatter(
        [worth.cost], [100 * worth.accuracy], marker="*", s=160, color="tab:red", zorder=3, label="the winner"
    )
    axes.axvline(target, color="grey", linestyle=":", label="target")
    axes.set_xlabel("average cost of an image, relative to the static network")
    axes.set_ylabel("accuracy on shared weights, %")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    write_atomically(path, lambda stream: figure.savefig(stream, format="svg"))
