"""What do a stage and the whole chain cost beside the static network? One CPU thread, one image at a time.

    python benchmarks/chain_cost.py --network STATIC.pt --data DIR --plan PLAN.json --plan uniform:0.5,0.5

Exports the static network (a `model.pt` of one stage) and, for every plan, its multi-stage network; then
runs all of them in alternating blocks on real images and prints each one's time over the static network's in
the same block. What is timed are onnxruntime sessions and nothing else, bound to buffers, so that a stage
writes its features where the next one reads them.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import click
import onnxruntime
from machine import machine
from pages import check_place, put_record
from sessions import BoundSessions, bundle_of, images_from

from s2dnas_deploy.workshop.export.samples import Pixels
from s2dnas_deploy.workshop.network.costs import stage_costs
from s2dnas_deploy.workshop.network.model_file import load_model
from s2dnas_deploy.workshop.network.network import as_static, carry_over
from s2dnas_deploy.workshop.reading.static_source import read_plan

Task = Callable[[], None]


@click.command()
@click.option("--network", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--data", required=True)
@click.option("--plan", "plans", multiple=True, required=True)
@click.option("--join", "joins", type=click.Choice(["sum", "concat"]), multiple=True, default=["sum"])
@click.option("--int8", is_flag=True, help="The static network and the stages in INT8.")
@click.option("--images", type=int, default=32, show_default=True)
@click.option("--blocks", type=int, default=40, show_default=True)
@click.option("--record", metavar="NAME", help="Also write the record and the table of this name.")
def main(network: Path, data: str, plans: tuple[str, ...], joins: tuple[str, ...], **options: Any) -> None:
    """Print the ratios, and record them."""
    record: str | None = options["record"]
    if record:
        check_place(record)
    static = load_model(network)
    images = images_from(data, static)
    precision = "int8" if options["int8"] else "float32"
    whole = BoundSessions(bundle_of(static, images, split=False, precision=precision).graphs)
    shown = images.validation[: options["images"]]
    tasks: dict[str, Task] = {"static": lambda: whole.run_all(shown)}
    rows: dict[str, dict[str, Any]] = {}
    for plan in plans:
        chosen = read_plan(plan, as_static(static.network), align=1, seed=0)
        divided = replace(static, network=carry_over(as_static(static.network), chosen).eval())
        total = sum(costs.macs for costs in stage_costs(static.network))
        shares = [costs.macs / total for costs in stage_costs(divided.network)]
        for join in joins:
            name = f"{Path(plan).stem if plan.endswith('.json') else plan} {join}"
            bundle = bundle_of(divided, images, split=join == "sum", precision=precision)
            rows[name] = {"plan": json.loads(chosen.to_json()), "join": join, "macs_share": shares}
            tasks.update(_tasks(name, BoundSessions(bundle.graphs), shown))
    ratios = measure(tasks, options["blocks"])
    for name, row in rows.items():
        row["chain"] = ratios[f"{name}: chain"]
        row["stages"] = [ratios[f"{name}: stage {k}"] for k in range(len(row["macs_share"]))]
    click.echo(table(rows))
    if record:
        about = {"date": str(date.today()), "machine": machine(), "onnxruntime": onnxruntime.__version__}
        put_record(record, {**about, "rows": rows}, table(rows))


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The record as a Markdown table: times over the static network's."""
    lines = ["| plan, join | chain | each stage alone | MACs of each stage |", "| --- | ---: | ---: | ---: |"]
    for name, row in rows.items():
        stages = " + ".join(f"{cost:.3f}" for cost in row["stages"])
        macs = " + ".join(f"{100 * share:.0f}%" for share in row["macs_share"])
        lines.append(f"| {name} | {row['chain']:.3f} | {stages} | {macs} |")
    return "\n".join(lines) + "\n"


def _tasks(name: str, sessions: BoundSessions, images: Pixels) -> dict[str, Task]:
    """The chain, and each stage alone, as often as there are images, on the features of the last."""

    def stage(k: int) -> Task:
        def run() -> None:
            for _ in images:
                sessions.run_stage(k)

        return run

    alone = {f"{name}: stage {k}": stage(k) for k in range(len(sessions.stages))}
    return {f"{name}: chain": lambda: sessions.run_all(images), **alone}


def measure(tasks: Mapping[str, Task], blocks: int) -> dict[str, float]:
    """Each task's time over that of `static`, the median over blocks in which all take turns."""
    for task in tasks.values():
        task()
    ratios: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(blocks):
        seconds = {}
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            seconds[name] = time.perf_counter() - start
        for name, spent in seconds.items():
            ratios[name].append(spent / seconds["static"])
    return {name: statistics.median(values) for name, values in ratios.items()}


if __name__ == "__main__":
    main()
