"""What does it save to begin with what the static network knows? Three starts, trained for a few epochs.

    python benchmarks/starts.py --data DIR --work DIR --record

DIR/train has a folder a class, with 64x64 images (Tiny ImageNet). Five classes are taken, 250 images each to
train on and to hold out from, the others to test on. `models/gated_cnn.toml` trains the static network; from
its weights the recipe's plan is trained by each `--start`, for each number of epochs. What is in `--work` is
not trained again.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from machine import machine
from pages import put_record

from s2dnas_deploy.workshop.network.model_file import load_model

HERE = Path(__file__).parent
RECIPE = HERE.parent / "models" / "gated_cnn.toml"
STARTS, EPOCHS = ("copied", "ranked", "fitted"), (0, 3, 10)
CLASSES, TRAINED_ON = 5, 250
TRAIN = [sys.executable, "-m", "s2dnas_deploy.cli", "train", "--recipe", str(RECIPE)]


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Where models are kept.")
@click.option("--record", is_flag=True, help="Also write the record and the table in README.md.")
def main(data: Path, work: Path, *, record: bool) -> None:
    """Print how good each exit is on the test images."""
    images = work / "images"
    _choose(data / "train", images)
    static = work / "static.pt"
    _train(images, static, "--plan", "static", "--epochs", "0")  # after the static epochs of the recipe
    row: dict[str, Any] = {"static": _accuracy(static)[0], "starts": []}
    for epochs in EPOCHS:
        for start in STARTS:
            out = work / f"{start}-{epochs}.pt"
            _train(images, out, "--weights", str(static), "--start", start, "--epochs", str(epochs))
            row["starts"].append({"start": start, "epochs": epochs, "exits": _accuracy(out)})
    row["images"] = len(list((images / "test").glob("*/*")))
    click.echo(table(row))
    if record:
        put_record("starts", {"machine": machine(), **row}, table(row))


def table(row: dict[str, Any]) -> str:
    """The record as a Markdown table."""
    exits = len(row["starts"][0]["exits"])
    heads = " | ".join(f"exit {k}" for k in range(exits))
    lines = [f"| epochs | start | {heads} |", f"| ---: | --- |{' ---: |' * exits}"]
    for each in row["starts"]:
        shares = " | ".join(f"{100 * share:.1f}%" for share in each["exits"])
        lines.append(f"| {each['epochs']} | {each['start']} | {shares} |")
    lines.append(f"| | static network | {'| ' * (exits - 1)}{100 * row['static']:.1f}% |")
    return "\n".join(lines) + "\n"


def _choose(source: Path, images: Path) -> None:
    """Links to the images of a few classes, far apart in the list of all."""
    classes = sorted(path.name for path in source.iterdir() if path.is_dir())
    for name in classes[:: -(-len(classes) // CLASSES)]:
        files = sorted((source / name).iterdir())
        for part, chosen in (("train", files[:TRAINED_ON]), ("test", files[TRAINED_ON:])):
            folder = images / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for file in chosen:
                if not (folder / file.name).exists():
                    os.symlink(file.resolve(), folder / file.name)


def _train(images: Path, out: Path, *options: str) -> None:
    subprocess.run([*TRAIN, "--data", str(images), "--out", str(out), *options], check=True)


def _accuracy(model: Path) -> list[float]:
    return list(load_model(model).provenance["test_accuracy"])


if __name__ == "__main__":
    main()
