"""What gates before residual blocks spare, in MACs and on a clock, and what they cost in accuracy.

    python benchmarks/gated_blocks.py --data DIR --work DIR --record

The ResNet of 32 to 256 channels is trained on a part of the images. Gates before its blocks and their
channels then learn to shut until an image takes a share of the MACs, with the static network as their
teacher; from what is left, whole paths are made, of which one gate picks. Both are exported and answer the
test images on one CPU thread beside the static network, one at a time and in batches, in alternating blocks
of one run: the gates as they are, with an `If` around each block, and the paths with the gate's balance at
either end and where it was trained to be. A run that is stopped goes on where it was.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from given import run_once
from machine import machine
from pages import check_place, put_record
from sessions import pixels, splits_of
from systems import STATIC, Subject, batches_of, export_command, measured

from s2dnas_deploy.cli.console import Console
from s2dnas_deploy.decide.rules import only
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.workshop.export.samples import Pixels
from s2dnas_deploy.workshop.network.model_file import load_model

MODEL = Path(__file__).parent.parent / "models" / "cifar_resnet.py"
WIDTHS = '{"widths":[32,64,128,256],"blocks":2,"num_classes":10,"shortcut":"B"}'
BUNDLES = ("static", "blocks", "paths")
BLOCKS, PATHS = "blocks left out", "paths by a gate"


@click.command()
@click.option("--data", required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Where models are kept.")
@click.option("--limit", default=15_000, show_default=True, help="At most so many images of each part.")
@click.option("--share", default=0.48, show_default=True, help="Of the MACs that an image may take.")
@click.option("--static-epochs", default=10, show_default=True)
@click.option("--epochs", default=14, show_default=True, help="In which gates learn.")
@click.option("--paths-epochs", default=4, show_default=True, help="In which paths learn, after that.")
@click.option("--timed", default=5000, show_default=True, help="So many test images.")
@click.option("--record", is_flag=True, help="Also write the record and its table.")
def main(
    data: str,
    work: Path,
    *,
    limit: int,
    share: float,
    static_epochs: int,
    epochs: int,
    paths_epochs: int,
    timed: int,
    record: bool,
) -> None:
    """Print what gates before blocks come to."""
    if record:
        check_place("gated_blocks")
    work, data = work.resolve(), str(Path(data).resolve())
    work.mkdir(parents=True, exist_ok=True)
    images = ["--data", data, "--limit", str(limit), "--val-fraction", "0.02", "--normalize", "cifar10"]
    network = ["--model", f"{MODEL}:wide_resnet", "--model-args", WIDTHS, "--input", "3x32x32"]
    begun, rate = ["--weights", "static.pt"], ["--lr", "0.1"]
    commands = [
        [*network, "--plan", "static", "--epochs", str(static_epochs), *rate, "--out", "static.pt"],
        [
            *network,
            *begun,
            "--plan",
            f"blocks:{share:g}",
            "--epochs",
            str(epochs),
            *rate,
            "--out",
            "blocks.pt",
        ],
        ["--weights", "blocks.pt", "--plan", "paths:2", "--epochs", str(paths_epochs), "--out", "paths.pt"],
    ]
    trained = [["s2dnas-train", *words, *images] for words in commands]
    run_once([*trained, *(export_command(name, name, data) for name in BUNDLES)], work)
    static = load_model(work / "static.pt")
    splits = splits_of(static, data)
    assert splits.test is not None, "the data has no test images"
    torch.set_num_threads(1)  # from here on, time is taken
    chosen = splits.test.evenly(timed)
    subjects, shown = list(_subjects(work / "bundles")), pixels(chosen)
    with Console() as console:
        rows = measured(subjects, shown, chosen.labels.numpy(), console)
    whole = subjects[0].cascade.manifest.macs[0]
    rows = [{**row, "macs": _macs(each, shown) / whole} for each, row in zip(subjects, rows, strict=True)]
    content = {"date": str(date.today()), "machine": machine(), "images": len(splits.train)}
    content |= {"share": share, "static_epochs": static_epochs, "epochs": epochs}
    content |= {"paths_epochs": paths_epochs, "timed": timed, "rows": rows}
    click.echo(table(rows))
    if record:
        put_record("gated_blocks", content, table(rows))


def _subjects(folder: Path) -> Iterator[Subject]:
    """The static network, the gates as they are, and their paths at three places of the gate's balance."""
    static, blocks, paths = (Cascade.load(folder / name, provider="cpu", threads=1) for name in BUNDLES)
    yield Subject(system=STATIC, setting="float32", cascade=static)
    yield Subject(system=BLOCKS, setting="exact, an `If` for each block", cascade=blocks)
    ways = len(paths.flow.stops) - 1
    for setting, offsets in (
        ("all images the first", only(0, ways)),
        ("as the gate was trained", (0.0,) * ways),
        ("all images the whole", only(ways - 1, ways)),
    ):
        yield Subject(system=PATHS, setting=setting, cascade=paths, options={"offsets": offsets})


def _macs(subject: Subject, images: Pixels) -> float:
    """MACs of an image, on average."""
    manifest = subject.cascade.manifest
    if subject.system == BLOCKS:
        assert manifest.expected is not None
        return float(manifest.expected.mean_macs)
    ways = [subject.cascade.predict(part, **subject.options).way for part in batches_of(images)]
    return float(np.concatenate(ways).mean(0) @ np.array(manifest.macs))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The record as a Markdown table."""
    static = rows[0]["accuracy"]
    lines = [
        "| system | setting | MACs | accuracy | below static | mean ms | times as fast | in batches |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {row['system']} | {row['setting']} | {100 * row['macs']:.0f}% | {100 * row['accuracy']:.2f}% "
            f"| {100 * (static - row['accuracy']):.2f} | {row['ms']:.3f} | {row['times_as_fast']:.2f} "
            f"| {row['times_as_many']:.2f} |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
