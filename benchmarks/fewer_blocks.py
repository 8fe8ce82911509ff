"""What is it worth to leave residual blocks out? Widths in turn, with fewer blocks first, by commands only.

    python benchmarks/fewer_blocks.py --data DIR --work DIR --record

CIFAR-10 at half its size, 10,000 images to train on. Of a deep network of narrow layers and of a wider, short
one, a static network is trained, then plans are from its weights. Each is exported, promised on 5,000
validation images to be at most half a point below the static network, proven at 95% and at even odds, and
timed on test images one at a time. A command is not given again if it and all before it are the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from given import run_once
from machine import machine
from pages import check_place, put_record

from s2dnas_deploy.bench.report import Report
from s2dnas_deploy.bench.summary import Latency, summarise
from s2dnas_deploy.bench.workers.subjects import CASCADE, STATIC
from s2dnas_deploy.workshop.network.model_file import load_model

MODELS = Path(__file__).parent.parent / "models" / "cifar_resnet.py"
WIDTHS = '{"widths": [16, 32, 64, 128], "blocks": 2, "num_classes": 10, "shortcut": "B"}'
ODDS = {"95%": (), "even odds": ("--probability", "0.5")}
"""How sure the promise is to be, and how `s2dnas-calibrate` is told."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, its model as commands take it, and the plans that are tried."""

    called: str
    model: tuple[str, ...]
    plans: tuple[str, ...]


NETWORKS = {
    "deep": Network(
        called="ResNet-56 of 16 to 64 channels",
        model=("--model", f"{MODELS}:resnet56"),
        plans=("in-turn:1x0.12,1x0.34", "in-turn:0.25,0.5,1", "uniform:0.25,0.25,0.5"),
    ),
    "short": Network(
        called="ResNet of 16 to 128 channels, two blocks each",
        model=("--model", f"{MODELS}:wide_resnet", "--model-args", WIDTHS),
        plans=("in-turn:0.5x0.5,1x0.5", "in-turn:0.25,0.5,1", "uniform:0.25,0.25,0.5"),
    ),
}


@click.command()
@click.option("--data", required=True, help="CIFAR-10: a folder of classes.")
@click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="Where each network has a folder."
)
@click.option("--only", multiple=True, type=click.Choice(list(NETWORKS)))
@click.option("--static-epochs", default=12, show_default=True)
@click.option("--epochs", default=6, show_default=True, help="Of each plan, after that.")
@click.option("--record", is_flag=True, help="Also write the record and the table in README.md.")
def main(
    data: str, work: Path, *, only: tuple[str, ...], static_epochs: int, epochs: int, record: bool
) -> None:
    """Print what each plan comes to."""
    if record:
        if only:
            raise click.UsageError("--record is of all networks")
        check_place("fewer_blocks")
    rows: list[dict[str, Any]] = []
    for key, network in NETWORKS.items():
        if not only or key in only:
            folder = work.resolve() / key
            folder.mkdir(parents=True, exist_ok=True)
            rows += _rows(network, str(Path(data).resolve()), folder, str(static_epochs), str(epochs))
            click.echo(table(rows))
    if record:
        about = {"machine": machine(), "static_epochs": static_epochs, "epochs": epochs}
        put_record("fewer_blocks", {**about, "rows": rows}, table(rows))


def _rows(
    network: Network, data: str, folder: Path, static_epochs: str, epochs: str
) -> Iterator[dict[str, Any]]:
    images = ("--data", data, "--limit", "10000", "--val-fraction", "0.1", "--normalize", "cifar10")
    train = ["s2dnas-train", *network.model, "--input", "3x16x16", "--resize", "stretch", *images]
    run_once([[*train, "--plan", "static", "--epochs", static_epochs, "--out", "static.pt"]], folder)
    for plan in network.plans:
        own = folder / plan.replace(":", "-")
        own.mkdir(exist_ok=True)
        begun = [*train, "--weights", "../static.pt", "--cost", "macs", "--epochs", epochs]
        run_once([[*begun, "--plan", plan, "--out", "model.pt"], *_measuring(data)], own)
        reports = {odds: Report.load(own / f"{number}.json") for number, odds in enumerate(ODDS)}
        trained = load_model(own / "model.pt").provenance
        yield {
            "network": network.called,
            "plan": plan,
            "static": trained["static_accuracy"]["test"],
            "exits": trained["test_accuracy"],
            "promised": {odds: _told(report) for odds, report in reports.items()},
        }


def _measuring(data: str) -> Iterator[list[str]]:
    """What is typed once a model is there: both promises, each measured on all test images."""
    static = ("--static-model", "../static.pt")
    yield ["s2dnas-export", "model.pt", "--out", "bundle", "--data", data, "--held-out", "held-out", *static]
    for number, sure in enumerate(ODDS.values()):
        goal = ["--static", "bundle.static.onnx", "--max-drop", "0.5%", *sure]
        yield ["s2dnas-calibrate", "--bundle", "bundle", "held-out/validation.npz", *goal]
        tested = ["--data", "held-out/test.npz", "--threads", "1"]
        yield ["s2dnas-bench", "bundle", *tested, "--out", f"{number}.json"]


def _told(report: Report) -> dict[str, Any]:
    """What a bundle came to with its promise."""
    summary = summarise(next(run for run in report.runs if run.batch == 1), report)
    assert summary.speed_up is not None, "the static network was not measured"
    static, cascade = (summary.subjects[name] for name in (STATIC, CASCADE))
    return {
        "accuracy": report.answers.cascade_accuracy,
        "shares": report.answers.shares,
        "speed_up": summary.speed_up.realised.value,
        "stages": [stage and stage.mean.value / static.mean.value for stage in summary.stages],
        "p99": _p99(cascade) / _p99(static),
    }


def _p99(latency: Latency) -> float:
    found = latency.quantiles["p99"]
    assert found is not None, "too few timings"
    return found.value


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The record as a Markdown table."""
    lines = [
        "| network, static | plan | exits | time of each | proven at 95%: right | times as fast | p99 |"
        " even odds: right | times as fast |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        sure, even = row["promised"].values()
        exits = " / ".join(f"{100 * share:.1f}" for share in row["exits"])
        times = " / ".join("-" if stage is None else f"{stage:.2f}" for stage in even["stages"])
        lines.append(
            f"| {row['network']}, {100 * row['static']:.1f}% | `{row['plan']}` | {exits}% | {times} |"
            f" {100 * sure['accuracy']:.1f}% | {sure['speed_up']:.1f} | {sure['p99']:.2f} |"
            f" {100 * even['accuracy']:.1f}% | {even['speed_up']:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
