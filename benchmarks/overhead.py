"""What does the cascade cost beyond the stages it runs? On one CPU thread, on real images.

    python benchmarks/overhead.py --bundle BUNDLE --images DIR

Mean time of `Cascade.predict` over that of bare `session.run` calls along the same exits: the same stages,
for the same samples, with inputs laid out beforehand, so that nothing but onnxruntime is in the denominator.
Taken in alternating blocks, the bundle loaded anew after some: where its memory comes to lie makes one load
2% faster or slower than the next. At batch 32 the cascade's time includes moving the survivors together.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
from machine import machine
from pages import put_record

from s2dnas_deploy import Cascade
from s2dnas_deploy.bundle.bundle import load_bundle
from s2dnas_deploy.decide.flow import IMAGE
from s2dnas_deploy.decide.rules import Threshold
from s2dnas_deploy.runtime.answers.inputs import find_items

BATCHES = (1, 32)
Calls = list[tuple[Any, list[str], dict[str, np.ndarray]]]


@click.command()
@click.option("--bundle", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--images", required=True, help="A folder of images.")
@click.option("--loads", default=12, show_default=True, help="Times the bundle is loaded anew.")
@click.option("--blocks", default=5, show_default=True, help="Blocks for each.")
@click.option("--record", is_flag=True, help="Also write the record and the table in README.md.")
def main(bundle: Path, images: str, loads: int, blocks: int, *, record: bool) -> None:
    """Print the ratios."""
    found = [_ratios(bundle, images, blocks) for _ in range(loads)]
    rows = [_row(*taken) for taken in zip(*found, strict=True)]
    click.echo(table(rows))
    if record:
        put_record("overhead", {"machine": machine(), "rows": rows}, table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """The record as a Markdown table."""
    lines = ["| batch | images exit at | `predict` over bare `session.run` |", "| ---: | --- | ---: |"]
    for row in rows:
        shares = " / ".join(f"{100 * share:.0f}%" for share in row["shares"])
        lines.append(f"| {row['batch']} | {shares} | {row['ratio']:.3f} |")
    return "\n".join(lines) + "\n"


def _ratios(bundle: Path, images: str, blocks: int) -> list[dict[str, Any]]:
    """For each batch size: where images exit, and the ratio of every block."""
    with Cascade.load(bundle, provider="cpu", threads=1) as cascade:
        items = find_items([images], cascade.labels).images
        chosen = np.random.default_rng(0).permutation(len(items))[:512]
        pixels = cascade.reader.batch([items[i].source for i in chosen])
        return [_measure(cascade, pixels, batch, blocks) for batch in BATCHES]


def _row(*loads: dict[str, Any]) -> dict[str, Any]:
    """One batch size, over all loads."""
    ratios = [ratio for load in loads for ratio in load["ratios"]]
    return {**loads[0], "ratio": statistics.median(ratios), "ratios": ratios}


def _measure(cascade: Cascade, pixels: np.ndarray, batch: int, blocks: int) -> dict[str, Any]:
    batches = [pixels[i : i + batch] for i in range(0, len(pixels), batch)]
    sessions = _bare_sessions(cascade)
    calls = [call for images in batches for call in _calls(cascade, sessions, images)]
    exits = np.concatenate([cascade.predict(images).exit for images in batches])

    def predict() -> None:
        for images in batches:
            cascade.predict(images)

    def bare() -> None:
        for session, outputs, feeds in calls:
            session.run(outputs, feeds)

    return {
        "batch": batch,
        "shares": (np.bincount(exits, minlength=len(cascade.names)) / len(exits)).tolist(),
        "ratios": [_timed(predict) / _timed(bare) for _ in range(blocks)],
    }


def _bare_sessions(cascade: Cascade) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return [onnxruntime.InferenceSession(graph, options) for graph in load_bundle(cascade.folder).graphs]


def _calls(cascade: Cascade, sessions: list[Any], images: np.ndarray) -> Calls:
    """The stages that a batch runs, each with its inputs: those of the samples that are still in."""
    calls, values = [], {IMAGE: images}
    for session, stop in zip(sessions, cascade.flow.stops, strict=True):
        outputs = [value.name for value in session.get_outputs()]
        feeds = {value.name: values[value.name] for value in session.get_inputs()}
        calls.append((session, outputs, feeds))
        values |= dict(zip(outputs, session.run(outputs, feeds), strict=True))
        if not isinstance(stop.then.by, Threshold):
            break
        stay = ~stop.then.by.reached(values["confidence"])
        if not stay.any():
            break
        values = {name: np.ascontiguousarray(value[stay]) for name, value in values.items()}
    return calls


def _timed(task: Callable[[], None]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
