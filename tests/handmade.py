"""Bundles written by hand: graphs and a flow, put into a folder as export does."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from s2dnas_deploy.bundle.bundle import Bundle, load_bundle
from s2dnas_deploy.bundle.card import readme
from s2dnas_deploy.bundle.entries import GraphFile, StageEntry, Tensor
from s2dnas_deploy.bundle.exits import Exit
from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.bundle.saving import save_bundle
from s2dnas_deploy.decide.flow import Flow


def handmade_bundle(
    folder: Path,
    flow: Flow,
    graphs: Sequence[bytes],
    *,
    image_shape: tuple[int, int, int],
    tensors: Mapping[str, Tensor] | None = None,
    labels: Sequence[str],
    macs: Sequence[int] = (),
    outputs: Mapping[str, Mapping[str, str]] | None = None,
    rows: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None,
) -> Bundle:
    """A bundle that takes images [C, H, W] in floats as they are; `outputs` and `rows` are by stage."""
    channels = image_shape[0]
    manifest = Manifest(
        name="by hand",
        precision="float32",
        image_type="float32",
        preprocessing=Preprocessing(input_shape=image_shape, mean=(0.0,) * channels, std=(1.0,) * channels),
        labels=tuple(labels),
        tensors=tensors or {},
        start=flow.start,
        stages=tuple(
            StageEntry(
                name=stop.name,
                graph=GraphFile(
                    file=f"{stop.name}.onnx",
                    sha256=hashlib.sha256(graph).hexdigest(),
                    size_bytes=len(graph),
                ),
                reads=stop.reads,
                gives=stop.gives,
                outputs=(outputs or {}).get(stop.name, {}),
                rows=(rows or {}).get(stop.name, {}),
                exit=Exit(rule="max_prob") if stop.answers else None,
                macs=macs[k] if macs else 10,
                then=stop.then,
            )
            for k, (stop, graph) in enumerate(zip(flow.stops, graphs, strict=True))
        ),
        settings=flow.settings,
    )
    texts = {
        "manifest.json": manifest.to_json(),
        "labels.txt": "".join(f"{label}\n" for label in manifest.labels),
        "README.md": readme(manifest),
        "verification.txt": "made by hand\n",
    }
    files = {name: text.encode() for name, text in texts.items()}
    files |= {stage.graph.file: graph for stage, graph in zip(manifest.stages, graphs, strict=True)}
    save_bundle(files, folder)
    return load_bundle(folder)
