"""Gates before residual blocks: open, they change nothing; shut, a block is left out, under `If`, too."""

import io

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

import onnxruntime  # noqa: E402
from architectures import build  # noqa: E402
from other_systems import with_drawn_gates  # noqa: E402
from small_networks import example_network  # noqa: E402
from workshop.test_nested import SIZES, in_double  # noqa: E402

from s2dnas_deploy.bundle.preprocessing import Preprocessing  # noqa: E402
from s2dnas_deploy.errors import UnsupportedNetworkError  # noqa: E402
from s2dnas_deploy.workshop.data.labelled import LabelledImages  # noqa: E402
from s2dnas_deploy.workshop.export.chain import chain_of  # noqa: E402
from s2dnas_deploy.workshop.export.graphs.skip import skipping  # noqa: E402
from s2dnas_deploy.workshop.network.blocks import blocks_of, found_in, gated  # noqa: E402
from s2dnas_deploy.workshop.network.costs import static_macs  # noqa: E402
from s2dnas_deploy.workshop.network.gated import GatedNetwork  # noqa: E402
from s2dnas_deploy.workshop.network.model_file import Model, load_model, save_model  # noqa: E402
from s2dnas_deploy.workshop.network.network import as_network, as_static  # noqa: E402
from s2dnas_deploy.workshop.network.static_network import StaticNetwork, run_graph  # noqa: E402
from s2dnas_deploy.workshop.reading.read import read_network  # noqa: E402
from s2dnas_deploy.workshop.training.start.block_order import by_loss_without  # noqa: E402

BLOCKS = {
    "resnet18": 8,
    "mobilenet_v3_small": 6,
    "regnet_y_400mf": 16,
    "squeezenet1_1": 0,
    "shufflenet_v2_x1_0": 0,
    "googlenet": 0,
    "resnet50": 16,
    "mobilenet_v2": 10,
    "efficientnet_b0": 9,
    "densenet121": 0,
}
SLOW = {"resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "regnet_y_400mf", "googlenet"}


def named(name):
    return pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name


@pytest.mark.parametrize("name", [named(name) for name in BLOCKS])
@torch.no_grad()
def test_open_gates_change_nothing(name):
    size = SIZES.get(name, 64)
    static = in_double(name, size)
    assert len(blocks_of(static.graph)) == BLOCKS[name]
    if not BLOCKS[name]:
        with pytest.raises(UnsupportedNetworkError, match="no residual block"):
            gated(static)
        return
    found = gated(static)
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    before = run_graph(static.graph, static.weights, images)
    torch.testing.assert_close(
        run_graph(found.static.graph, found.static.weights, images), before, rtol=1e-9, atol=1e-9
    )
    network = GatedNetwork(found).eval()
    torch.testing.assert_close(network(images)[0], before, rtol=1e-9, atol=1e-9)
    assert network.spent.tolist() == [1.0, 1.0]
    assert found_in(static) is None
    again = found_in(as_static(as_network(found.static)))
    assert again.blocks == found.blocks


@pytest.fixture
def resnet() -> StaticNetwork:
    static = read_network(example_network("cifar_resnet", "resnet20"), (3, 32, 32))
    drawn = torch.Generator().manual_seed(2)
    weights = {
        key: tensor * (1 + 0.2 * torch.rand(tensor.shape, generator=drawn))
        if tensor.is_floating_point()
        else tensor
        for key, tensor in static.weights.items()
    }
    return StaticNetwork(divisible=static.divisible, weights=weights)


@torch.no_grad()
def test_what_is_spent_is_what_shut_gates_leave(resnet):
    network = with_drawn_gates(resnet, 0)
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    answers = network(images)[0]
    spent, runs = network.spent.clone(), network.blocks_on.clone()
    assert 0 < runs.mean() < 1
    values = {"input": images}
    for node in network.division.body[1:]:
        values[node.name] = network.run(node, values, network.weights())
    total, macs = sum(static_macs(network._gated.static).values()), static_macs(network._gated.static)
    for image in range(6):
        left = total
        for block in blocks_of(resnet.graph):
            first, second = (macs[node.name] for node in block.layers)
            gate = values[f"{block.adds}/channel_gate/{block.layers[1].inputs[0]}/clamp"][image]
            on = (values[f"{block.adds}/layer_gate/clamp"][image, 0] > 0).item()
            left -= (first + second) * (1 - on * (gate > 0).float().mean().item())
        assert spent[image].item() == pytest.approx(left / total, rel=1e-5)
    torch.testing.assert_close(
        run_graph(network._gated.static.graph, dict(as_static(network).weights), images), answers
    )


def test_features_do_not_learn_from_gates(resnet):
    network = with_drawn_gates(resnet, 3).train()
    values = {"input": torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))}
    for node in network.division.body[1:]:
        values[node.name] = network.run(node, values, network.weights(), training=True)
    sum(values[gate].sum() for gate in network._gates).backward()
    learned = {key for key, weight in network.weights().items() if weight.grad is not None}
    assert learned == {key for key in network.gate_rates if "/spread" not in key}


@torch.no_grad()
def test_gates_are_steered_to_what_images_may_take(resnet):
    network = GatedNetwork(gated(resnet), learns=True).train()
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for share in (0.5, 0.2, 0.8):
        for _ in range(60):
            network(images)
            network.steer(share, 150)
        assert network.spent.mean().item() == pytest.approx(share, abs=0.06)  # a block is a twentieth
    for _ in range(60):
        network(images)
        network.steer(1.5, 150)
    assert network.shift == 0
    assert network.spent.tolist() == [1.0] * 8


@torch.no_grad()
def test_blocks_that_the_loss_misses_least_shut_first(resnet):
    weights = dict(resnet.weights)
    idle = (4, 1)
    for place in idle:
        last = [node for node in blocks_of(resnet.graph)[place].branch if node.operator == "batch_norm"][-1]
        weights |= {last.weights[role]: torch.zeros(last.channels) for role in ("weight", "bias")}
    static = StaticNetwork(divisible=resnet.divisible, weights=weights)
    drawn = torch.Generator().manual_seed(1)
    images = LabelledImages(
        images=torch.randint(0, 256, (64, 3, 32, 32), generator=drawn, dtype=torch.uint8),
        labels=torch.randint(0, 10, (64,), generator=drawn),
    )
    preprocessing = Preprocessing(input_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    firmest = by_loss_without(static, images, preprocessing, torch.device("cpu"))
    assert sorted(firmest) == list(range(9))
    losses = {place: position for position, place in enumerate(firmest)}
    assert abs(losses[4] - losses[1]) == 1  # leaving either out changes nothing
    network = GatedNetwork(gated(static, [*range(4), *range(5, 9), 4]), learns=True).eval()
    inputs = torch.randn(4, 3, 32, 32, generator=drawn)
    network(inputs)
    while network.blocks_on.min() == 1:
        network.steer(0, 600)
        network(inputs)
    assert network.blocks_on.mean(0).tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1]


@torch.no_grad()
def test_what_was_learned_of_standardised_features_is_said_of_features(tmp_path, resnet):
    network = GatedNetwork(gated(resnet), learns=True)
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        network.train()(images)
    drawn = torch.Generator().manual_seed(2)
    for key in network.gate_rates:
        weight = network.weights()[key]
        weight.copy_(torch.randn(weight.shape, generator=drawn))
    answers, spent = network.eval()(images)[0], network.spent
    save_model(model_of(network), tmp_path / "model.pt")
    plain = load_model(tmp_path / "model.pt").network
    torch.testing.assert_close(plain(images)[0], answers, rtol=1e-4, atol=1e-4)
    again = GatedNetwork(found_in(as_static(plain))).eval()
    again(images)
    torch.testing.assert_close(again.spent, spent, rtol=1e-3, atol=1e-3)
    assert 0.1 < spent.mean() < 0.9


def model_of(network) -> Model:
    return Model(
        network=network,
        class_names=tuple("abcdefghij"),
        preprocessing=Preprocessing(input_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3),
        provenance={},
    )


@torch.no_grad()
def test_a_block_is_left_out_under_an_if(tmp_path, resnet):
    network = with_drawn_gates(resnet, 0)
    save_model(model_of(network), tmp_path / "model.pt")
    (link,) = chain_of(load_model(tmp_path / "model.pt"), name="x", split=True).links
    images = torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.onnx.export(
        link.module,
        (images[:2],),
        tmp_path / "dense.onnx",
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    dense = onnx.load(tmp_path / "dense.onnx")
    found = skipping(dense)
    onnx.checker.check_model(found, full_check=True)
    branches = [node for node in found.graph.node if node.op_type == "If"]
    assert len(branches) == 9
    kernels = [node.input[1] for each in branches for node in taken(each).node if node.op_type == "Conv"]
    assert len([name for name in kernels if "gate" not in name]) == 18
    assert len([name for name in kernels if "channel_gate" in name]) == 9
    held = {tensor.name for tensor in found.graph.initializer}
    assert not held & {tensor.name for each in branches for tensor in taken(each).initializer}
    sessions = [onnxruntime.InferenceSession(each.SerializeToString()) for each in (dense, found)]
    network(images)
    for rows in (slice(0, 1), slice(1, 3), slice(2, 9)):
        one, other = (each.run(None, {"image": images[rows].numpy()})[0] for each in sessions)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(network(images[rows])[0].numpy(), other, rtol=1e-3, atol=1e-3)
    # What a branch would compute is really not there where its gate is shut: spoilt weights do no harm.
    network(images[:1])
    shut = network.blocks_on[0] == 0
    assert shut.any()
    for place in shut.nonzero().flatten().tolist():
        for tensor in taken(branches[place]).initializer:
            tensor.raw_data = np.full(tensor.dims, np.nan, np.float32).tobytes()
    spoilt = onnxruntime.InferenceSession(found.SerializeToString()).run(None, {"image": images[:1].numpy()})[
        0
    ]
    np.testing.assert_allclose(spoilt, network(images[:1])[0].numpy(), rtol=1e-3, atol=1e-3)


def taken(node):
    return next(attribute.g for attribute in node.attribute if attribute.name == "then_branch")


@torch.no_grad()
def test_a_graph_without_gates_is_left_alone():
    network = as_network(read_network(build("resnet18"), (3, 32, 32))).eval().requires_grad_(False)

    class Logits(torch.nn.Module):
        def forward(self, images):
            return network(images)[0]

    stream = io.BytesIO()
    torch.onnx.export(Logits(), (torch.zeros(1, 3, 32, 32),), stream, opset_version=17, dynamo=False)
    plain = onnx.load_from_string(stream.getvalue())
    assert skipping(plain) is plain
