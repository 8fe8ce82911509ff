r"""What does it buy, from the recipe to the clock? One network of `models/`, by the package's own commands.

    python benchmarks/end_to_end.py wide_resnet --data DIR --work DIR --record

The static network is trained by the recipe; the multi-stage network from its weights, by the recipe's plan
or one that is searched for; both are exported in float32 and INT8, thresholds are chosen on validation
images by `s2dnas-calibrate`, and `s2dnas-bench` measures the cascade against the static network on the test
images: one CPU thread, one image at a time, alternating blocks. A run that is stopped goes on where it was.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click
from machine import machine
from pages import OWN, PROJECT, put_table

from s2dnas_deploy.build.model_file import load_model
from s2dnas_deploy.cli.recipe import tomllib
from s2dnas_deploy.run.bench.report import Report
from s2dnas_deploy.run.bench.subjects import CASCADE, STATIC
from s2dnas_deploy.run.bench.summary import Latency, summarise

HERE = Path(__file__).parent
RESULT = HERE / "results" / "end_to_end.json"
PRECISIONS = ("float32", "int8")
SURE = (0.95, 0.5)
"""With which probability a promise holds: as it should be made, and with even odds."""
SEARCHES = {
    "mobilenet_v2": ("--target", "0.3", "--finalists", "3", "--shared-epochs", "4"),
    "resnet56": ("--target", "0.5", "--finalists", "3", "--shared-epochs", "4"),
}
"""How a plan is searched for; the others have a good one in their recipe."""


@click.command()
@click.argument("network")
@click.option("--data", required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Where models are kept.")
@click.option("--seconds", default=60, show_default=True, help="Of timing, for each bundle.")
@click.option("--max-drop", default="0.5%", show_default=True, help="What the thresholds promise.")
@click.option("--record", is_flag=True, help="Also write the record and the tables.")
def main(network: str, data: str, work: Path, *, record: bool, **options: Any) -> None:
    """Print what each bundle of NETWORK came to."""
    folder = work / network
    folder.mkdir(parents=True, exist_ok=True)
    _trained(network, data, folder)
    about = {"network": network, "date": str(date.today()), "machine": machine()}
    rows = [about | row for row in _measured(folder, data, **options)]
    before = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    kept = [row for row in before if row["network"] != network]
    click.echo(table(rows))
    if record:
        RESULT.write_text(json.dumps({"rows": kept + rows}, indent=1) + "\n")
        put_table("end_to_end", table(kept + rows), [OWN, PROJECT])


def _trained(network: str, data: str, folder: Path) -> None:
    """`static.pt` and `model.pt` in the folder; what is there already is not trained again."""
    recipe = HERE.parent / "models" / f"{network}.toml"
    known = tomllib.loads(recipe.read_text(encoding="utf-8"))
    images = ["--recipe", str(recipe), "--data", data]
    epochs, lr = known["static_epochs"], known.get("static_lr", known["lr"])
    alone = f"--plan static --static-epochs 0 --epochs {epochs} --lr {lr} --self-distill 0".split()
    _command("train", *images, *alone, "--out", str(folder / "static.pt"))
    divided = [*images, "--weights", str(folder / "static.pt"), "--out", str(folder / "model.pt")]
    if network in SEARCHES:
        _command("search", *divided, *SEARCHES[network])
    else:
        _command("train", *divided)


def _measured(folder: Path, data: str, *, seconds: int, max_drop: str) -> Iterator[dict[str, Any]]:
    """Each precision with each promise: exported, calibrated and timed."""
    exits = load_model(folder / "model.pt").provenance["test_accuracy"]
    held_out = folder / "held-out"
    for precision in PRECISIONS:
        bundle = folder / f"bundle-{precision}"
        kind = ["--int8"] if precision == "int8" else ["--held-out", str(held_out)]
        if not bundle.exists():
            model, static = str(folder / "model.pt"), str(folder / "static.pt")
            _command("export", model, "--out", str(bundle), "--data", data, "--static", static, *kind)
        for sure in SURE:
            promise = ["--max-drop", max_drop, "--confidence", str(sure), "--threads", "1"]
            _command("calibrate", "--bundle", str(bundle), str(held_out / "validation.npz"), *promise)
            out = folder / f"bench-{precision}-{sure}.json"
            timed = ["--data", str(held_out / "test.npz"), "--threads", "1", "--seconds", str(seconds)]
            _command("bench", str(bundle), *timed, "--out", str(out), "--html", str(out.with_suffix(".html")))
            yield {"precision": precision, "sure": sure, "exits": exits, **_row(Report.load(out))}


def _row(report: Report) -> dict[str, Any]:
    """What a measurement says of the cascade and of the static network."""
    summary = summarise(report.runs[0], report)
    speed = summary.speed_up
    assert speed is not None, "no static network was measured"
    answers = report.answers
    return {
        "static": answers.static_accuracy,
        "cascade": answers.cascade_accuracy,
        "shares": list(answers.shares),
        "thresholds": list(report.measured.thresholds),
        "speed_up": [speed.realised.value, speed.realised.low, speed.realised.high],
        "by_stages": speed.ideal,
        "by_macs": speed.by_macs,
        "ms": {name: _milliseconds(summary.subjects[name]) for name in (CASCADE, STATIC)},
        "versions": dict(report.environment.versions),
    }


def _milliseconds(latency: Latency) -> dict[str, float]:
    found = {"mean": latency.mean.value}
    for name in ("p50", "p99"):
        quantile = latency.quantiles[name]
        assert quantile is not None, f"too few timings for {name}"
        found[name] = quantile.value
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The record as a Markdown table."""
    lines = [
        "| network | precision | holds with | static | cascade | leave at | mean | median | p99 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cascade, static = row["ms"][CASCADE], row["ms"][STATIC]
        shares = " / ".join(f"{100 * share:.1f}%" for share in row["shares"])
        median, p99 = static["p50"] / cascade["p50"], cascade["p99"] / static["p99"]
        lines.append(
            f"| {row['network']} | {row['precision']} | {100 * row['sure']:.0f}% | "
            f"{100 * row['static']:.2f}% | {100 * row['cascade']:.2f}% | {shares} | "
            f"{row['speed_up'][0]:.2f}x | {median:.2f}x | {p99:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _command(name: str, *arguments: str) -> None:
    """One of the package's commands, its output shown."""
    click.echo(f"s2dnas-{name} {' '.join(arguments)}", err=True)
    subprocess.run([sys.executable, "-m", "s2dnas_deploy.cli", name, *arguments], check=True)


if __name__ == "__main__":
    main()
