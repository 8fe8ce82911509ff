"""Graphs that do not give what they say: answers out of all classes, other shapes, failures at run time."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from handmade import handmade_bundle
from onnx import TensorProto, helper, numpy_helper

from s2dnas_deploy.cli import bench, calibrate, run
from s2dnas_deploy.decide.flow import IMAGE, chain
from s2dnas_deploy.errors import BundleError, ProviderError
from s2dnas_deploy.runtime.answers.inputs import Item
from s2dnas_deploy.runtime.bulk import BulkOptions
from s2dnas_deploy.runtime.calibrate.recording import exit_scores
from s2dnas_deploy.runtime.cascade import Cascade

CLASSES = 10
NODES = {
    "label": [helper.make_node("Squeeze", ["who", "one"], ["label"])],
    "confidence": [helper.make_node("Squeeze", ["sure", "one"], ["confidence"])],
    "probabilities": [helper.make_node("Tile", ["sure", "classes"], ["probabilities"])],
}
CONSTANTS = {
    "zero": [0],
    "one": [1],
    "two": [2],
    "three": [3],
    "flat": [-1, 3],
    "classes": [1, CLASSES],
    "wider": [1, CLASSES + 1],
    "vast": [1, 2**58],
}


def graph(**nodes) -> bytes:
    """The class [N, 1] and the confidence [N, 1] are the image's own numbers, if nothing else is said."""
    first = [
        helper.make_node("Reshape", ["image", "flat"], ["numbers"]),
        helper.make_node("Slice", ["numbers", "zero", "one", "one"], ["sure"]),
        helper.make_node("Slice", ["numbers", "two", "three", "one"], ["which"]),
        helper.make_node("Cast", ["which"], ["who"], to=TensorProto.INT64),
    ]
    made = helper.make_graph(
        [*first, *(node for each in {**NODES, **nodes}.values() for node in each)],
        "hostile",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 1, 1])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", CLASSES]),
        ],
        [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in CONSTANTS.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def bundle_of(folder: Path, *graphs: bytes) -> Path:
    """Samples leave by the first of their three numbers, [sure, -, class]."""
    flow = chain([(f"stage_{k}", (IMAGE,), ()) for k in range(len(graphs))], [0.5] * (len(graphs) - 1))
    labels = [f"class {i}" for i in range(CLASSES)]
    return handmade_bundle(folder, flow, graphs, image_shape=(3, 1, 1), labels=labels).folder


def images_of(*classes, sure=0.0) -> np.ndarray:
    return np.array([[sure, 0, c] for c in classes], np.float32)[:, :, None, None]


def add_to_the_class(value: int) -> list:
    """What the image says is answered, and then some."""
    return [
        helper.make_node("Constant", [], ["value"], value_ints=[value]),
        helper.make_node("Add", ["who", "value"], ["sum"]),
        helper.make_node("Squeeze", ["sum", "one"], ["label"]),
    ]


# --- answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [10, 999, -1, -11, 2**40, -(2**40)])
def test_an_answer_that_is_no_class_is_refused_on_every_path(tmp_path, answer):
    folder = bundle_of(tmp_path / "b", graph(), graph(label=add_to_the_class(answer)))
    images = images_of(0, 0, 0)
    with Cascade.load(folder, provider="cpu", threads=1) as cascade:
        said = f"stage 1 answers class {answer} to an image, expected 0 to 9"
        for work in (
            lambda: cascade.predict(images),
            lambda: cascade.predict(images[:1]),
            lambda: list(cascade.stream(images)),
            lambda: list(cascade.stream(images, batch=1)),
            lambda: exit_scores(cascade, [Item("i", images[0])], BulkOptions()),
        ):
            with pytest.raises(BundleError, match=said):
                work()
        assert cascade.predict(images_of(3, 9, sure=1)).label.tolist() == [3, 9]  # stage 0 is right


def test_the_first_and_the_last_class_are_answers(tmp_path):
    with Cascade.load(bundle_of(tmp_path / "b", graph()), provider="cpu", threads=1) as cascade:
        assert cascade.predict(images_of(0, 9)).label.tolist() == [0, 9]
        with pytest.raises(BundleError, match="stage 0 answers class 10"):
            cascade.predict(images_of(0, 10, 9))
        assert cascade.predict(images_of(9)).label.tolist() == [9]  # rows of a larger batch are no answers


def test_commands_end_with_exit_code_3(tmp_path):
    folder = bundle_of(tmp_path / "b", graph(), graph(label=add_to_the_class(10)))
    np.save(tmp_path / "images.npy", np.repeat(images_of(0, 0), 200, axis=0))
    for command, options in (
        (run, (tmp_path / "images.npy",)),
        (calibrate, (tmp_path / "images.npy", "--unlabelled")),
        (bench, ("measure", "--data", tmp_path / "images.npy", "--noise")),
    ):
        result = CliRunner().invoke(command, [*map(str, options), "--bundle", str(folder)])
        assert result.exit_code == 3, result.output
        assert "stage 1 answers class 10 to an image, expected 0 to 9" in result.stderr


# --- shapes ------------------------------------------------------------------------------------------------

LIES = {
    "a class more": {
        "probabilities": [helper.make_node("Tile", ["sure", "wider"], ["probabilities"])],
    },
    "one row": {
        "probabilities": [
            helper.make_node("Tile", ["sure", "classes"], ["each"]),
            helper.make_node("ReduceMean", ["each"], ["probabilities"], axes=[0]),
        ]
    },
    "one label": {
        "label": [
            helper.make_node("Squeeze", ["who", "one"], ["each"]),
            helper.make_node("ReduceMax", ["each"], ["label"], axes=[0]),
        ]
    },
    "no row": {
        "confidence": [
            helper.make_node("Slice", ["sure", "zero", "zero", "zero"], ["none"]),
            helper.make_node("Squeeze", ["none", "one"], ["confidence"]),
        ]
    },
    "rows twice": {
        "confidence": [
            helper.make_node("Concat", ["sure", "sure"], ["twice"], axis=0),
            helper.make_node("Squeeze", ["twice", "one"], ["confidence"]),
        ]
    },
    "two rows at the most": {
        "probabilities": [
            helper.make_node("Tile", ["sure", "classes"], ["each"]),
            helper.make_node("Slice", ["each", "zero", "two", "zero"], ["probabilities"]),
        ]
    },
    "an operator that fails": {
        "label": [
            helper.make_node("Squeeze", ["who", "one"], ["each"]),
            helper.make_node("Reshape", ["each", "three"], ["label"]),
        ]
    },
}


@pytest.mark.parametrize("lie", LIES)
def test_outputs_of_another_shape_are_the_bundles_fault(tmp_path, lie):
    with Cascade.load(bundle_of(tmp_path / "b", graph(**LIES[lie])), provider="cpu", threads=1) as cascade:
        for work in (
            lambda: cascade.predict(images_of(1, 2, 3, 4)),
            lambda: list(cascade.stream(images_of(1, 2, 3, 4))),
        ):
            with pytest.raises(BundleError, match="stage 0 failed on 4 images") as told:
                work()
            assert "does not compute what the manifest says" in str(told.value)
            assert "\n" not in str(told.value)
            assert len(str(told.value)) < 1000


def test_a_graph_may_be_right_about_some_batches(tmp_path):
    folder = bundle_of(tmp_path / "b", graph(**LIES["two rows at the most"]))
    with Cascade.load(folder, provider="cpu", threads=1) as cascade:
        assert cascade.predict(images_of(1, 2)).label.tolist() == [1, 2]
        with pytest.raises(BundleError, match="stage 0 failed on 3 images"):
            cascade.predict(images_of(1, 2, 3))
        assert cascade.predict(images_of(5, 6)).label.tolist() == [5, 6]


def test_another_type_than_is_declared_is_refused(tmp_path):
    double = [
        helper.make_node("Squeeze", ["sure", "one"], ["each"]),
        helper.make_node("Cast", ["each"], ["confidence"], to=TensorProto.DOUBLE),
    ]
    with pytest.raises(BundleError, match=r"onnxruntime .* refuses a graph"):
        Cascade.load(bundle_of(tmp_path / "b", graph(confidence=double)), provider="cpu", threads=1)


def test_more_memory_than_numbers_can_say_is_refused(tmp_path):
    with Cascade.load(bundle_of(tmp_path / "b", graph()), provider="cpu") as cascade:
        kinds = cascade.stages.buffers(1).layout.kinds
        kinds["image"] = replace(kinds["image"], shape=(2**62,))
        with pytest.raises(BundleError, match="no memory holds the features of 3 images"):
            cascade.stages.buffers(3)


def test_memory_that_runs_out_is_no_fault_of_the_bundle(tmp_path):
    vast = [
        helper.make_node("Expand", ["sure", "vast"], ["much"]),
        helper.make_node("ReduceMax", ["much"], ["confidence"], axes=[1], keepdims=0),
    ]
    with (
        Cascade.load(bundle_of(tmp_path / "b", graph(confidence=vast)), provider="cpu") as cascade,
        pytest.raises(ProviderError, match="if memory ran out, give less at a time"),
    ):
        cascade.predict(images_of(1))
