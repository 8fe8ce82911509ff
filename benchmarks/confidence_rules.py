r"""Which confidence lets images exit soonest? And how should thresholds of several exits go together.

    python benchmarks/confidence_rules.py NAME=MODEL.pt… --data DIR --record

What each exit of a chain, or of nested widths that are tried in turn, says of the test images is taken as all
there is. Calibration images are drawn from it, and thresholds are proven on them as `s2dnas-calibrate` does,
along paths of several offsets between the exits' log odds. In MACs, over those of all stages.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from itertools import accumulate
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from machine import machine
from pages import check_place, put_record
from sessions import splits_of

from s2dnas_deploy.bundle.exits import RULES, ConfidenceRule
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.decide.thresholds import Against, Goal, changes, losses_of, mean_cost, path_of
from s2dnas_deploy.workshop.network.costs import stage_costs
from s2dnas_deploy.workshop.network.model_file import load_model
from s2dnas_deploy.workshop.search.judging.exit_scores import logits_of, scores_from
from s2dnas_deploy.workshop.training.devices import autocast_for

OFFSETS = (0.0, 0.75, 1.5, 2.25, 3.0)
GOAL, IMAGES = Goal(drop=0.005), 5000


@click.command()
@click.argument("named", metavar="NAME=MODEL.pt...", nargs=-1, required=True)
@click.option("--data", required=True)
@click.option("--draws", default=100, show_default=True)
@click.option("--record", is_flag=True, help="Also write the record and its table.")
def main(named: Sequence[str], data: str, *, draws: int, record: bool) -> None:
    """Print what a proof costs by each rule and offset."""
    if record:
        check_place("confidence_rules")
    rows: list[dict[str, Any]] = []
    for name, _, path in (each.rpartition("=") for each in named):
        scores, cost = _by_rule(Path(path), data)
        for rule, everyone in scores.items():
            rows.append({"network": name, "rule": rule, "costs": _costs(everyone, cost, draws)})
            click.echo(table(rows[-1:]))
    if record:
        about = {"date": str(date.today()), "machine": machine(), "draws": draws}
        put_record("confidence_rules", {**about, "rows": rows}, table(rows))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The record as a Markdown table; the least of each network is in bold."""
    lines = [
        "| network | confidence | " + " | ".join(f"offset {offset:g}" for offset in OFFSETS) + " |",
        "| --- | --- |" + " ---: |" * len(OFFSETS),
    ]
    for row in rows:
        least = min(min(each["costs"]) for each in rows if each["network"] == row["network"])
        cells = [f"**{cost:.3f}**" if cost == least else f"{cost:.3f}" for cost in row["costs"]]
        lines.append(f"| {row['network']} | {row['rule']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _by_rule(path: Path, data: str) -> tuple[dict[ConfidenceRule, ExitScores], list[float]]:
    """What the model's exits say of the test images, by each rule; and MACs up to each exit."""
    model = load_model(path)
    test = splits_of(model, data).test
    assert test is not None, "the data has no test images"
    cpu = torch.device("cpu")
    logits = logits_of(model.network, test, model.preprocessing, cpu, autocast_for("float32", cpu))
    found = {rule: scores_from(logits, test.labels, rule) for rule in RULES}
    return found, list(accumulate(float(stage.macs) for stage in stage_costs(model.network)))


def _costs(everyone: ExitScores, cost: Sequence[float], draws: int) -> list[float]:
    """The mean cost of proven thresholds, over that of all stages, by offset."""
    losses, every = losses_of(everyone, Against.LAST_EXIT), np.arange(len(everyone))
    test, means = GOAL.test(IMAGES), []
    for offset in OFFSETS:
        path, reached = path_of(offset, everyone.exits), []
        spent = mean_cost(everyone, path, every, cost)
        for draw in range(draws):
            rows = np.random.default_rng(draw).integers(0, len(everyone), IMAGES)
            proven = test.proves(*changes(everyone, losses, path, rows))
            step = int(np.logical_and.accumulate(proven).sum()) - 1
            reached.append(spent[max(step, 0)])
        means.append(float(np.mean(reached)) / cost[-1])
    return means


if __name__ == "__main__":
    main()
