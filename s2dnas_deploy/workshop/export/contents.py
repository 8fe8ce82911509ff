"""What a bundle holds: the manifest and every file, as bytes that nothing has written yet.

Place in the flow: `Draft`, verified ──▶ `Contents` ──save_bundle──▶ a folder.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import onnx

from s2dnas_deploy import __version__
from s2dnas_deploy.bundle.bundle import CARD, LABELS, MANIFEST, PLAN, VERIFICATION
from s2dnas_deploy.bundle.card import readme
from s2dnas_deploy.bundle.entries import GraphFile, StageEntry, Tensor
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.workshop.export.draft import Draft, StageDraft

SINGLE_FILE = "cascade.onnx"


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A whole bundle in memory: its manifest, and its files by name."""

    manifest: Manifest
    files: Mapping[str, bytes]


def contents_of(draft: Draft) -> Contents:
    """The files of a finished draft."""
    graphs = {stage.file: stage.content for stage in draft.stages}
    if draft.single_file is not None:
        graphs[SINGLE_FILE] = draft.single_file.SerializeToString()
    manifest = _manifest(draft, graphs)
    remarks = [stage.remark for stage in draft.stages if stage.remark]
    texts = {
        MANIFEST: manifest.to_json(),
        LABELS: "".join(f"{label}\n" for label in manifest.labels),
        CARD: readme(manifest),
        VERIFICATION: "\n".join([*draft.report, *remarks]).rstrip() + "\n",
    }
    if draft.export.network.plan is not None:
        texts[PLAN] = draft.export.network.plan.to_json()
    return Contents(
        manifest=manifest, files={**graphs, **{name: text.encode() for name, text in texts.items()}}
    )


def _manifest(draft: Draft, graphs: Mapping[str, bytes]) -> Manifest:
    export, flow = draft.export, draft.export.flow
    return Manifest(
        name=export.network.name,
        precision=export.options.precision,
        image_type="float32" if export.options.float_input else "uint8",
        preprocessing=export.network.preprocessing,
        labels=export.network.class_names,
        tensors={name: tensor for stage in draft.stages for name, tensor in _tensors(stage).items()},
        start=flow.start,
        stages=tuple(
            StageEntry(
                name=stop.name,
                graph=_graph_file(stage.file, graphs[stage.file]),
                reads=stop.reads,
                gives=stop.gives,
                outputs={name: output for name, output in stage.graph.outputs.items() if name != output},
                rows=stage.graph.rows,
                exit=stage.graph.exit,
                macs=stage.graph.link.macs,
                then=stop.then,
            )
            for stop, stage in zip(flow.stops, draft.stages, strict=True)
        ),
        settings=draft.settings,
        single_file=_graph_file(SINGLE_FILE, graphs[SINGLE_FILE]) if SINGLE_FILE in graphs else None,
        expected=draft.expected,
        tools=_tools(),
        sources=export.sources,
    )


def _tensors(stage: StageDraft) -> dict[str, Tensor]:
    """What a stage gives, as its graph says."""
    outputs = {value.name: value for value in stage.model.graph.output}
    return {name: _tensor(outputs[stage.graph.outputs[name]]) for name in stage.graph.link.gives}


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    name = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    return Tensor(type=name, shape=tuple(d.dim_value for d in kind.shape.dim[1:]))


def _graph_file(name: str, content: bytes) -> GraphFile:
    return GraphFile(file=name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def _tools() -> dict[str, str]:
    names = ("torch", "onnx", "onnxruntime", "onnxsim", "numpy")
    return {"s2dnas_deploy": __version__, **{name: version(name) for name in names}}
