"""A bundle whose exits are as sure as its images say: to test decisions on scores made by hand.

Image [S + 1, 1, 1] in floats: channel k is the confidence of exit k, the last channel is who it is. Stage 0
hands all of it on as a feature, and later stages read nothing else; so a sample that gets another's features
shows.
"""

import hashlib
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from s2dnas_deploy.bundle.bundle import Bundle, load_bundle
from s2dnas_deploy.bundle.card import readme
from s2dnas_deploy.bundle.exits import ExitRule
from s2dnas_deploy.bundle.manifest import GraphFile, Manifest, StageEntry, TensorSpec
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.bundle.saving import save_bundle

CLASSES = 1000


def scored_bundle(folder: Path, thresholds=(0.5, 0.5), *, gathers: bool = False) -> Bundle:
    """A bundle of one stage more than there are thresholds."""
    stages = len(thresholds) + 1
    graphs = [_graph(k, stages, gathers=gathers) for k in range(stages)]
    told = TensorSpec(name="told", type="float32", shape=(stages + 1,))
    manifest = Manifest(
        name="scored",
        precision="float32",
        image_type="float32",
        gathers=gathers,
        preprocessing=Preprocessing(
            input_shape=(stages + 1, 1, 1), mean=(0.0,) * (stages + 1), std=(1.0,) * (stages + 1)
        ),
        labels=tuple(f"sample {i}" for i in range(CLASSES)),
        stages=tuple(
            StageEntry(
                graph=GraphFile(
                    file=f"stage_{k}.onnx",
                    sha256=hashlib.sha256(graph).hexdigest(),
                    size_bytes=len(graph),
                ),
                reads_image=k == 0,
                reads=() if k == 0 else (told,),
                gives=(told,) if k == 0 else (),
                exit=ExitRule(rule="max_prob", threshold=(*thresholds, None)[k]),
                macs=10 ** (k + 1),
            )
            for k, graph in enumerate(graphs)
        ),
    )
    texts = {
        "manifest.json": manifest.to_json(),
        "labels.txt": "".join(f"{label}\n" for label in manifest.labels),
        "README.md": readme(manifest),
        "verification.txt": "made by hand\n",
    }
    files = {name: text.encode() for name, text in texts.items()}
    save_bundle({**files, **{f"stage_{k}.onnx": graph for k, graph in enumerate(graphs)}}, folder)
    return load_bundle(folder)


def images_of(scores: np.ndarray) -> np.ndarray:
    """Images [N, S + 1, 1, 1] for confidences [N, S]; sample i is of class i."""
    who = np.arange(len(scores), dtype=np.float32)[:, None] % CLASSES
    return np.concatenate([scores.astype(np.float32), who], axis=1)[:, :, None, None]


def with_images(folder: Path) -> Path:
    """The folder, with a bundle and 40 images for it in an archive."""
    scored_bundle(folder / "bundle")
    scores = np.random.default_rng(0).random((40, 3))
    np.savez(folder / "images.npz", images=images_of(scores), labels=np.arange(40))
    return folder


def _graph(k: int, stages: int, *, gathers: bool) -> bytes:
    size = stages + 1
    nodes, inputs, outputs = [], [], []
    if k == 0:
        inputs.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", size, 1, 1]))
        nodes.append(helper.make_node("Reshape", ["image", "flat"], ["told"]))
        outputs.append(helper.make_tensor_value_info("told", TensorProto.FLOAT, ["N", size]))
        read = "told"
    else:
        inputs.append(helper.make_tensor_value_info("told", TensorProto.FLOAT, ["N", size]))
        read = "told"
        if gathers:
            inputs.append(helper.make_tensor_value_info("rows_0", TensorProto.INT64, ["M"]))
            nodes.append(helper.make_node("Gather", ["told", "rows_0"], ["chosen"], axis=0))
            read = "chosen"
    nodes += [
        helper.make_node("Gather", [read, "this_exit"], ["confidence"], axis=1),
        helper.make_node("Gather", [read, "who"], ["who_it_is"], axis=1),
        helper.make_node("Cast", ["who_it_is"], ["label"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["confidence", "one"], ["column"]),
        helper.make_node("Tile", ["column", "classes"], ["probabilities"]),
    ]
    rows = "M" if gathers and k else "N"
    outputs += [
        helper.make_tensor_value_info("label", TensorProto.INT64, [rows]),
        helper.make_tensor_value_info("confidence", TensorProto.FLOAT, [rows]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [rows, CLASSES]),
    ]
    constants = {"flat": [-1, size], "one": [1], "classes": [1, CLASSES]}
    initializers = [helper.make_tensor(n, TensorProto.INT64, [len(v)], v) for n, v in constants.items()]
    initializers += [
        helper.make_tensor("this_exit", TensorProto.INT64, [], [k]),
        helper.make_tensor("who", TensorProto.INT64, [], [stages]),
    ]
    graph = helper.make_graph(nodes, f"stage {k}", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()
