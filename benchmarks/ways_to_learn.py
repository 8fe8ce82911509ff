"""What do the optimizer and the crops bring? Exits of a narrow ResNet after a short training, three seeds.

    python benchmarks/ways_to_learn.py --data DIR --work DIR --record

CIFAR-10 at half its size, 10,000 images to train on. A static network is trained by plain gradients; from its
weights, three stages are trained in each of the ways, for each seed. The last way also has a static network
that was trained so. What is in `--work` is not trained again.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import click
from machine import machine
from pages import check_place, put_record

from s2dnas_deploy.workshop.network.model_file import load_model

HERE = Path(__file__).parent
NETWORK = (
    *("--model", str(HERE.parent / "models" / "cifar_resnet.py:wide_resnet"), "--input", "3x16x16"),
    *("--model-args", '{"widths": [16, 32, 64, 128], "blocks": 2, "num_classes": 10, "shortcut": "B"}'),
    *("--resize", "stretch", "--normalize", "cifar10", "--limit", "10000", "--cost", "macs"),
)
BY_GRADIENTS = ("--optimizer", "sgd")
CROPPED = ("--augment", "crop-flip")
STATIC = ("--plan", "static", "--epochs", "14")
STATICS = {"plain": (*BY_GRADIENTS, *CROPPED), "default": ()}
WAYS = {
    "plain gradients, rate 0.05, cropped and flipped": ("plain", *BY_GRADIENTS, "--lr", "0.05", *CROPPED),
    "plain gradients, flipped": ("plain", *BY_GRADIENTS),
    "Muon, cropped and flipped": ("plain", *CROPPED),
    "Muon, flipped (the default)": ("plain",),
    "the default, and the static network trained so, too": ("default",),
}
"""Which static network each begins with, and how it is trained."""
SEEDS, EPOCHS = (0, 1, 2), 6


@click.command()
@click.option("--data", required=True, help="CIFAR-10: a folder of classes or the python version.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Where the models are kept.")
@click.option("--record", is_flag=True, help="Also write the record and the table in README.md.")
def main(data: str, work: Path, *, record: bool) -> None:
    """Print how good each exit is on the test images."""
    if record:
        check_place("ways_to_learn")
    content: dict[str, Any] = {"machine": machine(), "epochs": EPOCHS, "rows": []}
    for number, (way, (begun, *options)) in enumerate(WAYS.items()):
        static = work / f"{begun}.pt"
        row = {"way": way, "static": _trained(data, static, *STATIC, *STATICS[begun])[0]}
        row["exits"] = [
            _trained(
                *(data, work / f"{number}-{seed}.pt", "--weights", str(static), "--seed", str(seed)),
                *("--plan", "uniform:0.25,0.25,0.5", "--epochs", str(EPOCHS), *options),
            )
            for seed in SEEDS
        ]
        content["rows"].append(row)
    click.echo(table(content))
    if record:
        put_record("ways_to_learn", content, table(content))


def _trained(data: str, out: Path, *options: str) -> list[float]:
    """The accuracy of each exit on the test images; nothing is trained that is there."""
    command = [sys.executable, "-m", "s2dnas_deploy.cli", "train", *NETWORK]
    subprocess.run([*command, "--data", data, "--out", str(out), *options], check=True)
    return list(load_model(out).provenance["test_accuracy"])


def table(record: dict[str, Any]) -> str:
    """The record as a Markdown table: mean over the seeds, and their standard deviation."""
    lines = ["| training | static | exit 0 | exit 1 | last exit |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in record["rows"]:
        cells = [_cell(exits) for exits in zip(*row["exits"], strict=True)]
        lines.append(f"| {row['way']} | {100 * row['static']:.1f}% | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(shares: Sequence[float]) -> str:
    return f"{100 * fmean(shares):.1f}% ± {100 * stdev(shares):.1f}"


if __name__ == "__main__":
    main()
