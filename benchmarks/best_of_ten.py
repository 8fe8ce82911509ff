"""Is the plan that `--plan auto` chooses as good as the best of ten? All of them are trained in full.

    python benchmarks/best_of_ten.py --tiny DIR --cifar DIR --work DIR --record

Four networks of `newcomers_networks.py`, each divided by ten plans of the kinds that one would write down by
hand, and by auto. All are trained by README's command. Then their stages are timed side by side on this
machine's clock, and for each the cheapest thresholds are looked up with which the test images are answered
as well as by the static network, or a point below: the best that the plan can do, and what no one could have
chosen beforehand. What is in `--work` is not done again.
"""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from given import give
from machine import machine
from newcomers import commands
from newcomers_static import NEWCOMERS, Newcomer, bring, normalized, read
from pages import check_place, put_record
from torch import Tensor

from s2dnas_deploy.cli.console import Console
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.decide.thresholds import Against, changes, losses_of, mean_cost, path_of
from s2dnas_deploy.runtime.probing import measure_profile
from s2dnas_deploy.workshop.forecast.candidates import candidates
from s2dnas_deploy.workshop.network.model_file import load_model
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, as_network
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.pricing.machine_clock import MachineClock
from s2dnas_deploy.workshop.pricing.probes import Probed
from s2dnas_deploy.workshop.reading.static_source import StaticSource, read_source

NETWORKS = ("alexnet", "squeezenet", "shufflenet", "plain_vgg")
PLANS = 10
DROPS = (0.0, 0.01)
"""How far below the static network's the accuracy on the test images may be."""
OFFSETS = tuple(i / 2 for i in range(-4, 13))
"""Of a second exit's thresholds to the first one's, on the scale of log odds."""


@click.command()
@click.option("--tiny", type=click.Path(exists=True, path_type=Path), required=True, help="Tiny ImageNet.")
@click.option("--cifar", type=click.Path(exists=True, path_type=Path), required=True, help="CIFAR-10.")
@click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="Where each network has a folder."
)
@click.option("--only", multiple=True, type=click.Choice(NETWORKS))
@click.option("--record", is_flag=True, help="Also write the record and the table in README.md.")
def main(tiny: Path, cifar: Path, work: Path, *, only: tuple[str, ...], record: bool) -> None:
    """Print how fast each plan of each network can be."""
    if record:
        if only:
            raise click.UsageError("--record is of all networks")
        check_place("best_of_ten")
    sources = {"tiny": tiny, "cifar": cifar}
    rows = []
    for newcomer in NEWCOMERS:
        if newcomer.name in (only or NETWORKS):
            rows.append(_row(newcomer, sources[newcomer.source], work.resolve() / newcomer.name))
            click.echo(table(rows))
    if record:
        put_record("best_of_ten", {"machine": machine(), "rows": rows}, table(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The record as a Markdown table: each network's auto beside the best of its ten."""
    lines = [
        "| network | as accurate: auto | best of ten | a point below: auto | best of ten |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = []
        for drop in map(str, DROPS):
            cells += [_times(row["auto"]["times_as_fast"][drop]), _times(_best(row["plans"], drop))]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _best(plans: Sequence[dict[str, Any]], drop: str) -> float | None:
    reached = [each["times_as_fast"][drop] for each in plans]
    return max((each for each in reached if each is not None), default=None)


def _times(faster: float | None) -> str:
    return "not reached" if faster is None else f"{faster:.2f}"


def _row(newcomer: Newcomer, source: Path, folder: Path) -> dict[str, Any]:
    bring(newcomer, source, folder)
    static, plans = _static(newcomer, folder / "static.pth"), {}
    every = candidates(static)
    for place in np.linspace(0, len(every) - 1, min(PLANS, len(every))):
        name = f"plan-{int(place)}"
        (folder / f"{name}.json").write_text(every[int(place)].to_json())
        plans[name] = ["--plan", f"{name}.json", "--cost", "macs"]
    plans["auto"] = []
    for name, options in plans.items():
        _train(newcomer, folder, name, options)
    networks = {name: load_model(folder / f"{name}.pt").network.eval() for name in plans}
    with Console(quiet=False) as console:
        clock = MachineClock(
            probed=Probed.made_up(static), folder=folder, timer=measure_profile, reporter=console
        )
        times = clock.times([each.division.plan for each in networks.values()], "device.json", called="plans")
    x, truth = read(folder / "images" / "test")
    accuracy = float((_said(as_network(static).eval(), x)[-1].argmax(1) == truth).float().mean())
    rows = {}
    for name, network in networks.items():
        timed = times[network.division.plan.digest]
        cost = [after / timed.reference_ms for after in accumulate(timed.stage_ms)]
        rows[name] = {
            "name": name,
            "exits": network.division.plan.exits,
            "cost": cost,
            **_best_of(network, x, truth, cost, accuracy),
        }
    auto = rows.pop("auto")
    return {
        "name": newcomer.name,
        "tested": len(truth),
        "static": accuracy,
        "auto": auto,
        "plans": [*rows.values()],
    }


def _static(newcomer: Newcomer, weights: Path) -> StaticNetwork:
    source = StaticSource(
        model=newcomer.model,
        model_arguments={},
        input_shape=(3, newcomer.size, newcomer.size),
        weights=weights,
    )
    return read_source(source)[0]


def _train(newcomer: Newcomer, folder: Path, name: str, options: Sequence[str]) -> None:
    """README's command, with a plan or without; not again if it has ended."""
    if (folder / f"{name}.pt").exists():
        return
    click.echo(f"{newcomer.name}: {name}", err=True)
    train, *_ = commands(newcomer, [*options, "--out", f"{name}.pt"])  # the later --out counts
    give(train, folder)


@torch.no_grad()
def _said(network: MultiStageNetwork, x: Tensor) -> Tensor:
    """Logits of every exit, [K, N, classes]."""
    return torch.cat([torch.stack(network(normalized(part))) for part in torch.split(x, 128)], 1)


def _best_of(
    network: MultiStageNetwork, x: Tensor, truth: Tensor, cost: Sequence[float], accuracy: float
) -> dict[str, Any]:
    """The exits' accuracies, and how many times as fast the images are answered at best, by drop."""
    said = _said(network, x).softmax(2).max(2)
    scores = ExitScores(
        label=said.indices.numpy(), confidence=said.values.numpy(), truth=truth.numpy().astype(np.int64)
    )
    losses, images = losses_of(scores, Against.ACCURACY), np.arange(len(scores))
    fastest: dict[str, float | None] = {str(drop): None for drop in DROPS}
    for offset in OFFSETS if scores.exits > 2 else (0.0,):
        path = path_of(offset, scores.exits)
        worse, _ = changes(scores, losses, path, images)
        spent = mean_cost(scores, path, images, cost)
        for drop in DROPS:
            within = spent[worse / len(images) <= 1 - accuracy + drop + 1e-9]
            if len(within):
                fastest[str(drop)] = max(1 / float(within.min()), fastest[str(drop)] or 0.0)
    return {"accuracies": (1 - losses.mean(1)).tolist(), "times_as_fast": fastest}


if __name__ == "__main__":
    main()
