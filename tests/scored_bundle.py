"""A bundle whose exits are as sure as its images say: to test decisions on scores made by hand.

Image [S + 1, 1, 1] in floats: channel k is the confidence of exit k, the last channel is who it is. Stage 0
hands all of it on as a feature, and later stages read nothing else; so a sample that gets another's features
shows.
"""

from pathlib import Path

import numpy as np
from handmade import handmade_bundle
from onnx import TensorProto, helper

from s2dnas_deploy.bundle.bundle import Bundle
from s2dnas_deploy.bundle.entries import Tensor
from s2dnas_deploy.decide.flow import IMAGE, chain

CLASSES = 1000


def scored_bundle(folder: Path, thresholds=(0.5, 0.5), *, gathers: bool = False) -> Bundle:
    """A bundle of one stage more than there are thresholds."""
    stages = len(thresholds) + 1
    names = [f"stage_{k}" for k in range(stages)]
    reads, gives = [(IMAGE,), *[("told",)] * (stages - 1)], [("told",), *[()] * (stages - 1)]
    return handmade_bundle(
        folder,
        chain(zip(names, reads, gives, strict=True), thresholds),
        [_graph(k, stages, gathers=gathers) for k in range(stages)],
        image_shape=(stages + 1, 1, 1),
        tensors={"told": Tensor(type="float32", shape=(stages + 1,))},
        labels=[f"sample {i}" for i in range(CLASSES)],
        macs=[10 ** (k + 1) for k in range(stages)],
        rows={name: {"rows_0": ("told",)} for name in names[1:]} if gathers else {},
    )


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
