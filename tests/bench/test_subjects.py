"""The static network gets the images as it takes them, and answers with classes, whatever its form."""

from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper

from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.runtime.answers.inputs import Item
from s2dnas_deploy.runtime.baseline import Baseline, static_answers
from s2dnas_deploy.sessions.providers import CPU


def baseline(path):
    return Baseline(path, CPU, threads=1, mean=(0.5, 0.25), std=(0.5, 0.125))


def network(path, shape, kind=TensorProto.FLOAT, inputs=("x",), logits=("N", 6)):
    """Logits [N, 6] are the image's own numbers."""
    given = [helper.make_tensor_value_info(name, kind, shape) for name in inputs]
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)
    nodes = [
        helper.make_node("Cast", [inputs[0]], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "shape"], ["logits"]),
    ]
    to = [size if isinstance(size, int) else -1 for size in logits]
    graph = helper.make_graph(
        nodes, "g", given, [out], [helper.make_tensor("shape", TensorProto.INT64, [len(to)], to)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 1, 3, 2) * 10


def test_bytes_are_normalised_for_a_network_of_floats(tmp_path):
    static = baseline(network(tmp_path / "n.onnx", ["N", 2, 1, 3]))
    images = static.taken(PIXELS)
    assert images.shape == (4, 2, 1, 3)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images[1, 1, 0, 2], (PIXELS[1, 0, 2, 1] / 255 - 0.25) / 0.125, rtol=1e-6)
    np.testing.assert_array_equal(static(PIXELS), images.reshape(4, -1).argmax(1))


def test_what_takes_what_the_bundle_takes_gets_it_as_it_is(tmp_path):
    static = baseline(network(tmp_path / "n.onnx", ["N", 1, 3, 2], TensorProto.UINT8))
    assert static.taken(PIXELS) is PIXELS


@pytest.mark.parametrize("size", [1, 3])
def test_a_fixed_batch_is_filled_up(tmp_path, size):
    static = baseline(network(tmp_path / "n.onnx", [size, 2, 1, 3]))
    images = static.taken(PIXELS)
    np.testing.assert_array_equal(static(PIXELS), images.reshape(4, -1).argmax(1))


def test_other_images_are_refused(tmp_path):
    static = baseline(network(tmp_path / "n.onnx", ["N", 2, 4, 4]))
    with pytest.raises(OptionError, match=r"takes tensor\(float\) \['N', 2, 4, 4\]; expected .* normalised"):
        static(PIXELS)


def test_two_inputs_are_refused(tmp_path):
    path = network(tmp_path / "n.onnx", ["N", 2, 1, 3], inputs=("x", "y"))
    with pytest.raises(OptionError, match="one input"):
        baseline(path)


def answering(path, value, output=("label", "confidence"), kind=TensorProto.INT64, shape=("N",)):
    """A network that answers what it is made for, to any number of images."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 1, 3])
    out = [helper.make_tensor_value_info(name, kind, shape) for name in output]
    constants = helper.make_tensor("value", kind, [1], [value])
    nodes = [
        helper.make_node("Shape", ["x"], ["count"], start=0, end=1),
        *(helper.make_node("Expand", ["value", "count"], [name]) for name in output),
    ]
    graph = helper.make_graph(nodes, "g", [given], out, [constants])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return baseline(path)


@pytest.mark.parametrize("answer", [-1, -11, 6, 2**40])
def test_answers_that_are_no_class_of_the_bundle_are_refused(tmp_path, answer):
    def asked(static):
        return static_answers(static, cascade, [Item("a", None)] * 4, lambda done, total: None)

    cascade = SimpleNamespace(labels=tuple("abcdef"), reader=SimpleNamespace(batch=lambda sources: PIXELS))
    with pytest.raises(OptionError, match=f"answers class {answer}; the bundle has 6"):
        asked(answering(tmp_path / "n.onnx", answer))
    assert asked(answering(tmp_path / "n.onnx", 5)).tolist() == [5] * 4


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"kind": TensorProto.FLOAT, "value": 1.0}, r"a class for each of 4 images, got float32 \[4\]"),
        (
            {"output": ("logits",), "kind": TensorProto.FLOAT, "value": 1.0},
            r"logits for each of 4 images, got",
        ),
        ({"output": ("classes",), "value": 3}, r"logits for each of 4 images, got int64 \[4\]"),
    ],
)
def test_what_is_neither_classes_nor_logits_is_refused(tmp_path, network, message):
    with pytest.raises(OptionError, match=message):
        answering(tmp_path / "n.onnx", **network)(PIXELS)


def test_a_network_that_fails_or_takes_no_batch_is_told(tmp_path):
    static = baseline(network(tmp_path / "n.onnx", ["N", 2, 1, 3], logits=(3, 6)))
    with pytest.raises(OptionError, match="fails on 4 images"):
        static(PIXELS)
    with pytest.raises(OptionError, match="expected a network with one input, a batch of images"):
        baseline(network(tmp_path / "n.onnx", [], logits=(1, 1)))
