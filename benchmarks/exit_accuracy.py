"""How accurate do the exits get, for how much training? On CIFAR-10, with the 32/64/128/256 ResNet.

    python benchmarks/exit_accuracy.py --data DIR --work DIR

Trains the static network once and every variant below from its weights, by `s2dnas-train`; so a run that
is stopped goes on where it was, and one that is done is not repeated. Writes `results/exit_accuracy.json`
and the table in this folder's README and on the site.
"""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import click
from machine import machine
from pages import put_table

from s2dnas_deploy.workshop.network.costs import stage_costs
from s2dnas_deploy.workshop.network.model_file import Model, load_model

HERE = Path(__file__).parent
RECIPE = HERE.parent / "models" / "wide_resnet.toml"
RESULT = HERE / "results" / "exit_accuracy.json"

STATIC = ["--plan", "static", "--static-epochs", "0", "--epochs", "14", "--self-distill", "0"]
STATIC_MACS = 139_299_328  # of the recipe's network, for one 3x32x32 image
UNIFORM = ["--plan", "uniform:0.25,0.25,0.5"]
VARIANTS = {
    "three stages, 10 epochs": [*UNIFORM, "--epochs", "10"],
    "three stages, 24 epochs, exit 0 weighing 1.5": [*UNIFORM, "--epochs", "24", "--exit-weights", "1.5,1,1"],
}


@click.command()
@click.option("--data", required=True, help="CIFAR-10: a folder of classes or the python version.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Where the models are kept.")
def main(data: str, work: Path) -> None:
    """Train what is not trained yet, and record how good all of it is."""
    static = work / "static.pt"
    _train([*STATIC, "--data", data, "--out", str(static)])
    rows = [_row("static, 14 epochs", STATIC, load_model(static))]
    for i, (name, options) in enumerate(VARIANTS.items()):
        out = work / f"variant_{i}.pt"
        _train([*options, "--weights", str(static), "--data", data, "--out", str(out)])
        rows.append(_row(name, options, load_model(out)))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(
        json.dumps({"date": str(date.today()), "machine": machine(), "rows": rows}, indent=2) + "\n"
    )
    put_table("exit_accuracy", table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """The record as a Markdown table: test accuracy and share of the static MACs, for each exit."""
    lines = ["| training | exit 0 | exit 1 | last exit |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        cells = [
            f"{100 * accuracy:.2f}% at {100 * share:.0f}% MACs"
            for accuracy, share in zip(row["test_accuracy"], row["macs_share"], strict=True)
        ]
        lines.append(f"| {row['name']} | {' | '.join(['–'] * (3 - len(cells)) + cells)} |")
    return "\n".join(lines) + "\n"


def _row(name: str, options: list[str], model: Model) -> dict[str, Any]:
    costs = [stage.macs for stage in stage_costs(model.network)]
    about = model.provenance
    return {
        "name": name,
        "options": options,
        "settings": about["settings"],
        "val_accuracy": about["val_accuracy"],
        "test_accuracy": about["test_accuracy"],
        "macs_share": [sum(costs[: k + 1]) / STATIC_MACS for k in range(len(costs))],
    }


def _train(options: list[str]) -> None:
    code = "from s2dnas_deploy.cli import train; train()"
    subprocess.run([sys.executable, "-c", code, "--recipe", str(RECIPE), *options], check=True)


if __name__ == "__main__":
    main()
