r"""Is a plan that was searched for faster than another at the same accuracy? On a clock, that is.

    python benchmarks/searched_plan.py --question NAME --static STATIC.pt --data DIR \
        --network uniform=UNIFORM.pt --network searched=SEARCHED.pt

All networks must have been trained alike. For each accuracy asked for, relative to the static network's on
the test images, each network gets the thresholds that reach it there at the least mean time: what the plan
can do, not what a promise may count on. Times are then taken in alternating blocks: one CPU thread, one
test image at a time.
"""

import json
import statistics
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnxruntime
from machine import machine
from pages import put_record
from sessions import BoundSessions, answers_of, bundle_of, images_from, pixels
from thresholds import cheapest, exit_accuracy, menus_of, scores_from

from s2dnas_deploy.decide.thresholds import in_points
from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.export.samples import Pixels
from s2dnas_deploy.workshop.network.model_file import load_model

RESULT = Path(__file__).parent / "results" / "searched_plan.json"
STATIC = "static"
Numbers = npt.NDArray[np.float64]


@click.command()
@click.option("--question", required=True, help="Under which name the answer is recorded.")
@click.option("--static", "static_path", type=click.Path(exists=True, path_type=Path), required=True)
@click.option(
    "--network", "networks", multiple=True, required=True, help="NAME=MODEL.pt; the first is the yardstick."
)
@click.option("--data", required=True)
@click.option(
    "--drop", "drops", type=float, multiple=True, default=(0.5, 0.0), show_default=True, help="Points."
)
@click.option("--timed", type=int, default=400, show_default=True, help="Test images to take the time on.")
@click.option("--blocks", type=int, default=15, show_default=True)
@click.option("--record", is_flag=True, help="Also write the record and the table in README.md.")
def main(
    question: str,
    static_path: Path,
    networks: tuple[str, ...],
    data: str,
    drops: tuple[float, ...],
    **options: Any,
) -> None:
    """Print the mean time of each network at each accuracy."""
    paths = {
        STATIC: static_path,
        **{name: Path(path) for name, _, path in (n.partition("=") for n in networks)},
    }
    models = {name: load_model(path) for name, path in paths.items()}
    shape = models[STATIC].preprocessing.input_shape
    splits = load_images(data, input_shape=shape, seed=0)
    assert splits.test is not None, "the data has no test images"
    truth, test = splits.test.labels.numpy(), pixels(splits.test)
    samples = images_from(data, models[STATIC])
    bundles = {
        name: bundle_of(model, samples, split=False, precision="float32") for name, model in models.items()
    }
    scores = {name: scores_from(answers_of(bundle.graphs, test), truth) for name, bundle in bundles.items()}
    sessions = {name: BoundSessions(bundle.graphs) for name, bundle in bundles.items()}
    shown, blocks = test[:: max(len(test) // options["timed"], 1)], options["blocks"]
    costs = _stage_times(sessions, shown, blocks)
    goal = exit_accuracy(scores[STATIC])[0]
    rows = []
    for drop in drops:
        chosen = {
            name: cheapest(each, goal - drop / 100, np.cumsum(costs[name]).tolist(), menus_of(each))
            for name, each in scores.items()
        }
        times = _ratios(sessions, {name: each.thresholds for name, each in chosen.items()}, shown, blocks)
        for name, each in chosen.items():
            row = {"question": question, "drop": drop, "network": name, "exits": exit_accuracy(scores[name])}
            rows.append({**row, **asdict(each), "stage_times": costs[name].tolist(), **times[name]})
    click.echo(table(rows))
    if options["record"]:
        before = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
        kept = [row for row in before if row["question"] != question]
        about = {"date": str(date.today()), "machine": machine(), "onnxruntime": onnxruntime.__version__}
        for row in rows:
            row["about"] = about
        put_record("searched_plan", {"rows": kept + rows}, table(kept + rows))


def table(rows: list[dict[str, Any]]) -> str:
    """The record as a Markdown table."""
    lines = [
        "| network, allowed drop | plan | exits | accuracy | exit at | time over static | over the first |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        if row["network"] == STATIC:
            continue
        exits, shares = (" / ".join(f"{100 * x:.1f}" for x in row[key]) for key in ("exits", "shares"))
        over = f"{row['over_static']:.3f} | {row['over_first']:.3f}"
        lines.append(
            f"| {row['question']}, {in_points(row['drop'] / 100)} | {row['network']} | {exits} "
            f"| {100 * row['accuracy']:.2f}% | {shares} | {over} |"
        )
    return "\n".join(lines) + "\n"


def _stage_times(sessions: dict[str, BoundSessions], images: Pixels, blocks: int) -> dict[str, Numbers]:
    """Time of each stage over the static network's in the same block."""
    found: dict[str, list[Numbers]] = {name: [] for name in sessions}
    for block in range(blocks + 1):
        taken = {}
        for name, chain in sessions.items():
            taken[name] = np.zeros(len(chain.stages))
            for image in images[:50]:
                chain.answer(image, (-1.0,))
                for k in range(len(chain.stages)):
                    start = time.perf_counter()
                    chain.run_stage(k)
                    taken[name][k] += time.perf_counter() - start
        if block:
            for name, times in taken.items():
                found[name].append(times / taken[STATIC].sum())
    return {name: np.median(times, axis=0) for name, times in found.items()}


def _ratios(
    sessions: dict[str, BoundSessions], thresholds: dict[str, tuple[float, ...]], images: Pixels, blocks: int
) -> dict[str, dict[str, float]]:
    """Mean time over that of the static network, and of the first other one, in the same block."""
    first = next(name for name in sessions if name != STATIC)
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for block in range(blocks + 1):
        for name, chain in sessions.items():
            start = time.perf_counter()
            for image in images:
                chain.answer(image, thresholds[name])
            if block:
                taken[name].append(time.perf_counter() - start)

    def over(name: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(taken[name], taken[other], strict=True))

    return {name: {"over_static": over(name, STATIC), "over_first": over(name, first)} for name in sessions}


if __name__ == "__main__":
    main()
