r"""What does it buy, from the recipe to the clock? One network of `models/`, by the package's own commands.

    python benchmarks/end_to_end.py wide_resnet --data DIR --work DIR --record

The static network is trained by the recipe; the multi-stage network from its weights, by the recipe's plan
or by one that `--search "--target 0.3"` finds; both are exported in float32 and INT8, thresholds are chosen
on validation images by `s2dnas-calibrate`, and `s2dnas-bench` measures the cascade against the static network
on the test images: one CPU thread, one image at a time, alternating blocks. A run that is stopped goes on
where it was, and a network that is in the work folder is taken as it is.

Thresholds are chosen for a promise below the last exit, whose accuracy may well exceed the static network's;
for one below the static network, proven and with even odds; and for a budget of time, which promises nothing.
"""

import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import machine
from pages import put_record

from s2dnas_deploy.bench.report import Report
from s2dnas_deploy.bench.summary import Latency, summarise
from s2dnas_deploy.bench.workers.subjects import CASCADE, STATIC, exit_name
from s2dnas_deploy.bundle.bundle import load_bundle, static_beside
from s2dnas_deploy.cli.options.recipe import parse_toml
from s2dnas_deploy.workshop.network.model_file import load_model

HERE = Path(__file__).parent
RESULT = HERE / "results" / "end_to_end.json"
PRECISIONS = ("float32", "int8")
BELOW_STATIC = ("--max-drop", "0.5%", "--static", "{static}")
GOALS = {
    "0.5 points below the last exit, 95% sure": ("--max-drop", "0.5%"),
    "0.5 points below the static network, 95% sure": BELOW_STATIC,
    "0.5 points below the static network, even odds": (*BELOW_STATIC, "--probability", "0.5"),
    "in {share:g} of the static network's time": ("--target-ms", "{budget_ms}"),
}
"""What thresholds are chosen for, and how `s2dnas-calibrate` is told."""
SHARES = {"float32": 0.25, "int8": 0.6}
"""Of the static network's time, for the last of the goals."""
FRONT = "wide_resnet_in_turn"
"""The network of the front page: its first exit is a smaller network, which reads the image alone."""
FIRST = exit_name(0)
_IMPOSSIBLE = (1, 2)  # exit codes: a promise that is not proven, a budget below what exit 0 alone takes


@click.command()
@click.argument("network")
@click.option("--data", required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Where models are kept.")
@click.option("--search", metavar="OPTIONS", help="Search for the plan, with these of s2dnas-search.")
@click.option(
    "--set-aside",
    type=int,
    help="Choose thresholds on so many of the test images, drawn at random, and measure on the others. "
    "[default: on the validation images]",
)
@click.option("--seconds", default=60, show_default=True, help="Of timing, for each bundle.")
@click.option("--record", is_flag=True, help="Also write the record and the tables.")
def main(
    network: str,
    data: str,
    work: Path,
    search: str | None,
    *,
    set_aside: int | None,
    seconds: int,
    record: bool,
) -> None:
    """Print what each bundle of NETWORK came to."""
    name = f"{network}, searched" if search else network
    static, folder = work / network / "static.pt", work / name.replace(", ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    _trained(network, data, static, folder / "model.pt", search)
    about = {"network": name, "date": str(date.today()), "machine": machine()}
    rows = [about | row for row in measured(folder, data, static, set_aside, seconds=seconds)]
    before = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    kept = [row for row in before if row["network"] != name]
    click.echo(table(rows))
    if record:
        every = kept + rows
        put_record("end_to_end", {"rows": every}, table(every), brief=brief(every), front=front(every))


def _trained(network: str, data: str, static: Path, model: Path, search: str | None) -> None:
    """The static and the multi-stage network; what is there already is not trained again."""
    recipe = HERE.parent / "models" / f"{network}.toml"
    known = parse_toml(recipe.read_text(encoding="utf-8"))
    images = ["--recipe", str(recipe), "--data", data]
    epochs = known["static_epochs"]
    alone = f"--plan static --static-epochs 0 --epochs {epochs} --self-distill 0".split()
    if not static.exists():
        _command("train", *images, *alone, "--out", str(static))
    if model.exists():
        return
    divided = [*images, "--weights", str(static), "--out", str(model)]
    if search:
        _command("search", *divided, *shlex.split(search))
    else:
        _command("train", *divided)


def measured(
    folder: Path,
    data: str,
    static: Path,
    set_aside: int | None,
    *,
    seconds: int,
    goals: Mapping[str, Sequence[str]] = GOALS,
    shares: Mapping[str, float] = SHARES,
) -> Iterator[dict[str, Any]]:
    """Each precision with each of the goals, the last of which is a share of the time: exported and timed."""
    exits = load_model(folder / "model.pt").provenance["test_accuracy"]
    held_out = folder / "held-out"
    for precision in PRECISIONS:
        bundle = folder / f"bundle-{precision}"
        kind = ["--int8"] if precision == "int8" else ["--held-out", str(held_out)]
        if not bundle.exists():
            judged_by = ["--data", data, "--static-model", str(static)]
            _command("export", str(folder / "model.pt"), "--out", str(bundle), *judged_by, *kind)
        chosen_on, measured_on = _images(held_out, set_aside)
        known = {"static": str(static_beside(bundle)), "share": shares[precision], "budget_ms": 0.0}
        for number, (goal, options) in enumerate(goals.items()):
            out = folder / f"bench-{precision}-{number}.json"
            asked = ["--threads", "1", *(option.format(**known) for option in options)]
            if _command(
                "calibrate", "--bundle", str(bundle), str(chosen_on), *asked, may_end_with=_IMPOSSIBLE
            ):
                continue
            if not _is_of(out, bundle):
                timed = ["--data", str(measured_on), "--threads", "1", "--seconds", str(seconds)]
                page = str(out.with_suffix(".html"))
                _command("bench", str(bundle), *timed, "--out", str(out), "--html", page)
            row = _row(Report.load(out))
            known["budget_ms"] = shares[precision] * row["ms"][STATIC]["mean"]
            about = {"precision": precision, "goal": goal.format(**known), "images": _count(chosen_on)}
            yield {**about, "exits": exits, **row}


def _images(held_out: Path, set_aside: int | None) -> tuple[Path, Path]:
    """The images that thresholds are chosen on, and those that are measured on."""
    if set_aside is None:
        return held_out / "validation.npz", held_out / "test.npz"
    test = dict(np.load(held_out / "test.npz"))
    drawn = np.random.default_rng(0).permutation(len(test["labels"]))
    parts = {"set-aside": drawn[:set_aside], "others": drawn[set_aside:]}
    for name, rows in parts.items():
        np.savez(held_out / f"{name}.npz", **{key: values[rows] for key, values in test.items()})
    return held_out / "set-aside.npz", held_out / "others.npz"


def _count(archive: Path) -> int:
    return len(np.load(archive)["labels"])


def _is_of(out: Path, bundle: Path) -> bool:
    """Whether a measurement that is there already is of this bundle with these thresholds."""
    if not out.exists():
        return False
    measured, thresholds = Report.load(out).measured, load_bundle(bundle).manifest.flow.thresholds
    static = hashlib.sha256(static_beside(bundle).read_bytes()).hexdigest()
    return (measured.thresholds, measured.static_digest) == (thresholds, static)


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
        "ms": {name: _milliseconds(summary.subjects[name]) for name in (CASCADE, STATIC, FIRST)},
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
    """The record as Markdown tables, one for each processor: times of two are not compared."""
    machines = dict.fromkeys(row["machine"]["cpu"] for row in rows)
    tables = [_table([row for row in rows if row["machine"]["cpu"] == cpu]) for cpu in machines]
    return "\n".join(f"{cpu}:\n\n{each}" for cpu, each in zip(machines, tables, strict=True))


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| network | precision | thresholds for | images "
        "| static | cascade | exit at | mean | median | p99 |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cascade, static = row["ms"][CASCADE], row["ms"][STATIC]
        shares = " / ".join(f"{100 * share:.1f}%" for share in row["shares"])
        median, p99 = static["p50"] / cascade["p50"], cascade["p99"] / static["p99"]
        lines.append(
            f"| {row['network']} | {row['precision']} | {row['goal']} | {row['images']:,} | "
            f"{100 * row['static']:.2f}% | {100 * row['cascade']:.2f}% | {shares} | "
            f"{row['speed_up'][0]:.2f}x | {median:.2f}x | {p99:.2f} |"
        )
    return "\n".join(lines) + "\n"


def brief(rows: Sequence[dict[str, Any]]) -> str:
    """The same of what one asks for first: the usual promise, and in float32 a budget of time."""
    usual, *_, budget = (goal.format(share=SHARES["float32"]) for goal in GOALS)
    asked = {("float32", usual), ("float32", budget), ("int8", usual)}
    return table([row for row in rows if (row["precision"], row["goal"]) in asked])


def front(rows: Sequence[dict[str, Any]]) -> str:
    """One network in five rows: as it is, in INT8, a smaller one, and two cascades; all on one processor."""
    _, proven, _, budget = GOALS
    found = {(row["precision"], row["goal"]): row for row in rows if row["network"] == FRONT}
    sure, int8 = found["float32", proven], found["int8", proven]
    quick = found["float32", budget.format(share=SHARES["float32"])]
    lines = [
        _front_row("static network, float32", sure["static"], sure["ms"][STATIC]),
        _front_row("static network, INT8", int8["static"], int8["ms"][STATIC]),
        _front_row(
            "a smaller network: half the channels, half the blocks", sure["exits"][0], sure["ms"].get(FIRST)
        ),
        _front_row("cascade, proven to lose 0.5 points at most", sure["cascade"], sure["ms"][CASCADE]),
        _front_row("cascade, in a quarter of the time", quick["cascade"], quick["ms"][CASCADE]),
    ]
    head = ["| network | accuracy | mean ms | p99 ms |", "| --- | ---: | ---: | ---: |"]
    return "\n".join([*head, *lines]) + "\n"


def _front_row(name: str, accuracy: float, taken: Mapping[str, float] | None) -> str:
    times = ("–", "–") if taken is None else (f"{taken['mean']:.2f}", f"{taken['p99']:.2f}")
    return f"| {name} | {100 * accuracy:.2f}% | {times[0]} | {times[1]} |"


def _command(name: str, *arguments: str, may_end_with: Sequence[int] = ()) -> int:
    """One of the package's commands, its output shown; its exit code, if that is one that may be."""
    click.echo(f"s2dnas-{name} {' '.join(arguments)}", err=True)
    done = subprocess.run([sys.executable, "-m", "s2dnas_deploy.cli", name, *arguments], check=False)
    if done.returncode not in (0, *may_end_with):
        raise subprocess.CalledProcessError(done.returncode, done.args)
    return done.returncode


if __name__ == "__main__":
    main()
