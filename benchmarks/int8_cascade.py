"""Is the INT8 cascade faster than the INT8 static network at the same accuracy? On a clock, that is.

    python benchmarks/int8_cascade.py --network MODEL.pt --static STATIC.pt --data DIR

Exports both in float32 and INT8. Thresholds are chosen on validation images, the cheapest that are as
accurate there as the static network in the same precision; accuracy is then counted on test images, and the
time taken in alternating blocks on the same images: one CPU thread, one image at a time, a stage only for
those not yet sure.
"""

import statistics
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
import torch
from machine import machine
from pages import put_record
from sessions import BoundSessions, answers_of, bundle_of, pixels, splits_of
from thresholds import GRID, cheapest, exit_accuracy, leaving, scores_from

from s2dnas_deploy.sessions.every_stage import StageAnswer
from s2dnas_deploy.workshop.data.labelled import LabelledImages
from s2dnas_deploy.workshop.export.samples import ExportImages, Pixels
from s2dnas_deploy.workshop.network.model_file import load_model

PRECISIONS = ("float32", "int8")


@click.command()
@click.option("--network", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--static", "static_path", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--data", required=True)
@click.option("--blocks", type=int, default=15, show_default=True)
@click.option("--timed", type=int, default=400, show_default=True, help="Test images to take the time on.")
@click.option("--record", is_flag=True, help="Also write the record and the table in README.md.")
def main(network: Path, static_path: Path, data: str, **options: Any) -> None:
    """Print accuracy per exit, thresholds, and the ratio of times."""
    model, static = load_model(network), load_model(static_path)
    splits = splits_of(model, data)
    assert splits.test is not None, "the data has no test images"
    val, test = _some(splits.val, 5000), _some(splits.test, 10000)
    images = ExportImages(
        source=data,
        calibration=pixels(_some(splits.train, 512)),
        validation=pixels(val)[:200],
        labels=val.labels.numpy()[:200],
    )
    record: dict[str, Any] = {"date": str(date.today()), "machine": machine()}
    record["onnxruntime"] = onnxruntime.__version__
    sessions = {}
    for precision in PRECISIONS:
        cascade = bundle_of(model, images, split=False, precision=precision)
        whole = bundle_of(static, images, split=False, precision=precision)
        on_val = scores_from(answers_of(cascade.graphs, pixels(val)), val.labels.numpy())
        on_test = scores_from(answers_of(cascade.graphs, pixels(test)), test.labels.numpy())
        upto = np.cumsum(cascade.manifest.macs).tolist()
        goal = _accuracy(answers_of(whole.graphs, pixels(val))[0], val)
        thresholds = cheapest(on_val, goal, upto, [GRID] * (on_val.exits - 1)).thresholds
        left = leaving(on_test, thresholds, upto)
        record[precision] = {
            "exits": exit_accuracy(on_test),
            "static": _accuracy(answers_of(whole.graphs, pixels(test))[0], test),
            "thresholds": list(thresholds),
            "cascade": left.accuracy,
            "shares": list(left.shares),
        }
        sessions[precision] = (BoundSessions(cascade.graphs), BoundSessions(whole.graphs), thresholds)
    shown = pixels(_some(test, options["timed"]))
    record["ratio"] = _ratios(sessions, shown, options["blocks"])
    click.echo(table(record))
    if options["record"]:
        put_record("int8_cascade", record, table(record))


def table(record: Mapping[str, Any]) -> str:
    """The record as a Markdown table: accuracies on test images, and time over the static network's."""
    lines = [
        "| precision | exits | static network | cascade | exit at | time over the static network's |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for precision in PRECISIONS:
        row = record[precision]
        exits, shares = (" / ".join(f"{100 * x:.2f}%" for x in row[key]) for key in ("exits", "shares"))
        lines.append(
            f"| {precision} | {exits} | {100 * row['static']:.2f}% | {100 * row['cascade']:.2f}% | "
            f"{shares} | {record['ratio'][precision]:.3f} |"
        )
    return "\n".join(lines) + "\n"


def _some(images: LabelledImages, count: int) -> LabelledImages:
    return images.select(torch.linspace(0, len(images) - 1, min(count, len(images))).long())


def _accuracy(answer: StageAnswer, images: LabelledImages) -> float:
    return float((answer.label == images.labels.numpy()).mean())


def _ratios(
    sessions: dict[str, tuple[BoundSessions, BoundSessions, tuple[float, ...]]], images: Pixels, blocks: int
) -> dict[str, float]:
    """Time of the cascade over that of the static network in the same block, for each precision."""
    ratios: dict[str, list[float]] = {name: [] for name in (*sessions, "int8 over float32, static")}
    for block in range(blocks + 1):
        taken = {}
        for name, (cascade, whole, thresholds) in sessions.items():
            for kind, run in ((name, cascade), (f"static {name}", whole)):
                start = time.perf_counter()
                for image in images:
                    run.answer(image, thresholds if run is cascade else ())
                taken[kind] = time.perf_counter() - start
        if block:
            for name in sessions:
                ratios[name].append(taken[name] / taken[f"static {name}"])
            ratios["int8 over float32, static"].append(taken["static int8"] / taken["static float32"])
    return {name: statistics.median(values) for name, values in ratios.items()}


if __name__ == "__main__":
    main()
