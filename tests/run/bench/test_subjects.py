"""The static network gets the images as it takes them, and answers with classes, whatever its form."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.run.bench.subjects import Baseline
from s2dnas_deploy.run.providers import CPU


def baseline(path):
    return Baseline(path, CPU, threads=1, mean=(0.5, 0.25), std=(0.5, 0.125))


def network(path, shape, kind=TensorProto.FLOAT, inputs=("x",)):
    """Logits [N, 6] are the image's own numbers."""
    given = [helper.make_tensor_value_info(name, kind, shape) for name in inputs]
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], 6])
    nodes = [
        helper.make_node("Cast", [inputs[0]], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "g", given, [out])
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
