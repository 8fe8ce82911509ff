"""What do README's commands give ten people with ten networks of their own? With defaults only, that is.

    python benchmarks/newcomers.py --tiny DIR --cifar DIR --work DIR --record

DIR/train and DIR/test have a folder a class: of Tiny ImageNet (64x64) and of CIFAR-10 (32x32). Each network
of `newcomers_networks.py` gets images of its own and is trained on them as its owner would
(`newcomers_static.py`), then divided, exported, calibrated and measured. What is in `--work` is not done
again: a command is done if it and all commands before it are the same. A training that was stopped counts
from when it was given again.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from given import run_once
from machine import machine
from newcomers_static import NEWCOMERS, Newcomer, bring
from pages import check_place, put_record

from s2dnas_deploy.bench.report import Report
from s2dnas_deploy.bench.summary import summarise
from s2dnas_deploy.bench.workers.subjects import STATIC

COMMANDS = """
s2dnas-train --model {model} --input {shape} --weights static.pth --data images/ --out model.pt
s2dnas-export model.pt --out bundle/ --data images/ --held-out held-out/ --static-model model.run/static.pt
s2dnas-calibrate --bundle bundle/ held-out/validation.npz --static bundle.static.onnx --max-drop 1% --probability 0.5
s2dnas-bench bundle/ --data images/test --threads 1 --out bench.json
"""  # noqa: E501
"""README's, under "Your network in six lines"."""


@click.command()
@click.option("--tiny", type=click.Path(exists=True, path_type=Path), required=True, help="Tiny ImageNet.")
@click.option("--cifar", type=click.Path(exists=True, path_type=Path), required=True, help="CIFAR-10.")
@click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="Where each network has a folder."
)
@click.option("--only", multiple=True, type=click.Choice([each.name for each in NEWCOMERS]))
@click.option("--plan", help="The plan of s2dnas-train, in place of its default.")
@click.option("--epochs", help="The epochs of s2dnas-train, in place of its default: for a quick try.")
@click.option("--record", is_flag=True, help="Also write the record and the table in README.md.")
def main(
    tiny: Path, cifar: Path, work: Path, *, only: tuple[str, ...], record: bool, **given: str | None
) -> None:
    """Print what each network came to."""
    if record:
        if only or any(given.values()):
            raise click.UsageError("--record is of all networks, with defaults only")
        check_place("newcomers")
    options = [word for name, value in given.items() if value for word in (f"--{name}", value)]
    sources = {"tiny": tiny, "cifar": cifar}
    rows = []
    for newcomer in NEWCOMERS:
        if not only or newcomer.name in only:
            rows.append(_row(newcomer, sources[newcomer.source], work.resolve() / newcomer.name, options))
            click.echo(table(rows))
    if record:
        put_record("newcomers", {"machine": machine(), "rows": rows}, table(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The record as a Markdown table."""
    lines = [
        "| network | images | MACs | static ms | static | cascade | points below | exits |"
        " times as fast | minutes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        exits = " / ".join(f"{100 * share:.0f}%" for share in row["shares"])
        lines.append(
            f"| {row['kind']}, {row['size']} px | {row['images']:,} | {row['macs'] / 1e6:.1f} M |"
            f" {row['static_ms']:.2f} | {100 * row['static']:.1f}% | {100 * row['cascade']:.1f}% |"
            f" {below(row):.1f} | {exits} | {row['speed_up']:.2f} | {row['seconds'][0] / 60:.1f} |"
        )
    points = statistics.median(below(row) for row in rows)
    times = statistics.median(row["speed_up"] for row in rows)
    minutes = statistics.median(row["seconds"][0] / 60 for row in rows)
    lines.append(f"| median | | | | | | {points:.1f} | | {times:.2f} | {minutes:.1f} |")
    return "\n".join(lines) + "\n"


def below(row: dict[str, Any]) -> float:
    """Points that the cascade's accuracy on the test images is below the static network's."""
    return 100 * float(row["static"] - row["cascade"])


def _row(newcomer: Newcomer, source: Path, folder: Path, options: Sequence[str]) -> dict[str, Any]:
    bring(newcomer, source, folder)
    seconds = run_once(commands(newcomer, options), folder)
    report = Report.load(folder / "bench.json")
    run = next(run for run in report.runs if run.batch == 1)
    summary, answers = summarise(run, report), report.answers
    assert summary.speed_up is not None, "the static network was not measured"
    return {
        "name": newcomer.name,
        "kind": newcomer.kind,
        "size": newcomer.size,
        "images": len(list((folder / "images" / "train").glob("*/*"))),
        "tested": answers.images,
        "macs": report.measured.static_macs,
        "stage_macs": report.measured.stage_macs,
        "static_ms": summary.subjects[STATIC].mean.value,
        "static": answers.static_accuracy,
        "cascade": answers.cascade_accuracy,
        "exits": answers.exit_accuracy,
        "shares": answers.shares,
        "speed_up": summary.speed_up.realised.value,
        "between": [summary.speed_up.realised.low, summary.speed_up.realised.high],
        "ideal": summary.speed_up.ideal,
        "seconds": seconds,
        "forecast": _forecast(folder),
    }


def commands(newcomer: Newcomer, options: Sequence[str]) -> list[list[str]]:
    """README's, of this newcomer; with options for the training."""
    lines = COMMANDS.strip().splitlines()
    train, *others = (
        [word.format(model=newcomer.model, shape=newcomer.shape) for word in line.split()] for line in lines
    )
    return [[*train, *options], *others]


def _forecast(folder: Path) -> Any:
    """What the training foretold, as it kept it beside the model; None where it foretold nothing."""
    path = folder / "model.run" / "forecast.json"
    return json.loads(path.read_text()) if path.exists() else None


if __name__ == "__main__":
    main()
