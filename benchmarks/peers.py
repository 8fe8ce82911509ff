r"""What else could one run? Accuracy and latency of every alternative, on the same images in one run.

    python benchmarks/peers.py --network NAME=MODEL.pt --static STATIC.pt --data DIR --work DIR --record peers

The static network in onnxruntime and OpenVINO, float32 and INT8, in PyTorch eager and compiled; the
cascade as stages, in one file, and in INT8; a cascade of two separate networks; `earlyon` on the same
static network; and smaller static networks of the same family, trained by the same recipe from the same
teacher: the comparison that decides whether dynamic inference is worth it at all. What has to be trained
is kept in the work folder. With `--only`, some kinds of peers are measured beside the static network, and
take the place of those rows in the record.

Thresholds are chosen on validation images: the cheapest that are, there, at most so much less accurate
than the static network. Accuracy is then counted on test images, and the time taken in alternating blocks
on the same ones: one CPU thread, one image at a time, from bytes in memory to a class.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from itertools import chain, product
from math import hypot
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx
import torch
from earlyon_peer import calibrated, earlyon_networks
from labels import Box, Curve, nearest_in, placed
from machine import machine
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from pages import RESULTS, check_place, put_record
from sessions import BoundSessions, answers_of, bundle_of, images_from, pixels, splits_of
from smaller_networks import SHARES, smaller_network
from thresholds import cheapest, exit_accuracy, menus_of, scores_from
from torch import Tensor

from s2dnas_deploy.bundle.bundle import Bundle
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.cli.console import Console
from s2dnas_deploy.decide.rules import CONFIDENCE
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.decide.thresholds import in_points
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.export.graphs.single_file import nest
from s2dnas_deploy.workshop.export.samples import ExportImages, Pixels
from s2dnas_deploy.workshop.network.model_file import Model, load_model
from s2dnas_deploy.workshop.network.network import as_static
from s2dnas_deploy.workshop.reading.source import build_network
from s2dnas_deploy.workshop.training.settings import Settings

PICTURES = Path(__file__).parents[1] / "docs"
DROPS = (0.0, 0.5, 1.0)
KINDS = ("static", "torch", "cascades", "two", "smaller", "earlyon")
YARDSTICK = "static network, onnxruntime"
_BLOCK = 50
_STATIC, _IN_ONE_FILE, _INT8 = "static network", ", in one file (If)", ", INT8"
_STANDS_OFF = 12
Answer = Callable[[Pixels], int]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Something that answers one image, uint8 [H, W, C], with a class."""

    name: str
    family: str
    answer: Answer


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What all peers are made from."""

    static: Model
    cascades: dict[str, Model]
    samples: ExportImages
    splits: ImageSplits
    goal: float
    """The static network's accuracy on the validation images."""
    shares: Sequence[str]
    work: Path
    console: Console

    def smaller(self) -> dict[str, Model]:
        """The smaller networks, each by its share of the widths, or of widths x blocks."""
        kept = (self.splits, self.work, self.console)
        return {share: smaller_network(self.static, share, *kept) for share in self.shares}


@click.command()
@click.option("--network", "networks", multiple=True, help="NAME=MODEL.pt; several have stages.")
@click.option("--static", "static_path", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--data", required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--timed", type=int, default=10000, show_default=True, help="So many test images.")
@click.option(
    "--share", "shares", multiple=True, default=SHARES, help="Of the widths, or of widths x blocks."
)
@click.option("--only", type=click.Choice(KINDS), multiple=True, help="Kinds of peers.  [default: all]")
@click.option("--record", metavar="NAME", help="Also write the record, table and picture of this name.")
def main(
    networks: tuple[str, ...],
    static_path: Path,
    data: str,
    *,
    work: Path,
    timed: int,
    shares: tuple[str, ...],
    only: tuple[str, ...],
    record: str | None,
) -> None:
    """Print accuracy and mean time of every peer."""
    if record:
        check_place(record)
    static = load_model(static_path)
    cascades = {name: load_model(Path(path)) for name, _, path in (each.partition("=") for each in networks)}
    splits = splits_of(static, data)
    assert splits.test is not None, "the data has no test images"
    chosen = splits.test.evenly(timed)  # of every class, for folders come one after the other
    shown, truth = pixels(chosen), chosen.labels.numpy()
    samples = images_from(data, static)
    bundle = bundle_of(static, samples, split=False, precision="float32")
    with Console() as console:
        compared = Compared(
            static=static,
            cascades=cascades,
            samples=samples,
            splits=splits,
            goal=exit_accuracy(_scores(bundle, splits.val))[0],
            shares=shares,
            work=work,
            console=console,
        )
        peers = list(_peers(compared, only))
        torch.set_num_threads(1)  # from here on, time is taken
        rows = _measured(peers, shown, truth, console)
    result = RESULTS / f"{record}.json"
    if record and only and result.exists():
        rows = _merged(json.loads(result.read_text())["rows"], rows)
    content = {"rows": rows, "images": len(shown), "machine": machine()}
    content["versions"] = {name: version(name) for name in ("onnxruntime", "openvino", "torch", "earlyon")}
    click.echo(table(content))
    if record:
        put_record(record, content, table(content))
        draw(rows, PICTURES / f"{record}.svg")


def _peers(compared: Compared, only: Sequence[str]) -> Iterator[Peer]:
    """Those asked for, after the static network in onnxruntime, the yardstick of all."""
    makers = (_static_peers, _torch_peers, _cascades, _two_networks, _smaller, _earlyon)
    chosen = [make for kind, make in zip(KINDS, makers, strict=True) if not only or kind in only]
    peers = list(chain.from_iterable(make(compared) for make in chosen))
    if not any(peer.name == YARDSTICK for peer in peers):
        yield next(_static_peers(compared))
    yield from peers


def _merged(before: Sequence[dict[str, Any]], measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of an earlier run, but those that were measured now; both have the same yardstick."""
    new = {row["name"]: row for row in measured if row["name"] != YARDSTICK}
    return [new.pop(row["name"], row) for row in before] + list(new.values())


def _scores(bundle: Bundle, images: LabelledImages) -> ExitScores:
    return scores_from(answers_of(bundle.graphs, pixels(images)), images.labels.numpy())


# --- the peers ----------------------------------------------------------------------------------------------


def _static_peers(compared: Compared) -> Iterator[Peer]:
    """The static network's own file, in two runtimes and two precisions."""
    for precision, shown in (("float32", ""), ("int8", ", INT8")):
        bundle = bundle_of(compared.static, compared.samples, split=False, precision=precision)
        (graph,) = bundle.graphs
        for runtime, run in (("onnxruntime", in_onnxruntime), ("OpenVINO", in_openvino)):
            name = f"static network, {runtime}{shown}"
            yield Peer(name=name, family="static network", answer=run(graph))


def in_onnxruntime(graph: bytes) -> Answer:
    """One session, bound once."""
    sessions = BoundSessions([graph])
    return lambda image: sessions.answer(image, ())[0]


def in_openvino(graph: bytes) -> Answer:
    """The same file, compiled by OpenVINO for latency on one thread."""
    import openvino

    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    network = core.read_model(graph)
    network.reshape([1, *(size.get_length() for size in list(network.inputs[0].partial_shape)[1:])])
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    label = next(output for output in request.model_outputs if "label" in output.names)

    def answer(image: Pixels) -> int:
        request.infer([image[None]], share_inputs=True)
        return int(request.get_tensor(label).data[0])

    return answer


def _torch_peers(compared: Compared) -> Iterator[Peer]:
    network = _as_module(compared.static)
    taken = _to_torch(compared.static.preprocessing)
    compiled = torch.compile(network, mode="max-autotune-no-cudagraphs")
    for how, module in (("eager", network), ("compiled", compiled)):
        name = f"static network, PyTorch {how}"
        yield Peer(name=name, family="static network", answer=in_torch(module, taken))


def in_torch(network: Callable[[Tensor], Tensor], taken: Callable[[Pixels], Tensor]) -> Answer:
    """Without gradients; normalising included, as the graphs include it."""

    @torch.inference_mode()
    def answer(image: Pixels) -> int:
        return int(network(taken(image)).argmax())

    return answer


def _as_module(static: Model) -> torch.nn.Module:
    """The user's own module, with the weights that were trained."""
    about = static.provenance
    module = build_network(about["network"], about["network_arguments"]).float()
    module.load_state_dict(dict(as_static(static.network).weights), strict=False)
    return module.eval()


def _to_torch(preprocessing: Preprocessing) -> Callable[[Pixels], Tensor]:
    mean, std = (torch.tensor(each).reshape(-1, 1, 1) for each in (preprocessing.mean, preprocessing.std))
    return lambda image: ((torch.from_numpy(image).permute(2, 0, 1).float() / 255 - mean) / std)[None]


def _cascades(compared: Compared) -> Iterator[Peer]:
    """The cascades by this package's runtime, at each allowed drop; INT8; and all in one file with `If`s."""
    for (shown, model), precision in product(compared.cascades.items(), ("float32", "int8")):
        family = f"cascade, {shown}" + ", INT8" * (precision == "int8")
        bundle = bundle_of(model, compared.samples, split=False, precision=precision)
        scores, macs = _scores(bundle, compared.splits.val), np.cumsum(bundle.manifest.macs)
        for drop in DROPS:
            left = cheapest(scores, compared.goal - drop / 100, macs.tolist(), menus_of(scores))
            name = f"{family}, {in_points(drop / 100)} allowed"
            yield Peer(name=name, family=family, answer=by_cascade(bundle, left.thresholds))
            if precision == "float32" and drop == DROPS[0]:
                whole = f"{family}, in one file (If)"
                answer = in_onnxruntime(_nested(bundle, left.thresholds))
                yield Peer(name=f"{whole}, {in_points(drop / 100)} allowed", family=whole, answer=answer)


def by_cascade(bundle: Bundle, thresholds: Sequence[float]) -> Answer:
    """What a user calls."""
    cascade = Cascade(bundle, provider="cpu", threads=1)
    return lambda image: int(cascade.predict(image[None], thresholds=thresholds).label[0])


def _nested(bundle: Bundle, thresholds: Sequence[float]) -> bytes:
    flow = bundle.manifest.flow.with_thresholds(thresholds)
    models = [onnx.load_from_string(graph) for graph in bundle.graphs]
    whole: bytes = nest(models, flow, len(bundle.manifest.labels)).SerializeToString()
    return whole


def _two_networks(compared: Compared) -> Iterator[Peer]:
    """A small network first, the static network for those it is not sure of: nothing is shared."""
    whole = bundle_of(compared.static, compared.samples, split=False, precision="float32")
    surely = _scores(whole, compared.splits.val)
    for share, model in compared.smaller().items():
        first = bundle_of(model, compared.samples, split=False, precision="float32")
        scores = _joined(_scores(first, compared.splits.val), surely)
        cost = np.cumsum([*first.manifest.macs, *whole.manifest.macs]).tolist()
        for drop in DROPS:
            (threshold,) = cheapest(scores, compared.goal - drop / 100, cost, menus_of(scores)).thresholds
            yield Peer(
                name=f"two networks, {share} and 1 of the widths, {in_points(drop / 100)} allowed",
                family=f"two networks, {share} first",
                answer=_either(first, whole, threshold),
            )


def _either(first: Bundle, second: Bundle, threshold: float) -> Answer:
    small, large = BoundSessions(first.graphs), BoundSessions(second.graphs)

    def answer(image: Pixels) -> int:
        label, _ = small.answer(image, ())
        return label if small.arrays[CONFIDENCE][0] >= threshold else large.answer(image, ())[0]

    return answer


def _joined(first: ExitScores, second: ExitScores) -> ExitScores:
    return ExitScores(
        label=np.concatenate([first.label, second.label]),
        confidence=np.concatenate([first.confidence, second.confidence]),
        truth=first.truth,
    )


def _smaller(compared: Compared) -> Iterator[Peer]:
    for share, model in compared.smaller().items():
        (graph,) = bundle_of(model, compared.samples, split=False, precision="float32").graphs
        name = f"smaller static network, {share} of the widths"
        yield Peer(name=name, family="smaller static networks", answer=in_onnxruntime(graph))


def _earlyon(compared: Compared) -> Iterator[Peer]:
    static = compared.static
    networks = earlyon_networks(
        _as_module(static),
        compared.splits,
        preprocessing=static.preprocessing,
        settings=Settings(**static.provenance["settings"]),
        work=compared.work,
        console=compared.console,
    )
    taken = _to_torch(static.preprocessing)
    for how, wrapper in networks.items():
        for drop in DROPS:
            staged = calibrated(wrapper, compared.splits.val, static.preprocessing, drop / 100)
            name = f"earlyon, {how}, {in_points(drop / 100)} allowed"
            yield Peer(name=name, family=f"earlyon, {how}", answer=_staged(staged, taken))


def _staged(staged: Any, taken: Callable[[Pixels], Tensor]) -> Answer:
    return lambda image: int(staged.infer(taken(image)).prediction.argmax())


# --- the measurement ----------------------------------------------------------------------------------------


def _measured(
    peers: Sequence[Peer], images: Pixels, truth: npt.NDArray[np.int64], console: Console
) -> list[dict[str, Any]]:
    """Every peer on every image, a block after the other, each time another one first."""
    taken = np.zeros((len(peers), -(-len(images) // _BLOCK)))
    said = np.zeros((len(peers), len(images)), np.int64)
    progress = console.phase("timing", "blocks of images")
    for number in range(taken.shape[1]):
        rows = range(number * _BLOCK, min((number + 1) * _BLOCK, len(images)))
        for which in np.roll(np.arange(len(peers)), number).tolist():
            answer = peers[which].answer
            answer(images[rows[0]])
            start = time.perf_counter()
            for row in rows:
                said[which, row] = answer(images[row])
            taken[which, number] = 1e3 * (time.perf_counter() - start) / len(rows)
        progress(number + 1, taken.shape[1], "")
    (yardstick,) = (i for i, peer in enumerate(peers) if peer.name == YARDSTICK)
    return [
        {
            "name": peer.name,
            "family": peer.family,
            "date": str(date.today()),
            "accuracy": float((said[i] == truth).mean()),
            "ms": float(taken[i].mean()),
            "over_static": float(taken[i].sum() / taken[yardstick].sum()),
            "blocks_ms": np.round(taken[i], 5).tolist(),
        }
        for i, peer in enumerate(peers)
    ]


def table(record: dict[str, Any]) -> str:
    """The record as a Markdown table, fastest first."""
    lines = ["| network | accuracy | mean ms | over the static network |", "| --- | ---: | ---: | ---: |"]
    for row in sorted(record["rows"], key=lambda row: float(row["over_static"])):
        lines.append(
            f"| {row['name']} | {100 * row['accuracy']:.2f}% | {row['ms']:.3f} | {row['over_static']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Accuracy against time: a line for each family that has several peers, named beside it."""
    figure = Figure(figsize=(10, 6.5), layout="constrained", dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(_names(rows))
    for name in names:
        axes.plot(
            *zip(*name.points, strict=True), color=name.colour, marker=name.marker, linestyle=name.line,
            markersize=5, markerfacecolor="white" if name.is_hollow else name.colour,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.08, y=0.1)
    axes.set_xlabel("mean time of an image over the static network's in onnxruntime (one CPU thread)")
    axes.set_ylabel("accuracy on the test images, %")
    axes.grid(visible=True, alpha=0.3)
    # Which settles where everything lies, and how large words are.
    canvas.draw()  # type: ignore[no-untyped-call]
    figure.set_layout_engine("none")
    _write_names(names, axes, canvas)
    with rc_context({"svg.hashsalt": path.stem}):  # else a picture of the same record is another file
        figure.savefig(path, format="svg", metadata={"Date": None})


@dataclass(frozen=True, kw_only=True)
class _Name:
    """What is named in the picture, and how it is drawn: a family, or of static networks each runtime."""

    words: str
    points: tuple[tuple[float, float], ...]
    colour: Any
    marker: str
    line: str
    is_hollow: bool


def _names(rows: Sequence[dict[str, Any]]) -> Iterator[_Name]:
    """In INT8 and in one file, a cascade has the colour that it has in stages."""
    families = dict.fromkeys(row["family"] for row in rows)
    kinds = list(dict.fromkeys(_kind(family) for family in families))
    for family in families:
        points = [
            (row["over_static"], 100 * row["accuracy"], row["name"])
            for row in rows
            if row["family"] == family
        ]
        is_static = family == _STATIC
        groups = [[point] for point in points] if is_static else [sorted(points)]
        for group in groups:
            words = group[0][2].replace(_STATIC, "static") if is_static else family
            yield _Name(
                words=words,
                points=tuple((over, right) for over, right, _ in group),
                colour="black" if is_static else colormaps["tab10"](kinds.index(_kind(family)) % 10),
                marker="s" if is_static else "D" if family.endswith(_IN_ONE_FILE) else "o",
                line="--" if family.endswith(_INT8) else "-",
                is_hollow=words.endswith(_INT8),
            )


def _kind(family: str) -> str:
    """What it is, whatever its form."""
    return family.removesuffix(_INT8).removesuffix(_IN_ONE_FILE)


def _write_names(names: Sequence[_Name], axes: Axes, canvas: FigureCanvasAgg) -> None:
    """Each name beside its points, with a thin line to them where it stands off."""
    renderer, curves = canvas.get_renderer(), []  # type: ignore[no-untyped-call]
    for name in names:
        measured = axes.text(0.5, 0.5, name.words, fontsize=8, transform=axes.transAxes)
        size = measured.get_window_extent(renderer)
        measured.remove()
        points = tuple((float(x), float(y)) for x, y in axes.transData.transform(np.array(name.points)))
        curves.append(Curve(points=points, size=(size.width, size.height)))
    frame = axes.get_window_extent(renderer)
    within = Box(left=frame.x0 + 3, bottom=frame.y0 + 3, right=frame.x1 - 3, top=frame.y1 - 3)
    back = axes.transData.inverted()
    for name, label in zip(names, placed(curves, within), strict=True):
        box, end = label.box, nearest_in(label.box, label.beside)
        x, y = back.transform((box.left, box.bottom))
        axes.text(x, y, name.words, fontsize=8, color=name.colour, va="bottom", ha="left")
        if hypot(end[0] - label.beside[0], end[1] - label.beside[1]) > _STANDS_OFF:
            way = back.transform(np.array([label.beside, end]))
            axes.plot(*way.T, color=name.colour, linewidth=0.5, scalex=False, scaley=False)


if __name__ == "__main__":
    main()
