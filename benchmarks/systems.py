r"""Which of four systems makes the same static network answer fastest? On one clock, over accuracy.

    python benchmarks/systems.py wide_resnet --data DIR --work DIR --record

A network of `models/` is trained by its recipe. From its weights, by this package's own commands and for
equally many epochs, come a chain of stages, nested widths, widths behind a gate, and a network that leaves
blocks out, from which whole paths are made for half as many epochs again. Beside them stand smaller static
networks, trained from nothing for as long as both together with the static network as their teacher, and the
static network in INT8. All are bundles and answer by the same runtime, on one CPU thread: one test image at a
time for milliseconds, and batches of them for images per second, in alternating blocks of one run.

Where a bundle has a knob (thresholds, offsets), it is turned on validation images: to what is most accurate
within each of some budgets of time, and to the cheapest that is at most half a point below the static
network. A run that is stopped goes on where it was.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from given import run_once
from machine import machine
from matplotlib import colormaps
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from pages import check_place, put_record
from sessions import pixels, splits_of
from smaller_networks import smaller_network

from s2dnas_deploy.cli.console import Console
from s2dnas_deploy.cli.options.recipe import parse_toml
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.decide.thresholds import choose_for_budget
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.timing import stage_ms, way_ms
from s2dnas_deploy.workshop.data.labelled import ImageSplits
from s2dnas_deploy.workshop.export.samples import Pixels
from s2dnas_deploy.workshop.network.model_file import load_model

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "systems.svg"
HALF_A_POINT = 0.005
STATIC = "static network"
PLANS = {
    "stages": None,
    "widths": "widths:0.25,0.5,0.75,1",
    "gate": "gate:0.25,0.5,1",
    "blocks": "blocks:0.5",
    "paths": "paths:3",
}
"""What is trained; None is the recipe's own plan, a chain. Paths are made of the network before them."""
_SAME = ("lr", "distill", "self_distill", "label_smoothing")
BUNDLES = {
    "stages": ("stages", "chain of stages", ()),
    "widths": ("widths", "nested widths, the caller picks", ()),
    "quarter-full": ("widths", "two widths in turn", ("--in-turn", "quarter,full")),
    "quarter-half-full": ("widths", "three widths in turn", ("--in-turn", "quarter,half,full")),
    "gate": ("gate", "gate", ()),
    "blocks": ("blocks", "blocks left out", ()),
    "paths": ("paths", "paths by a gate, of what blocks came to", ()),
}
"""By folder: whose model it is made of, what it is called, and with what options."""
SHARES = ("0.25", "0.5")
_BUDGETS, _TIMED_IMAGES, _BLOCK, _BULK = 7, 64, 50, 256


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A bundle with its knob at one place."""

    system: str
    setting: str
    cascade: Cascade
    options: Mapping[str, Any] = field(default_factory=dict)
    half_a_point: bool = False
    """Whether it is, of its system, the cheapest that is nearly as accurate on validation images."""

    def answer(self, images: Pixels) -> npt.NDArray[np.int64]:
        """The classes of images, [N]."""
        return self.cascade.predict(images, **self.options).label

    def accuracy(self, images: Pixels, truth: npt.NDArray[np.int64]) -> float:
        """The share of many images that it is right about."""
        return float((np.concatenate([self.answer(part) for part in batches_of(images)]) == truth).mean())


def batches_of(images: Pixels) -> list[Pixels]:
    """Images as many answer them at a time."""
    return [images[start : start + _BULK] for start in range(0, len(images), _BULK)]


@click.command()
@click.argument("network")
@click.option("--data", required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Where models are kept.")
@click.option("--model-args", help="Other arguments of the network than its recipe's, as JSON.")
@click.option("--limit", type=int, help="At most so many images of each part.")
@click.option("--epochs", default=10, show_default=True, help="Of each system, after the static network's.")
@click.option("--static-epochs", default=14, show_default=True)
@click.option("--timed", default=5000, show_default=True, help="So many test images.")
@click.option("--record", is_flag=True, help="Also write the record, its table and the picture.")
def main(
    network: str,
    data: str,
    work: Path,
    *,
    model_args: str | None,
    limit: int | None,
    epochs: int,
    static_epochs: int,
    timed: int,
    record: bool,
) -> None:
    """Print what each system of NETWORK comes to."""
    if record:
        check_place("systems")
    work, data = work.resolve(), str(Path(data).resolve())
    work.mkdir(parents=True, exist_ok=True)
    recipe = HERE.parent / "models" / f"{network}.toml"
    images = ["--data", data, "--val-fraction", "0.1", *(["--limit", str(limit)] if limit else [])]
    own = ["--recipe", str(recipe), *(["--model-args", model_args] if model_args else [])]
    _make(recipe, own, images, work, epochs=epochs, static_epochs=static_epochs)
    static = load_model(work / "static.pt")
    splits = splits_of(static, data)
    assert splits.test is not None, "the data has no test images"
    with Console() as console:
        for share in SHARES:
            smaller_network(static, share, splits, work / "smaller", console, epochs=static_epochs + epochs)
        run_once(
            [export_command(f"width_{share}", f"width_{share}", data) for share in SHARES],
            work / "smaller",
        )
        torch.set_num_threads(1)  # from here on, time is taken
        subjects = list(_subjects(work, splits))
        chosen = splits.test.evenly(timed)
        rows = measured(subjects, pixels(chosen), chosen.labels.numpy(), console)
    about = {"network": network, "arguments": static.provenance["network_arguments"]}
    trained = {"images": len(splits.train), "static_epochs": static_epochs, "epochs": epochs}
    content = {"date": str(date.today()), "machine": machine(), **about, **trained, "timed": timed}
    content["rows"] = rows
    (work / "record.json").write_text(json.dumps(content, indent=1) + "\n")
    click.echo(table(rows))
    if record:
        put_record("systems", content, table(rows), brief=brief(rows))
        draw(rows, PICTURE)


def _make(
    recipe: Path, own: Sequence[str], images: Sequence[str], work: Path, *, epochs: int, static_epochs: int
) -> None:
    """Everything that this package's commands make; whatever is another than it was, all after it is anew."""
    known, data = parse_toml(recipe.read_text(encoding="utf-8")), images[1]
    alone = ["--plan", "static", "--static-epochs", "0", "--self-distill", "0"]
    commands = [[*own, *images, *alone, "--epochs", str(static_epochs), "--out", "static.pt"]]
    for name, plan in PLANS.items():
        by = [] if plan is None else ["--plan", plan]
        begun = [*own, "--weights", "static.pt", "--epochs", str(epochs)]
        if name == "paths":  # made of another network, which a recipe is not for
            same = (word for key in _SAME for word in (f"--{key.replace('_', '-')}", str(known[key])))
            begun = ["--weights", "blocks.pt", "--epochs", str(epochs // 2), *same]
        commands.append([*begun, *images, *by, "--out", f"{name}.pt"])
    commands = [["s2dnas-train", *words] for words in commands]
    bundles = {"static": ("static", ()), "static-int8": ("static", ("--int8",))}
    bundles |= {name: (model, options) for name, (model, _, options) in BUNDLES.items()}
    commands += [export_command(model, name, data, options) for name, (model, options) in bundles.items()]
    run_once(commands, work)


def export_command(model: str, name: str, data: str, options: Sequence[str] = ()) -> list[str]:
    """What makes a bundle of a model."""
    return ["s2dnas-export", f"{model}.pt", "--out", f"bundles/{name}", "--data", data, *options]


# --- what is measured ---------------------------------------------------------------------------------------


def _subjects(work: Path, splits: ImageSplits) -> Iterator[Subject]:
    """All systems, each with its knob at several places."""

    def loaded(name: str, folder: Path = work / "bundles") -> Cascade:
        return Cascade.load(folder / name, provider="cpu", threads=1)

    shown, truth = pixels(splits.val), splits.val.labels.numpy()
    static = Subject(system=STATIC, setting="float32", cascade=loaded("static"))
    goal = static.accuracy(shown, truth) - HALF_A_POINT
    yield static
    yield Subject(system=STATIC, setting="INT8", cascade=loaded("static-int8"))
    alone = [
        Subject(
            system="smaller static networks",
            setting=f"{share} of the widths",
            cascade=loaded(f"width_{share}", work / "smaller" / "bundles"),
        )
        for share in SHARES
    ]
    yield from _marked(alone, shown, truth, goal)
    for system in dict.fromkeys(system for _, system, _ in BUNDLES.values()):
        places: list[Subject] = []
        for name, (model, called, _) in BUNDLES.items():
            if called != system:
                continue
            cascade = loaded(name)
            flow = cascade.flow
            if flow.settings:
                places += [
                    Subject(
                        system=system,
                        setting=width.replace("_", " "),
                        cascade=cascade,
                        options={"settings": {"width": width}},
                    )
                    for width in flow.settings["width"].choices
                ]
            elif flow.gate is not None or flow.early:
                yield from _along(system, cascade, shown, truth, goal)
            else:
                places.append(Subject(system=system, setting=str(PLANS[model]), cascade=cascade))
        yield from _marked(places, shown, truth, goal)


def _marked(
    ordered: Sequence[Subject], shown: Pixels, truth: npt.NDArray[np.int64], goal: float
) -> list[Subject]:
    """Of a system's places, cheapest first, the first that reaches the goal is marked."""
    enough = [each.accuracy(shown, truth) >= goal for each in ordered]
    first = enough.index(True) if any(enough) else None
    return [
        Subject(
            system=each.system,
            setting=each.setting,
            cascade=each.cascade,
            options=each.options,
            half_a_point=place == first,
        )
        for place, each in enumerate(ordered)
    ]


def _along(
    system: str, cascade: Cascade, shown: Pixels, truth: npt.NDArray[np.int64], goal: float
) -> Iterator[Subject]:
    """The knob of a chain or a gate, at some budgets of time and at the goal."""
    gated, gate = cascade.flow.gate is not None, None
    if gated:
        heard, numbers = zip(*(cascade.all_ways(part) for part in batches_of(shown)), strict=True)
        gate = np.concatenate(numbers)
    else:
        heard = tuple(cascade.all_exits(part) for part in batches_of(shown))
    label = np.concatenate([each.label for each in heard], axis=1)
    confidence = np.concatenate([each.confidence for each in heard], axis=1)
    scores = ExitScores(label=label, confidence=confidence, truth=truth, gate=gate)
    batches = [shown[i : i + 1] for i in range(_TIMED_IMAGES)]
    cost = way_ms(cascade, batches) if gated else np.cumsum(stage_ms(cascade, batches)).tolist()
    grid = np.geomspace(min(cost) * 1.001, max(cost), 60)
    found = [choose_for_budget(scores, float(budget), cost).point for budget in grid]
    enough = [point for point in found if (point.accuracy or 0.0) >= goal]
    chosen = {point.thresholds: point for point in found[:: 60 // _BUDGETS]}
    if enough:
        chosen[enough[0].thresholds] = enough[0]
    for numbers, point in sorted(chosen.items(), key=lambda each: each[1].cost):
        yield Subject(
            system=system,
            setting=" / ".join(f"{100 * share:.0f}%" for share in point.shares),
            cascade=cascade,
            options={"offsets" if gated else "thresholds": numbers},
            half_a_point=bool(enough) and numbers == enough[0].thresholds,
        )


def measured(
    subjects: Sequence[Subject], images: Pixels, truth: npt.NDArray[np.int64], console: Console
) -> list[dict[str, Any]]:
    """Every subject on every image, one at a time and in batches, each block another one first."""
    single = _timed(subjects, images, 1, console)
    bulk = _timed(subjects, images, _BULK, console)
    (yardstick,) = (
        i for i, each in enumerate(subjects) if each.system == STATIC and each.setting == "float32"
    )
    right = [float((single.said[i] == truth).mean()) for i in range(len(subjects))]
    return [
        {
            "system": each.system,
            "setting": each.setting,
            "half_a_point": each.half_a_point,
            "accuracy": right[i],
            "ms": float(single.ms[i].mean()),
            "times_as_fast": float(single.ms[yardstick].sum() / single.ms[i].sum()),
            "images_per_second": float(1e3 / bulk.ms[i].mean()),
            "times_as_many": float(bulk.ms[yardstick].sum() / bulk.ms[i].sum()),
        }
        for i, each in enumerate(subjects)
    ]


@dataclass(frozen=True, kw_only=True)
class _Timed:
    """What each subject said, [subjects, N], and its milliseconds for an image, [subjects, blocks]."""

    said: npt.NDArray[np.int64]
    ms: npt.NDArray[np.float64]


def _timed(subjects: Sequence[Subject], images: Pixels, batch: int, console: Console) -> _Timed:
    length = max(_BLOCK, batch)
    blocks = [images[start : start + length] for start in range(0, len(images), length)]
    ms = np.zeros((len(subjects), len(blocks)))
    said = np.zeros((len(subjects), len(images)), np.int64)
    progress = console.phase("one at a time" if batch == 1 else "in batches", "blocks of images")
    for number, block in enumerate(blocks):
        parts = [block[start : start + batch] for start in range(0, len(block), batch)]
        for which in np.roll(np.arange(len(subjects)), number).tolist():
            answer = subjects[which].answer
            answer(parts[0])
            start = time.perf_counter()
            found = [answer(part) for part in parts]
            ms[which, number] = 1e3 * (time.perf_counter() - start) / len(block)
            said[which, number * length : number * length + len(block)] = np.concatenate(found)
        progress(number + 1, len(blocks), "")
    return _Timed(said=said, ms=ms)


# --- what is shown ------------------------------------------------------------------------------------------

_HEAD = (
    "| system | setting | accuracy | below static | mean ms | times as fast | images/s | times as many |",
    "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The record as a Markdown table; what is taken at half a point is in bold."""
    static = rows[0]["accuracy"]
    return "\n".join([*_HEAD, *(_line(row, static) for row in rows)]) + "\n"


def brief(rows: Sequence[Mapping[str, Any]]) -> str:
    """Of each system only what is taken at half a point, the fastest first; and the static network."""
    kept = sorted((row for row in rows if row["half_a_point"]), key=lambda row: -float(row["times_as_fast"]))
    plain = [{**row, "half_a_point": False} for row in (*rows[:2], *kept)]
    return table(plain)


def _line(row: Mapping[str, Any], static: float) -> str:
    mark = "**" if row["half_a_point"] else ""
    return (
        f"| {row['system']} | {mark}{row['setting']}{mark} | {100 * row['accuracy']:.2f}% "
        f"| {100 * (static - row['accuracy']):.2f} | {row['ms']:.3f} | {row['times_as_fast']:.2f} "
        f"| {row['images_per_second']:,.0f} | {row['times_as_many']:.2f} |"
    )


_TICKS = (0.25, 0.5, 0.75, 1, 1.5)


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Accuracy over time of an image, and over time of many: a line for each system."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasSVG(figure)
    systems = list(dict.fromkeys(row["system"] for row in rows))
    both = figure.subplots(1, 2, sharey=True)
    for axes, key, label in (
        (both[0], "times_as_fast", "mean time of an image, one at a time"),
        (both[1], "times_as_many", f"time of an image in batches of {_BULK}"),
    ):
        for i, system in enumerate(systems):
            points = sorted((1 / row[key], 100 * row["accuracy"]) for row in rows if row["system"] == system)
            axes.plot(
                *zip(*points, strict=True),
                marker="os^D"[i % 4],
                linestyle="" if system == STATIC else "-",
                color=colormaps["tab10"](i % 10),
                label=system,
            )
        axes.set_xscale("log")
        axes.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(f"{label}, over the static network's")
        axes.grid(visible=True, which="both", alpha=0.3)
    both[0].set_ylabel("accuracy on the test images, %")
    both[0].legend(fontsize="small")
    figure.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
