"""What a bulk run costs: beside its parts, beside the static network, and in memory.

    python benchmarks/bulk.py --bundle BUNDLE --static STATIC_BUNDLE --images DIR

Times the whole `s2dnas-run` command, start-up and writing included, over all images, in turns with

    parts     decoding alone, in as many threads; and, over the stages, time of a full batch x samples there
    static    the same command on the static network's bundle (a bundle of one stage)

and takes the peak memory of the command over all images and over the first tenth of them.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import click
import numpy as np
from machine import machine
from pages import put_record

from s2dnas_deploy import Cascade
from s2dnas_deploy.decide.flow import IMAGE
from s2dnas_deploy.runtime.answers.inputs import Item, find_items
from s2dnas_deploy.runtime.bulk import BulkOptions, decoded

RUN = [sys.executable, "-c", "from s2dnas_deploy.cli import run; run()"]
OPTIONS = BulkOptions()


@click.command()
@click.option("--bundle", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--static", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--images", required=True, help="A folder of labelled images.")
@click.option("--rounds", default=7, show_default=True)
@click.option("--record", is_flag=True, help="Also write the record and the table in README.md.")
def main(bundle: Path, static: Path, images: str, rounds: int, *, record: bool) -> None:
    """Print times and memory."""
    with Cascade.load(bundle, provider="cpu") as cascade:
        items = find_items([images], cascade.labels).images
        rows = [_round(cascade, bundle, static, items) for _ in range(rounds)]
    medians = {key: statistics.median(r[key] for r in rows) for key in rows[0]}
    row = {**medians, "images": len(items), "rounds": rows}
    click.echo(table(row))
    if record:
        put_record("bulk", {"machine": machine(), **row}, table(row))


def table(row: dict[str, Any]) -> str:
    """The record as a Markdown table."""
    accuracies = f"{100 * row['accuracy']:.2f}% and {100 * row['static_accuracy']:.2f}%"
    lines = [
        "| what | |",
        "| --- | ---: |",
        f"| command over {row['images']} images | {row['command_s']:.2f} s |",
        f"| decoding alone | {row['decode_s']:.2f} s |",
        f"| stages alone, in full batches | {row['stages_s']:.2f} s |",
        f"| command over the sum of both | {row['over_parts']:.2f} |",
        f"| the same command on the static network | {row['static_s']:.2f} s |",
        f"| static over cascade | {row['speed_up']:.2f} |",
        f"| accuracy, cascade and static | {accuracies} |",
        f"| peak memory over all images, against a tenth of them | {row['memory_growth']:.3f} |",
    ]
    return "\n".join(lines) + "\n"


def _round(cascade: Cascade, bundle: Path, static: Path, items: tuple[Item, ...]) -> dict[str, float]:
    names = [item.name for item in items]
    tenth = _command(bundle, names[::10])
    whole = _command(bundle, names)
    start = time.perf_counter()
    deque(decoded(names, cascade.reader, OPTIONS), maxlen=0)
    decode = time.perf_counter() - start
    stages = _stages_alone(cascade, names, whole["shares"])
    alone = _command(static, names)
    return {
        "command_s": whole["seconds"],
        "decode_s": decode,
        "stages_s": stages,
        "over_parts": whole["seconds"] / (decode + stages),
        "static_s": alone["seconds"],
        "speed_up": alone["seconds"] / whole["seconds"],
        "accuracy": whole["accuracy"],
        "static_accuracy": alone["accuracy"],
        "memory_growth": whole["memory"] / tenth["memory"],
        "memory_mb": whole["memory"] / 1024,
    }


def _command(bundle: Path, names: list[str]) -> dict[str, Any]:
    """Run the command on a list of files; its seconds, peak memory in kB, accuracy and share of each exit."""
    with tempfile.TemporaryDirectory() as folder:
        listed, out = Path(folder) / "names", Path(folder) / "out.jsonl"
        listed.write_text("\n".join(names))
        with listed.open() as stdin:
            start = time.perf_counter()
            command = [*RUN, "--bundle", str(bundle), "--provider", "cpu", "--quiet", "--out", str(out), "-"]
            process = subprocess.Popen(command, stdin=stdin)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
        assert status == 0
        records = [json.loads(line) for line in out.read_text().splitlines()]
    exits = np.bincount([record["exit"] for record in records])
    return {
        "seconds": seconds,
        "memory": usage.ru_maxrss,
        "accuracy": float(np.mean([record["label"] == record["truth"] for record in records])),
        "shares": exits / len(records),
    }


def _stages_alone(cascade: Cascade, names: list[str], shares: np.ndarray) -> float:
    """Seconds for every stage in full batches, times the samples that reach it."""
    batch = OPTIONS.batch
    pixels = cascade.reader.batch(names[:batch])
    stages, buffers = cascade.stages, cascade.stages.buffers(batch)
    buffers.arrays[IMAGE][:] = pixels
    total = 0.0
    for k in range(len(stages.sessions)):
        reaching = len(names) * float(shares[k:].sum())
        times = []
        for _ in range(30):
            start = time.perf_counter()
            stages.run(k, buffers, batch)
            times.append(time.perf_counter() - start)
        total += statistics.median(times) / batch * reaching
    return total


if __name__ == "__main__":
    main()
