"""A whole export: from a chain to a bundle that has been verified.

Place in the flow: what `s2dnas-export` does. Everything is made and checked in memory; only a bundle that
answers as the network does is written, and then all at once.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from s2dnas_deploy import __version__
from s2dnas_deploy.bundle.bundle import CARD, LABELS, MACS, MANIFEST, PLAN, VERIFICATION
from s2dnas_deploy.bundle.card import readme
from s2dnas_deploy.bundle.entries import Expected, GraphFile, StageEntry, Tensor
from s2dnas_deploy.bundle.exits import Exit
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.bundle.saving import check_replaceable, save_bundle
from s2dnas_deploy.bundle.signature import Signer
from s2dnas_deploy.decide.flow import Flow
from s2dnas_deploy.decide.flow import chain as chain_flow
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.reporter import Reporter, counted
from s2dnas_deploy.sessions.every_stage import Array, whole_batch
from s2dnas_deploy.workshop.export.chain import Chain
from s2dnas_deploy.workshop.export.checks.expect import answers_of, before_and_after, expected_of
from s2dnas_deploy.workshop.export.checks.verify import verify, verify_single_file
from s2dnas_deploy.workshop.export.graphs.quantise import quantise_chain
from s2dnas_deploy.workshop.export.graphs.simplify import check, simplify
from s2dnas_deploy.workshop.export.graphs.single_file import nest
from s2dnas_deploy.workshop.export.graphs.stage_graph import GraphForm, StageGraph, to_onnx
from s2dnas_deploy.workshop.export.options import ExportOptions
from s2dnas_deploy.workshop.export.samples import ExportImages, Pixels, made_up, normalised

SINGLE_FILE = "cascade.onnx"


@dataclass(frozen=True, kw_only=True)
class Export:
    """All that decides a bundle's content: what is exported, how, judged on what, and where it came from."""

    chain: Chain
    options: ExportOptions = field(default_factory=ExportOptions)
    images: ExportImages | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.options.precision == "int8" and self.images is None:
            raise OptionError("--int8 measures the range of every feature on real images: give --data")
        broken = [name for name in self.chain.class_names if len(name.splitlines()) != 1]
        if broken:
            raise OptionError(f"class name {broken[0]!r}: expected some text on one line")

    @property
    def exits(self) -> tuple[Exit, ...]:
        """The confidence of each exit."""
        return self.options.exits(len(self.chain.links))

    @property
    def flow(self) -> Flow:
        """One stage after the other, each with its exit."""
        links = self.chain.links
        return chain_flow(
            [
                (_stage_name(k), link.read_names, [feature.name for feature in link.gives])
                for k, link in enumerate(links)
            ],
            self.options.early(len(links)),
        )

    def taken(self, images: Pixels) -> Array:
        """Images as the graphs take them: bytes as they are, or the numbers that the network reads."""
        return normalised(images, self.chain.preprocessing) if self.options.float_input else images


def write_bundle(export: Export, out: Path, reporter: Reporter, signer: Signer | None = None) -> Manifest:
    """Make the bundle, verify it, and write it to `out`, signed if need be; its manifest."""
    check_replaceable(out)
    shown = export.images.validation if export.images is not None else made_up(export.chain.preprocessing)
    graphs = _stage_graphs(export, half=export.options.precision == "float16")
    models, remarks = _written(graphs, export.taken(shown[:2]), reporter)
    if export.options.precision == "int8":
        models = _quantised(export, models, reporter)
    content = _files(export, models)
    files = list(content.values())[: len(models)]
    reporter.say(f"verifying {len(models)} stages on {len(shown)} images")
    verification = verify(
        export.chain,
        graphs,
        files,
        shown,
        images_are="made up: no --data was given" if export.images is None else f"of {export.images.source}",
        precision=export.options.precision,
        flow=export.flow,
    )
    if export.options.single_file:
        verify_single_file(content[SINGLE_FILE], files, export.flow, export.taken(shown))
    expected, table = _judged(export, files, reporter)
    manifest = _manifest(export, graphs, models, content, expected)
    texts = {
        MANIFEST: manifest.to_json(),
        LABELS: "".join(f"{label}\n" for label in manifest.labels),
        CARD: readme(manifest),
        VERIFICATION: "\n".join([verification.report(), *table, *remarks]).rstrip() + "\n",
    }
    if export.chain.plan is not None:
        texts[PLAN] = export.chain.plan.to_json()
    save_bundle({**content, **{name: text.encode() for name, text in texts.items()}}, out, signer)
    return manifest


# --- graphs ------------------------------------------------------------------------------------------------


def _stage_graphs(export: Export, *, half: bool) -> list[StageGraph]:
    options = export.options
    form = GraphForm(
        preprocessing=export.chain.preprocessing,
        float_input=options.float_input,
        half=half,
        gather=options.gather,
        opset=options.opset,
    )
    pairs = zip(export.chain.links, export.exits, strict=True)
    return [StageGraph(link, rule, form, first=k == 0) for k, (link, rule) in enumerate(pairs)]


def _written(
    graphs: Sequence[StageGraph], images: Array, reporter: Reporter
) -> tuple[list[ModelProto], list[str]]:
    """Every stage as ONNX, simplified where that leaves it the same; and remarks where it does not."""
    models, remarks = [], []
    progress = counted(reporter.phase("exporting"))
    values = whole_batch(images, len(graphs))
    for k, graph in enumerate(graphs):
        model = to_onnx(graph)
        check(model)
        result = simplify(model, values)
        if result.kept_because:
            remarks.append(f"stage_{k}.onnx is not simplified: {result.kept_because}.")
        values.update(result.outputs)
        models.append(result.model)
        progress(k + 1, len(graphs))
    return models, remarks


def _quantised(export: Export, models: Sequence[ModelProto], reporter: Reporter) -> list[ModelProto]:
    assert export.images is not None, "checked when the export was made"
    images = export.taken(export.images.calibration)
    return quantise_chain(models, images, counted(reporter.phase("quantising")))


def _files(export: Export, models: Sequence[ModelProto]) -> dict[str, bytes]:
    """The stages' files in order, and then the single file if one is wanted."""
    named = {_stage_file(k): model for k, model in enumerate(models)}
    if export.options.single_file:
        named[SINGLE_FILE] = nest(models, export.flow, len(export.chain.class_names))
    macs = {_stage_file(k): link.macs for k, link in enumerate(export.chain.links)}
    for name, model in named.items():
        _describe(model, export.chain, name, macs.get(name))
    return {name: model.SerializeToString() for name, model in named.items()}


def _stage_name(stage: int) -> str:
    return f"stage_{stage}"


def _stage_file(stage: int) -> str:
    return f"{_stage_name(stage)}.onnx"


def _describe(model: ModelProto, chain: Chain, name: str, macs: int | None) -> None:
    """Labels, preprocessing and MACs in the graph's own metadata, for whoever has only that file."""
    del model.metadata_props[:]
    about = {
        "s2dnas.name": chain.name,
        "s2dnas.graph": f"{name} of {len(chain.links)} stages",
        "s2dnas.labels": json.dumps(list(chain.class_names)),
        "s2dnas.preprocessing": json.dumps(chain.preprocessing.to_document()),
    }
    if macs is not None:
        about[MACS] = str(macs)
    onnx.helper.set_model_props(model, about)
    model.producer_name, model.producer_version = "s2dnas_deploy", __version__


# --- what to expect ----------------------------------------------------------------------------------------


def _judged(export: Export, files: Sequence[bytes], reporter: Reporter) -> tuple[Expected | None, list[str]]:
    """What the bundle reaches on labelled images, and how that compares with float32."""
    if export.images is None:
        return None, []
    images, labels = export.taken(export.images.validation), export.images.labels
    answers = answers_of(files, images)
    expected = expected_of(answers, labels, export.flow, [link.macs for link in export.chain.links])
    if export.options.precision == "float32":
        return expected, []
    models, _ = _written(_stage_graphs(export, half=False), images[:2], reporter)
    before = answers_of([model.SerializeToString() for model in models], images)
    return expected, [before_and_after(before, answers, labels, export.options.precision)]


# --- the manifest ------------------------------------------------------------------------------------------


def _manifest(
    export: Export,
    graphs: Sequence[StageGraph],
    models: Sequence[ModelProto],
    content: Mapping[str, bytes],
    expected: Expected | None,
) -> Manifest:
    chain, options, flow = export.chain, export.options, export.flow
    outputs = {value.name: value for model in models for value in model.graph.output}
    return Manifest(
        name=chain.name,
        precision=options.precision,
        image_type="float32" if options.float_input else "uint8",
        preprocessing=chain.preprocessing,
        labels=chain.class_names,
        tensors={name: _tensor(outputs[name]) for stop in flow.stops for name in stop.gives},
        start=flow.start,
        stages=tuple(
            StageEntry(
                name=stop.name,
                graph=_graph_file(_stage_file(k), content),
                reads=stop.reads,
                gives=stop.gives,
                rows=graph.rows,
                exit=graph.exit,
                macs=graph.link.macs,
                then=stop.then,
            )
            for k, (stop, graph) in enumerate(zip(flow.stops, graphs, strict=True))
        ),
        single_file=_graph_file(SINGLE_FILE, content) if options.single_file else None,
        expected=expected,
        tools=_tools(),
        sources=export.sources,
    )


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    name = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    return Tensor(type=name, shape=tuple(d.dim_value for d in kind.shape.dim[1:]))


def _graph_file(name: str, content: Mapping[str, bytes]) -> GraphFile:
    sha256 = hashlib.sha256(content[name]).hexdigest()
    return GraphFile(file=name, sha256=sha256, size_bytes=len(content[name]))


def _tools() -> dict[str, str]:
    names = ("torch", "onnx", "onnxruntime", "onnxsim", "numpy")
    return {"s2dnas_deploy": __version__, **{name: version(name) for name in names}}
