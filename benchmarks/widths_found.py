r"""What are ranked channels and a search worth to nested widths? At equal MACs, over three seeds.

    python benchmarks/widths_found.py --data DIR --work DIR --record

The ResNet of 16 to 128 channels on CIFAR-10 at 16x16 pixels, so that it takes an hour or so on one core. From
one static network come three widths: *plain*, a quarter and a half of every group, the first channels as they
are; *ranked*, the same with the channels first that the loss depends on most; and *searched*, as many MACs,
shared out among the groups as `s2dnas-search --plan-kind widths` finds best. All are trained for equally many
epochs. Test images are looked at once, at the end. A run that is stopped goes on where it was.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

import click
from given import run_once
from machine import machine
from pages import check_place, put_record

from s2dnas_deploy.workshop.network.costs import stage_costs, static_costs
from s2dnas_deploy.workshop.network.model_file import Model, load_model

MODEL = Path(__file__).parent.parent / "models" / "cifar_resnet.py"
ARGUMENTS = {"widths": [16, 32, 64, 128], "blocks": 2, "num_classes": 10, "shortcut": "B"}
SHARES = "0.25,0.5,1"
TARGET = 0.065  # of the thinnest: about what a quarter of every group costs; the others follow from it
KINDS = ("plain", "ranked", "searched")


@click.command()
@click.option("--data", required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Where models are kept.")
@click.option("--limit", default=10_000, show_default=True, help="Images to train on.")
@click.option("--static-epochs", default=14, show_default=True)
@click.option("--epochs", default=6, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--record", is_flag=True, help="Also write the record and its table.")
def main(
    data: str, work: Path, *, limit: int, static_epochs: int, epochs: int, seeds: int, record: bool
) -> None:
    """Print how good each width becomes, by how it was found."""
    if record:
        check_place("widths_found")
    work.mkdir(parents=True, exist_ok=True)
    images = ["--input", "3x16x16", "--resize", "stretch", "--data", str(Path(data).resolve())]
    images += ["--limit", str(limit), "--val-fraction", "0.1", "--normalize", "cifar10"]
    network = ["--model", f"{MODEL}:wide_resnet", "--model-args", json.dumps(ARGUMENTS), *images]
    static = ["--plan", "static", "--epochs", str(static_epochs), "--lr", "0.1", "--out", "static.pt"]
    commands = [["s2dnas-train", *network, *static]]
    for seed in range(seeds):
        begun = [*network, "--weights", "static.pt", "--seed", str(seed), "--lr", "0.05"]
        commands += _of_a_seed([*begun, "--epochs", str(epochs)], seed)
    run_once(commands, work)
    models = {kind: [load_model(work / f"{kind}{seed}.pt") for seed in range(seeds)] for kind in KINDS}
    rows = [_row(kind, found) for kind, found in models.items()]
    (right,) = load_model(work / "static.pt").provenance["test_accuracy"]
    click.echo(table(rows))
    if record:
        about = {"images": limit, "static_epochs": static_epochs, "epochs": epochs, "static": right}
        put_record(
            "widths_found",
            {"date": str(date.today()), "machine": machine(), **about, "rows": rows},
            table(rows),
        )


def _of_a_seed(begun: Sequence[str], seed: int) -> list[list[str]]:
    widths = ["s2dnas-train", *begun, "--plan", f"widths:{SHARES}"]
    search = ["--plan-kind", "widths", "--stages", "3", "--align", "4", "--target", str(TARGET)]
    search += ["--cost", "macs", "--evaluations", "60", "--finalists", "0"]
    return [
        [*widths, "--start", "copied", "--out", f"plain{seed}.pt"],
        [*widths, "--out", f"ranked{seed}.pt"],
        ["s2dnas-search", *begun, *search, "--out", f"searched{seed}.pt"],
    ]


def _row(kind: str, models: Sequence[Model]) -> dict[str, Any]:
    """What the models of all seeds come to, thinnest first."""
    accuracies = [model.provenance["test_accuracy"] for model in models]
    costs = [
        [stage.macs / static_costs(model.network).macs for stage in stage_costs(model.network)]
        for model in models
    ]
    return {
        "kind": kind,
        "macs": [fmean(each) for each in zip(*costs, strict=True)],
        "accuracy": [fmean(each) for each in zip(*accuracies, strict=True)],
        "by_seed": [fmean(each) for each in accuracies],
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The record as a Markdown table: each width's accuracy at its MACs, and the mean, also seed by seed."""
    lines = [
        "| widths | thinnest | next | widest | mean over the widths | seed by seed |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        cells = [
            f"{100 * right:.1f}% at {100 * macs:.1f}% of the MACs"
            for right, macs in zip(row["accuracy"], row["macs"], strict=True)
        ]
        seeds = " / ".join(f"{100 * each:.2f}" for each in row["by_seed"])
        lines.append(
            f"| {row['kind']} | {' | '.join(cells)} | {100 * fmean(row['by_seed']):.2f}% | {seeds} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
