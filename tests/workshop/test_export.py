"""Export: the bundle's graphs, run by onnxruntime, answer as the network does in torch."""

import json
import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exports import QUIET, assert_answers_like_torch, chain_from, export_to, model_of, normalised, pixels
from small_networks import chained, example_network, random_plans, residual
from torch import nn
from torch.nn.functional import max_pool2d, pad

from s2dnas_deploy import plan as plans
from s2dnas_deploy.bundle.bundle import SUMS
from s2dnas_deploy.bundle.exits import RULES
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import ModelError, OptionError, VerificationError
from s2dnas_deploy.files.onnx_file import read_signature
from s2dnas_deploy.sessions.every_stage import StageSession
from s2dnas_deploy.sessions.every_stage import run_chain as run_bundle
from s2dnas_deploy.workshop.export.assemble import make_bundle
from s2dnas_deploy.workshop.export.chain import chain_of
from s2dnas_deploy.workshop.export.checks.verify import verify
from s2dnas_deploy.workshop.export.draft import Export
from s2dnas_deploy.workshop.export.graphs.confidence import probabilities_and_confidence
from s2dnas_deploy.workshop.export.graphs.simplify import simplify
from s2dnas_deploy.workshop.export.options import ExportOptions
from s2dnas_deploy.workshop.export.own.protocol import network_with_own_exits
from s2dnas_deploy.workshop.export.rewrites.broadcast import drop_expansions
from s2dnas_deploy.workshop.export.rewrites.fold import fold_batch_norms
from s2dnas_deploy.workshop.export.rewrites.gates import keep_pixels
from s2dnas_deploy.workshop.export.rewrites.means import pool_means
from s2dnas_deploy.workshop.export.rewrites.rewrite import rewritten
from s2dnas_deploy.workshop.export.rewrites.shortcuts import convolve_shortcuts
from s2dnas_deploy.workshop.export.rewrites.split import split_convolutions
from s2dnas_deploy.workshop.export.rewrites.spread import spread_gates
from s2dnas_deploy.workshop.export.rewrites.zeros import drop_zeros
from s2dnas_deploy.workshop.export.samples import ExportImages
from s2dnas_deploy.workshop.network.network import carry_over
from s2dnas_deploy.workshop.network.stages import slice_stages
from s2dnas_deploy.workshop.pricing.latency import features_of
from s2dnas_deploy.workshop.reading.read import read_network

THREE = "uniform:0.25,0.25,0.5"


def plan_for(static, text):
    return plans.from_text(text, static.divisible.space)


@pytest.fixture(scope="module")
def chain():
    static = residual()
    return chain_from(static, plan_for(static, THREE))


@pytest.fixture(scope="module")
def bundle(chain, tmp_path_factory):
    return export_to(tmp_path_factory.mktemp("export") / "bundle", chain)


# --- the same function -------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [True, False])
def test_random_plans_answer_like_torch(tmp_path, split):
    static = residual()
    for i, plan in enumerate(random_plans(static, 4)):
        chain = chain_from(static, plan, split=split)
        assert_answers_like_torch(chain, export_to(tmp_path / f"{i}", chain))


THIN_VGG = {"config": ((16, 16), (32, 32), (32, 32, 32), (64, 64, 64), (64, 64, 64)), "hidden": 64}


@pytest.mark.parametrize(
    ("file", "factory", "shape", "options"),
    [
        ("cifar_resnet", "resnet20", (3, 16, 16), {}),
        ("mobilenet_v2", "mobilenet_v2", (3, 16, 16), {"width": 0.5}),
        ("vgg", "VGG", (3, 32, 32), {**THIN_VGG, "num_classes": 10}),
        ("digits_cnn", "digits_cnn", (1, 8, 8), {}),
        ("gated_cnn", "gated_cnn", (3, 32, 32), {}),
        pytest.param("vgg", "vgg16_bn", (3, 32, 32), {}, marks=pytest.mark.slow),
    ],
)
def test_the_example_models_answer_like_torch(tmp_path, file, factory, shape, options):
    static = read_network(example_network(file, factory, **options).eval(), shape)
    plan = random_plans(static, 2, seed=3)[1]
    chain = chain_from(static, plan)
    assert_answers_like_torch(chain, export_to(tmp_path / "bundle", chain), batches=(1, 3))


def as_exported(stages):
    return rewritten(stages, (3, 8, 8), split=True)


def each(rewrite):
    return lambda stages: tuple(map(rewrite, stages))


@pytest.mark.parametrize(
    "rewrite",
    [
        *map(each, (fold_batch_norms, drop_expansions, split_convolutions, spread_gates)),
        keep_pixels,
        as_exported,
    ],
)
def test_rewriting_stages_changes_nothing(rewrite):
    static = residual()
    for plan in random_plans(static, 6):
        network = model_of(static, plan).network.double()
        stages = slice_stages(network)
        image = torch.randn(2, 3, 8, 8, dtype=torch.double)
        before = chained(stages, image)
        after = chained(rewrite(stages), image)
        for a, b in zip(before, after, strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_no_batch_norm_and_no_joined_convolution_is_left(bundle):
    for graph in bundle.graphs:
        model = onnx.load_model_from_string(graph)
        made_by = {name: node.op_type for node in model.graph.node for name in node.output}
        for node in model.graph.node:
            assert node.op_type != "BatchNormalization"
            assert node.op_type != "Conv" or made_by.get(node.input[0]) != "Concat"


class Gated(nn.Module):
    """A gate that is written out to the size of what it gates; one such copy is read by a layer as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).relu()
        gate = torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        x = x * gate.expand_as(x) + gate.expand_as(x)
        kept = self.gate(x.mean((2, 3)))[:, :, None, None].expand(-1, -1, 8, 8)
        return self.fc((self.last(kept) * kept).mean((2, 3)))


def test_gates_are_not_copied_to_the_size_of_what_they_gate(tmp_path):
    static = read_network(Gated(), (3, 8, 8))
    chain = chain_from(static, plans.from_text("uniform:0.5,0.5", static.divisible.space))
    exported = export_to(tmp_path / "bundle", chain)
    assert_answers_like_torch(chain, exported, batches=(1, 3))
    for stage in slice_stages(carry_over(static, plans.static(static.divisible.space))):
        before = [node.name for node in stage.nodes if node.operator == "expand"]
        after = [node.name for node in as_exported([stage])[0].nodes if node.operator == "expand"]
        assert len(before) == 3
        assert after == before[2:]  # a layer reads this one


def gated_cnn():
    network = example_network("gated_cnn", "gated_cnn", num_classes=5).eval()
    return read_network(network, (3, 32, 32))


@pytest.mark.parametrize("rewrite", [keep_pixels, as_exported])
def test_gates_that_stages_share_stay_the_same(rewrite):
    """What is handed over of a gate is a pixel for every stage that gives it or reads it."""
    static = gated_cnn()
    for plan in [plan_for(static, THREE), *random_plans(static, 3)]:
        stages = slice_stages(model_of(static, plan).network.double())
        stages = tuple(pool_means(stage, (3, 32, 32)) for stage in stages)
        after = rewrite(stages)
        image = torch.randn(2, 3, 32, 32, dtype=torch.double)
        for a, b in zip(chained(stages, image), chained(after, image), strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
        given = {feature.name: feature.shape for stage in after for feature in stage.gives}
        assert all(given[feature.name] == feature.shape for stage in after for feature in stage.reads)
    assert not any(len(shape) == 1 for shape in given.values())


def test_the_classifier_and_what_else_reads_a_gate_get_vectors():
    """Only what becomes a pixel is one; a layer that reads a part of it as a vector reads it flattened."""
    static = read_network(GateForTwo(), (3, 8, 8))
    (stage,) = slice_stages(carry_over(static, plans.static(static.divisible.space)))
    (after,) = as_exported([stage])
    linear = [node for node in after.nodes if node.operator == "linear"]
    assert [len(after.shapes[node.inputs[0]]) for node in linear] == [1, 1]
    assert sum(node.operator == "flatten" for node in after.nodes) == 2
    image = torch.randn(2, 3, 8, 8)
    (a,), (b,) = chained([stage], image), chained([after], image)
    assert torch.allclose(a, b, rtol=1e-5)


class GateForTwo(nn.Module):
    """What the gate is made of is read by a layer of its own as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.other = nn.Conv2d(3, 16, 3), nn.Linear(16, 16), nn.Linear(16, 5)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).relu()
        pooled = x.mean((2, 3))
        x = x * self.gate(pooled).sigmoid()[:, :, None, None]
        return self.fc(x.mean((2, 3))) + self.other(pooled)


def test_gates_in_blocks_are_spread_and_others_are_not():
    """Products of one shape stay in the layout of convolutions: channels in blocks of 8 or 16."""
    static = gated_cnn()
    for fractions, spread in (("uniform:1", [6]), (THREE, [4, 4, 6])):
        stages = slice_stages(carry_over(static, plan_for(static, fractions)))
        kinds = [
            [node.operator for node in stage.nodes] for stage in rewritten(stages, (3, 32, 32), split=False)
        ]
        assert [each.count("resize") for each in kinds] == spread


def test_gates_are_not_spread_where_runtimes_know_no_blocks():
    static = gated_cnn()
    model = model_of(static, plans.static(static.divisible.space))
    for options, spread in (
        (ExportOptions(), 6),
        (ExportOptions(precision="int8"), 0),
        (ExportOptions(precision="float16"), 0),
        (ExportOptions(gather=True), 0),
    ):
        (link,) = chain_of(model, name="gated", split=False, blocks=options.in_blocks).links
        assert sum(node.operator == "resize" for node in link.module.stage.nodes) == spread


def test_a_runtime_keeps_a_gated_network_in_blocks(tmp_path):
    """One tensor alone is put in order again: what the classifier reads."""
    static = gated_cnn()
    bundle = export_to(tmp_path / "bundle", chain_from(static, plans.static(static.divisible.space)))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4  # such a file is for this machine alone, as it is meant to be
    onnxruntime.InferenceSession(bundle.graphs[0], options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    if "ReorderOutput" not in kinds:
        pytest.skip("onnxruntime has no blocks of channels on this machine")
    assert kinds.count("ReorderOutput") == 1
    assert "ReorderInput" not in kinds


class Shortcut(nn.Module):
    """Two shortcuts of strided pixels and zero channels; the second slice is read by a layer as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1 = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2, 1)
        self.conv2, self.fc = nn.Conv2d(32, 48, 1), nn.Linear(48, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = (self.conv1(x) + pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))).relu()
        small = x[:, :, ::2, ::2]
        return self.fc((self.conv2(small) + pad(small, (0, 0, 0, 0, 0, 16))).mean((2, 3)))


def test_shortcuts_of_strides_and_zeros_are_convolutions_and_the_same():
    static = read_network(Shortcut(), (3, 9, 9))
    image = torch.randn(2, 3, 9, 9, dtype=torch.double)
    for plan in [plans.static(static.divisible.space), *random_plans(static, 4)]:
        stages = slice_stages(model_of(static, plan).network.double())
        after = [drop_zeros(convolve_shortcuts(stage, (3, 9, 9))) for stage in stages]
        assert not any(node.operator in {"channel_pad", "fill"} for stage in after for node in stage.nodes)
        for a, b in zip(chained(stages, image), chained(after, image), strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_only_a_slice_that_nothing_else_reads_goes_into_the_convolution():
    static = read_network(Shortcut(), (3, 9, 9))
    (stage,) = slice_stages(carry_over(static, plans.static(static.divisible.space)))
    after = convolve_shortcuts(stage, (3, 9, 9))
    assert sum(node.operator == "spatial_slice" for node in after.nodes) == 1
    strides = [
        node.attributes["stride"] for node in after.nodes if "selection" in "".join(node.weights.values())
    ]
    assert strides == [(2, 2), (1, 1)]


def test_a_stage_that_adds_zeros_alone_adds_nothing():
    """The channels of stage 1 come from the zeros of the shortcut: its sum is what its convolution gives."""
    static = read_network(example_network("cifar_resnet", "resnet20").eval(), (3, 16, 16))
    plan = plans.from_text(THREE, static.divisible.space, align=8)
    before = slice_stages(carry_over(static, plan))[1]
    assert "fill" in {node.operator for node in before.nodes}
    after = drop_zeros(before)
    assert "fill" not in {node.operator for node in after.nodes}
    assert [node.name for node in after.nodes if node.operator == "identity"] == ["layer3.0.add"]


def test_means_over_space_are_pooled():
    """In every stage's exit, where features are given on, and with sizes kept or not."""
    static = residual()
    stages = slice_stages(carry_over(static, plan_for(static, THREE)))
    kinds = [node.operator for stage in as_exported(stages) for node in stage.nodes]
    assert "reduce" not in kinds
    assert (
        kinds.count("pool") == sum(node.operator == "reduce" for each in stages for node in each.nodes) == 3
    )


def test_a_mean_over_one_axis_of_space_is_left():
    static = read_network(OneAxis(), (3, 8, 8))
    (stage,) = slice_stages(carry_over(static, plans.static(static.divisible.space)))
    before = {node.name: node.operator for node in stage.nodes}
    after = {node.name: node.operator for node in as_exported([stage])[0].nodes}
    means = [name for name, kind in before.items() if kind == "reduce"]
    assert [after[name] for name in means] == ["reduce", "reduce", "pool"]
    image = torch.randn(2, 3, 8, 8)
    (a,), (b,) = chained([stage], image), chained(as_exported([stage]), image)
    assert torch.allclose(a, b, atol=1e-6)


class OneAxis(nn.Module):
    """Means over rows, then over columns; over both, sizes kept."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.fc(x.mean(2).mean(2) + x.mean((2, 3), keepdim=True).flatten(1))


def test_an_addition_after_a_split_convolution_starts_the_sum():
    """Then every addition has a convolution of its own to be fused with."""
    static = residual()
    stage = split_convolutions(
        fold_batch_norms(slice_stages(model_of(static, plan_for(static, THREE)).network)[2])
    )
    kinds = {node.name: node.operator for node in stage.nodes}
    sums = [n for n in stage.nodes if n.operator == "binary"]
    assert len(sums) >= 4
    assert all("conv" in {kinds.get(name) for name in node.inputs} for node in sums)


def test_a_price_by_the_clock_knows_every_rewrite(monkeypatch):
    """What a rewrite spares a device is in what it is expected to take."""
    static = residual()
    stages = slice_stages(carry_over(static, plan_for(static, THREE)))
    shape = static.graph.input_shape
    assert not any("batch_norm" in name for features in features_of(stages, shape) for name in features)
    monkeypatch.setattr(
        "s2dnas_deploy.workshop.export.rewrites.rewrite.fold_batch_norms", lambda stage: stage
    )
    assert all(any("batch_norm" in name for name in features) for features in features_of(stages, shape))


def test_prices_are_of_what_is_exported_by_default():
    """Features are joined before a convolution reads them."""
    static = residual()
    stages = slice_stages(carry_over(static, plan_for(static, THREE)))
    assert features_of(stages, static.graph.input_shape)[2]["cat: outputs"] > 0


class FirstLayer(nn.Module):
    """A network that begins with the layer given."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.fc = first, nn.Conv2d(first.out_channels, 8, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.second(self.first(x).relu()).mean((2, 3)))


@pytest.mark.parametrize(
    ("channels", "options", "in_rows"),
    [
        (3, {"kernel_size": 3, "padding": 1}, True),
        (3, {"kernel_size": (5, 3), "stride": (1, 2), "padding": (0, 2), "bias": False}, True),
        (1, {"kernel_size": 4, "stride": 3}, True),
        (4, {"kernel_size": 2, "dilation": (2, 1)}, True),
        (3, {"kernel_size": 3, "padding": 2, "dilation": 2}, False),
        (3, {"kernel_size": 3, "padding": "same"}, True),
        (3, {"kernel_size": (3, 4), "padding": "same", "dilation": (2, 1)}, False),
        (3, {"kernel_size": 3, "padding": "valid"}, True),
        (5, {"kernel_size": 3, "padding": 1}, False),
        (3, {"kernel_size": 3, "groups": 3}, False),
    ],
)
def test_images_are_read_in_the_order_of_their_bytes(tmp_path, channels, options, in_rows):
    """No graph transposes an image but for a layer that needs all of a channel side by side."""
    torch.manual_seed(0)
    static = read_network(FirstLayer(nn.Conv2d(channels, 6, **options)), (channels, 11, 9))
    chain = chain_from(static, plans.from_text("uniform:0.5,0.5", static.divisible.space))
    exported = export_to(tmp_path / "bundle", chain)
    assert_answers_like_torch(chain, exported, batches=(1, 3))
    for graph in exported.graphs:
        model = onnx.load_model_from_string(graph)
        if any(value.name == "image" for value in model.graph.input):
            assert ("Transpose" not in {node.op_type for node in model.graph.node}) == in_rows


def test_an_image_that_is_pooled_is_not_read_in_rows(tmp_path):
    static = read_network(PooledFirst(), (3, 8, 8))
    chain = chain_from(static, plans.static(static.divisible.space))
    exported = export_to(tmp_path / "bundle", chain)
    assert_answers_like_torch(chain, exported, batches=(1, 3))
    kinds = [node.op_type for node in onnx.load_model_from_string(exported.graphs[0]).graph.node]
    assert kinds.count("Transpose") == 1


class PooledFirst(nn.Module):
    """A convolution and a pooling layer read the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other, self.fc = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(3, 8, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((self.conv(x) + self.other(max_pool2d(x, 2))).mean((2, 3)))


def test_images_of_numbers_halves_and_bytes_are_read_as_ever(tmp_path, chain):
    """Rows are for bytes that a runtime makes float32 of."""
    images = pixels(chain, 4)
    labelled = ExportImages(
        source="made up", calibration=images, validation=images, labels=np.zeros(4, dtype=np.int64)
    )
    for i, options in enumerate(({"precision": "float16"}, {"precision": "int8"}, {"gather": True})):
        exported = export_to(tmp_path / f"{i}", chain, labelled, **options)
        assert "Transpose" in {n.op_type for n in onnx.load_model_from_string(exported.graphs[0]).graph.node}
    exported = export_to(tmp_path / "numbers", chain, float_input=True)
    assert read_signature(exported.graphs[0]).inputs[0].shape[1:] == (3, 8, 8)


# --- the graphs --------------------------------------------------------------------------------------------


def test_graphs_take_and_give_what_the_manifest_says_and_nothing_else(bundle, chain):
    names = set()
    for k, (graph, stage, link) in enumerate(
        zip(bundle.graphs, bundle.manifest.stages, chain.links, strict=True)
    ):
        signature = read_signature(graph)
        session = onnxruntime.InferenceSession(graph)
        assert [v.name for v in signature.inputs] == [v.name for v in session.get_inputs()]
        assert [v.name for v in signature.outputs] == [v.name for v in session.get_outputs()]
        reads = {v.name for v in signature.inputs} - {"image"}
        assert reads <= names
        assert reads == set(link.reads)
        names |= {v.name for v in signature.outputs} - {"label", "confidence", "probabilities"}
        assert stage.macs == link.macs > 0
        assert all(name.startswith(f"stage{k}/") for name in stage.gives)
    read_somewhere = {name for stage in bundle.manifest.stages for name in stage.reads} - {"image"}
    assert names == read_somewhere


def test_an_older_onnxruntime_can_read_them(bundle):
    for graph in bundle.graphs:
        model = onnx.load_model_from_string(graph)
        assert model.ir_version <= 10
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
        onnx.checker.check_model(model, full_check=True)


def test_another_opset(chain, tmp_path):
    bundle = export_to(tmp_path / "b", chain, opset=13)
    assert onnx.load_model_from_string(bundle.graphs[0]).opset_import[0].version == 13
    assert_answers_like_torch(chain, bundle)


def test_labels_and_preprocessing_are_in_the_graphs_too(bundle, chain):
    for graph in bundle.graphs:
        about = {p.key: p.value for p in onnx.load_model_from_string(graph).metadata_props}
        assert json.loads(about["s2dnas.labels"]) == list(chain.class_names)
        assert json.loads(about["s2dnas.preprocessing"])["std"] == list(chain.preprocessing.std)


def test_float_input(chain, tmp_path):
    bundle = export_to(tmp_path / "b", chain, float_input=True)
    images = pixels(chain, 5)
    x = normalised(chain, images)
    with torch.no_grad():
        expected = chain.reference(x)
    answers = run_bundle([StageSession(graph) for graph in bundle.graphs], x.numpy())
    for answer, logits in zip(answers, expected, strict=True):
        assert np.allclose(answer.probabilities, torch.softmax(logits, 1).numpy(), atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_gather_picks_the_rows_that_go_on(chain, tmp_path, precision):
    bundle = export_to(tmp_path / "b", chain, images_for(chain), gather=True, precision=precision)
    sessions = [StageSession(graph) for graph in bundle.graphs]
    images = pixels(chain, 6)
    every = run_bundle(sessions, images)
    rows = np.array([4, 1, 5], dtype=np.int64)
    values = {"image": images, "rows_0": rows, **every[0].features}
    picked = sessions[1].run(values)
    assert np.allclose(picked.probabilities, every[1].probabilities[rows], atol=1e-6)
    assert all(len(x) == 3 for x in picked.features.values())
    again = np.array([2, 0], dtype=np.int64)  # of those three
    values.update({**picked.features, "rows_0": rows[again], "rows_1": again})
    last = sessions[2].run(values)
    assert np.allclose(last.probabilities, every[2].probabilities[rows[again]], atol=1e-6)


def test_a_graph_that_simplification_breaks_is_kept(monkeypatch, bundle, chain):
    model = onnx.load_model_from_string(bundle.graphs[0])
    broken = onnx.load_model_from_string(bundle.graphs[0])
    for tensor in broken.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(tensor), tensor.name))
    monkeypatch.setattr("onnxsim.simplify", lambda *a, **k: (broken, True))
    result = simplify(model, {"image": pixels(chain, 2)})
    assert result.model is model
    assert "answered differently" in result.kept_because

    def fail(*a, **k):
        raise RuntimeError("no luck")

    monkeypatch.setattr("onnxsim.simplify", fail)
    assert "no luck" in simplify(model, {"image": pixels(chain, 2)}).kept_because


# --- confidence --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_confidence_is_computed_in_the_graph(chain, tmp_path, rule):
    bundle = export_to(tmp_path / "b", chain, rule=rule, temperatures=(1.0, 2.0, 0.5))
    images = pixels(chain, 7)
    with torch.no_grad():
        expected = chain.reference(normalised(chain, images))
    answers = run_bundle([StageSession(graph) for graph in bundle.graphs], images)
    for answer, logits, temperature in zip(answers, expected, (1.0, 2.0, 0.5), strict=True):
        p = np.sort(torch.softmax(logits.double() / temperature, 1).numpy(), axis=1)
        by_hand = {
            "max_prob": p[:, -1],
            "margin": p[:, -1] - p[:, -2],
            "entropy": 1 + (p * np.log(p)).sum(1) / math.log(p.shape[1]),
        }[rule]
        assert np.allclose(answer.confidence, by_hand, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_confidence_goes_from_no_idea_to_certain(rule):
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [200.0, -200.0, 0.0, 0.0]])
    _, confidence = probabilities_and_confidence(logits, rule, 1.0)
    assert confidence[0] == pytest.approx(0.25 if rule == "max_prob" else 0.0, abs=1e-6)
    assert confidence[1] == pytest.approx(1.0)


def test_thresholds_and_temperatures_are_one_for_all_or_one_each():
    options = ExportOptions(thresholds=(0.5, 0.7), temperatures=(2.0,))
    assert options.early(3) == (0.5, 0.7)
    assert ExportOptions(thresholds=(0.6,)).early(3) == (0.6, 0.6)
    assert [each.temperature for each in options.exits(3)] == [2.0, 2.0, 2.0]
    with pytest.raises(OptionError, match="3 thresholds for 2 exits but the last"):
        ExportOptions(thresholds=(0.5, 0.6, 0.7)).early(3)


# --- verification ------------------------------------------------------------------------------------------


def test_a_wrong_graph_is_found_and_no_bundle_written(chain, tmp_path, monkeypatch):
    from s2dnas_deploy.workshop.export import assemble

    def damaged(graph):
        model = damaged.real(graph)
        kernel = next(t for t in model.graph.initializer if len(t.dims) == 4)
        values = onnx.numpy_helper.to_array(kernel).copy()
        values[0] += 0.5
        kernel.CopyFrom(onnx.numpy_helper.from_array(values, kernel.name))
        return model

    damaged.real = assemble.to_onnx
    monkeypatch.setattr(assemble, "to_onnx", damaged)
    with pytest.raises(VerificationError, match="no bundle was written"):
        export_to(tmp_path / "bundle", chain)
    assert list(tmp_path.iterdir()) == []


def test_the_report_tells_what_was_compared(bundle):
    report = (bundle.folder / "verification.txt").read_text()
    assert "on 32 images" in report
    assert "made up" in report
    assert report.count("100.00%") == 3


def test_a_bundle_is_made_in_memory_and_then_saved(bundle, chain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = make_bundle(Export(network=chain), QUIET)
    assert list(tmp_path.iterdir()) == []
    assert made.manifest == bundle.manifest
    there = {path.name: path.read_bytes() for path in bundle.folder.iterdir()}
    assert {**made.files, SUMS: there[SUMS]} == there


# --- images, int8, float16 ---------------------------------------------------------------------------------


def images_for(chain, count=48):
    """Labelled by the last exit itself, so that it is always right."""
    images = pixels(chain, count, seed=5)
    with torch.no_grad():
        labels = chain.reference(normalised(chain, images))[-1].argmax(1).numpy()
    return ExportImages(source="test", calibration=images, validation=images, labels=labels)


def test_with_images_the_manifest_says_what_to_expect(chain, tmp_path):
    images = images_for(chain)
    bundle = export_to(tmp_path / "b", chain, images, thresholds=(0.3, 2.0))
    e = bundle.manifest.expected
    assert e.images == 48
    assert e.exit_accuracy[-1] == 1.0
    assert sum(e.exit_share) == pytest.approx(1)
    assert e.exit_share[1] == 0  # no confidence reaches 2
    macs = [link.macs for link in chain.links]
    assert e.mean_macs == pytest.approx(macs[0] + (macs[1] + macs[2]) * e.exit_share[2])
    first = run_bundle([StageSession(bundle.graphs[0])], images.validation)[0]
    leaves = first.confidence >= 0.3
    right = (first.label == images.labels) | ~leaves
    assert e.cascade_accuracy == pytest.approx(right.mean())


@pytest.mark.parametrize("split", [True, False])
def test_int8_hands_bytes_over_and_agrees(tmp_path, split):
    static = residual()
    chain = chain_from(static, plan_for(static, THREE), split=split)
    bundle = export_to(tmp_path / "b", chain, images_for(chain, 200), precision="int8")
    kinds = {tensor.type for tensor in bundle.manifest.tensors.values()}
    assert kinds == {"uint8"}
    for graph in bundle.graphs:
        model = onnx.load_model_from_string(graph)
        layers = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
        makers = {name: n.op_type for n in model.graph.node for name in n.output}
        assert layers
        assert all(makers[name] == "DequantizeLinear" for n in layers for name in n.input[:2])
        assert makers["confidence"] != "DequantizeLinear"
    assert min(bundle.manifest.expected.exit_accuracy[-1:]) > 0.9
    assert "int8" in (bundle.folder / "verification.txt").read_text()


def test_int8_needs_images(chain, tmp_path):
    with pytest.raises(OptionError, match="--data"):
        export_to(tmp_path / "b", chain, precision="int8")


def test_float16_keeps_confidence_in_float32(chain, tmp_path):
    bundle = export_to(tmp_path / "b", chain, precision="float16")
    assert {tensor.type for tensor in bundle.manifest.tensors.values()} == {"float16"}
    signature = read_signature(bundle.graphs[0])
    assert {v.name: v.type for v in signature.outputs}["confidence"] == "float32"
    weights = onnx.load_model_from_string(bundle.graphs[0]).graph.initializer
    assert onnx.TensorProto.FLOAT16 in {t.data_type for t in weights}


def confidences(chain, images):
    """Of every exit, as torch has them."""
    with torch.no_grad():
        best = [torch.softmax(z, 1).topk(2).values for z in chain.reference(normalised(chain, images))]
    return [(each[:, 0] - each[:, 1]).numpy() for each in best]


# --- one file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_single_file_gives_the_cascades_labels(chain, tmp_path, precision):
    images = images_for(chain)
    thresholds = tuple(float(np.median(c)) for c in confidences(chain, images.validation)[:2])
    bundle = export_to(
        tmp_path / "b", chain, images, single_file=True, precision=precision, thresholds=thresholds
    )
    answers = run_bundle([StageSession(graph) for graph in bundle.graphs], images.validation)
    session = onnxruntime.InferenceSession(tmp_path / "b" / "cascade.onnx")
    exits = []
    for i, image in enumerate(images.validation):
        label, _, probabilities, exit_ = session.run(None, {"image": image[None]})
        exits.append(int(exit_[0]))
        answer = answers[exits[-1]]
        assert label[0] == answer.label[i]
        assert np.allclose(probabilities[0], answer.probabilities[i], atol=1e-5)
        assert all(answers[k].confidence[i] < thresholds[k] + 1e-6 for k in range(exits[-1]))
        assert exits[-1] == 2 or answer.confidence[i] >= thresholds[exits[-1]] - 1e-6
    assert set(exits) == {0, 1, 2}


def test_a_single_file_that_answers_otherwise_is_found(chain, tmp_path, monkeypatch):
    from s2dnas_deploy.workshop.export import assemble

    real = assemble.nest
    monkeypatch.setattr(  # always sure at once
        assemble, "nest", lambda models, flow, classes: real(models, flow.with_thresholds([0, 0]), classes)
    )
    with pytest.raises(VerificationError, match="single file answers image 0 otherwise"):
        export_to(tmp_path / "b", chain, single_file=True, thresholds=(2.0,))


# --- exits of the network's own ----------------------------------------------------------------------------

PREPROCESSING = Preprocessing(input_shape=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)
NAMES = tuple("abcde")


class MultiScale(nn.Module):
    """MSDNet's way: two scales side by side, each stage reads all that came before at its scale."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList([_Scales(k) for k in range(3)])

    def stages(self):
        return list(self.parts)


class _Scales(nn.Module):
    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.fine = nn.Conv2d(3 if k == 0 else 8 * k, 8, 3, padding=1)
        self.coarse = nn.Conv2d(8 + 8 * k, 8, 3, stride=1, padding=1)
        self.down = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.classifier = nn.Linear(8, 5)

    def forward(self, image, *features):
        fine_before, coarse_before = features[: self.k], features[self.k :]
        fine = torch.relu(self.fine(torch.cat(fine_before, 1) if self.k else image))
        coarse = torch.relu(self.coarse(torch.cat([self.down(fine), *coarse_before], 1)))
        logits = self.classifier(coarse.mean((2, 3)))
        if self.k == 2:
            return (logits,)
        return (logits, *fine_before, fine, *coarse_before, coarse)


def test_a_multi_scale_network_exports_and_hands_each_feature_over_once(tmp_path):
    chain = network_with_own_exits(MultiScale(), PREPROCESSING, NAMES, name="msd")
    assert [len(link.gives) for link in chain.links] == [2, 2, 0]
    assert [len(link.reads) for link in chain.links] == [0, 2, 4]
    assert [link.reads_image for link in chain.links] == [True, False, False]
    bundle = export_to(tmp_path / "b", chain)
    assert_answers_like_torch(chain, bundle)


class _InPlace(nn.Module):
    """A stage that begins with an activation in place, and hands on what it was given and changed."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.act = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(8 * k + 3, 8, 3, padding=1)
        self.classifier = nn.Linear(8, 5)

    def forward(self, image, *features):
        features = [self.act(feature) for feature in features]
        made = self.conv(torch.cat([image.sub_(0.1), *features], 1))
        logits = self.classifier(made.mean((2, 3)))
        return (logits,) if self.k == 2 else (logits, *features, made)


def test_stages_that_work_in_place_are_exported_as_they_compute(tmp_path):
    torch.manual_seed(0)
    network = nn.Module()
    network.parts = nn.ModuleList([_InPlace(k) for k in range(3)])
    network.stages = lambda: list(network.parts)
    chain = network_with_own_exits(network, PREPROCESSING, NAMES, name="in place")
    assert_answers_like_torch(chain, export_to(tmp_path / "b", chain))
    image = normalised(chain, pixels(chain, 2))
    first, second, third = network.parts
    with torch.no_grad():
        logits, made = first(image.clone())
        again, made, more = second(image.clone(), made)
        for a, b in zip(
            [logits, again, third(image.clone(), made, more)[0]], chain.reference(image), strict=True
        ):
            assert torch.equal(a, b)


def test_branchynet_exports(tmp_path):
    network = example_network("branchy", "BranchyNet", classes=5).eval()
    chain = network_with_own_exits(network, PREPROCESSING, NAMES, name="branchy")
    assert_answers_like_torch(chain, export_to(tmp_path / "b", chain))
    image = normalised(chain, pixels(chain, 2))
    with torch.no_grad():
        for a, b in zip(network(image), chain.reference(image), strict=True):
            assert torch.equal(a, b)


class _Stages(nn.Module):
    def __init__(self, *functions) -> None:
        super().__init__()
        self.functions = functions

    def stages(self):
        return [_Calls(f) for f in self.functions]


class _Calls(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.mix = nn.Linear(3, 5)

    def forward(self, image, *features):
        return self.function(self.mix(image.mean((2, 3))), *features)


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ([lambda x: (x, x * 2), lambda x, f: (x,)], "no later stage reads"),
        ([lambda x: (x, x * 2), lambda x, f: (x + f, f)], "last stage gives 1 features"),
        ([lambda x: (x[:, :3],)], "logits"),
        ([lambda x: (x, x[0])], "batch first"),
        ([lambda x: {"logits": x}], "expected"),
        ([lambda x: (x,), lambda x, f: (x,)], "stage 1 failed"),
    ],
)
def test_broken_stages_are_refused(functions, message):
    with pytest.raises(ModelError, match=message):
        network_with_own_exits(_Stages(*functions), PREPROCESSING, NAMES, name="x")


def test_logits_alone_need_no_tuple(tmp_path):
    chain = network_with_own_exits(
        _Stages(lambda x: (x, x * 2), lambda x, f: x + f), PREPROCESSING, NAMES, name="x"
    )
    assert_answers_like_torch(chain, export_to(tmp_path / "b", chain))


def test_what_a_network_raises_is_told_in_a_line():
    def fails(*inputs):
        raise RuntimeError("many\nlines " * 5000)

    network = _Stages(fails)
    with pytest.raises(
        ModelError, match="stage 0 failed on an image and 0 features: RuntimeError: many;"
    ) as told:
        network_with_own_exits(network, PREPROCESSING, NAMES, name="x")
    assert "\n" not in str(told.value)
    network.stages = fails
    with pytest.raises(ModelError, match=r"stages\(\) of _Stages failed: RuntimeError: many$"):
        network_with_own_exits(network, PREPROCESSING, NAMES, name="x")
    network.stages = lambda: 5
    with pytest.raises(ModelError, match=r"stages\(\) of _Stages failed: TypeError"):
        network_with_own_exits(network, PREPROCESSING, NAMES, name="x")


@pytest.mark.parametrize("options", [{"thresholds": (float("inf"),)}, {"thresholds": (float("nan"), 0.5)}])
def test_thresholds_are_finite(options):
    """JSON has no infinity, and 2 says the same: nobody exits."""
    with pytest.raises(OptionError, match="expected finite numbers; above 1, nobody exits"):
        ExportOptions(**options)
    with pytest.raises(OptionError, match="expected finite numbers above 0"):
        ExportOptions(temperatures=(float("inf"),))


def test_a_network_without_stages_is_told_what_is_expected():
    with pytest.raises(ModelError, match=r"stages\(\)"):
        network_with_own_exits(nn.Linear(1, 1), PREPROCESSING, NAMES, name="x")


def test_verify_counts_what_differs(chain, bundle):
    from s2dnas_deploy.workshop.export.graphs.stage_graph import GraphForm, StageGraph

    form = GraphForm(preprocessing=chain.preprocessing)
    rules = [stage.exit for stage in bundle.manifest.stages]
    pairs = zip(chain.links, rules, strict=True)
    graphs = [StageGraph(link, rule, form, bundle.manifest.flow) for link, rule in pairs]
    swapped = [bundle.graphs[0], bundle.graphs[1], bundle.graphs[2]]
    told = {"images_are": "test", "precision": "float32", "flow": bundle.manifest.flow}
    result = verify(chain, graphs, swapped, pixels(chain, 21), **told)
    assert [each.images for each in result.exits] == [21, 21, 21]
    assert all(each.agreement == 1 for each in result.exits)


# --- every operation of the table --------------------------------------------------------------------------


class Applied(nn.Module):
    """A function of positive numbers below 1, between two layers."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x):
        x = 0.1 + 0.8 * torch.sigmoid(self.stem(x))
        return self.classifier(self.body(self.function(x)).mean((2, 3)))


def exports(tmp_path, function, plan="uniform:0.5,0.5"):
    torch.manual_seed(0)
    static = read_network(Applied(function).eval(), (3, 9, 7))
    chain = chain_from(static, plan_for(static, plan))
    assert_answers_like_torch(chain, export_to(tmp_path / "b", chain), batches=(1, 3))


POINTWISE = [
    *[
        "relu",
        "sigmoid",
        "tanh",
        "abs",
        "neg",
        "exp",
        "log",
        "sqrt",
        "rsqrt",
        "square",
        "erf",
        "log1p",
        "selu",
        "celu",
    ],
    "reciprocal",
]
FUNCTIONAL = [
    *[
        "relu6",
        "leaky_relu",
        "elu",
        "gelu",
        "silu",
        "mish",
        "hardswish",
        "hardsigmoid",
        "hardtanh",
        "hardshrink",
    ],
    *["softshrink", "tanhshrink", "logsigmoid", "softplus", "softsign"],
]


@pytest.mark.parametrize(
    "function",
    [
        *[pytest.param(getattr(torch, name), id=name) for name in POINTWISE],
        *[pytest.param(getattr(nn.functional, name), id=name) for name in FUNCTIONAL],
        pytest.param(lambda x: nn.functional.threshold(x, 0.5, 0.1), id="threshold"),
        pytest.param(lambda x: x.clamp(0.2, 0.6), id="clamp"),
        pytest.param(lambda x: x**1.7, id="pow"),
    ],
)
def test_activations(tmp_path, function):
    """In one stage, for each number becomes another by itself."""
    exports(tmp_path, function, "static")


F = nn.functional


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(
            lambda x: F.adaptive_avg_pool2d(x, (4, 3)), id="adaptive mean, windows of several sizes"
        ),
        pytest.param(lambda x: F.adaptive_max_pool2d(x, (4, 3)), id="adaptive maximum"),
        pytest.param(lambda x: F.adaptive_avg_pool2d(F.adaptive_avg_pool2d(x, 1), (3, 2)), id="1 to more"),
        pytest.param(lambda x: F.adaptive_avg_pool2d(x, (3, 7)), id="adaptive mean, even windows"),
        pytest.param(lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), id="max, ceil"),
        pytest.param(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), id="mean without padding"),
        pytest.param(lambda x: F.lp_pool2d(x, 2, 2), id="lp"),
        pytest.param(lambda x: F.interpolate(x, scale_factor=2, mode="nearest"), id="nearest"),
        pytest.param(lambda x: F.interpolate(x, (5, 5), mode="bilinear", align_corners=False), id="bilinear"),
        pytest.param(lambda x: F.pad(x, (1, 2, 0, 1), mode="reflect"), id="reflect"),
        pytest.param(lambda x: x[:, :, ::2, 1:], id="slice"),
        pytest.param(F.instance_norm, id="instance norm"),
        pytest.param(lambda x: x * x.mean((2, 3), keepdim=True) - x.amax((2, 3), keepdim=True), id="gates"),
        pytest.param(lambda x: torch.cat([x, 2 - x], 1)[:, 4:12], id="cat and channel slice"),
        pytest.param(lambda x: x.view(-1, 4, 2, 9, 7).transpose(1, 2).reshape(-1, 8, 9, 7), id="shuffle"),
    ],
)
def test_pooling_and_moving(tmp_path, function):
    exports(tmp_path, function)


def test_what_onnx_cannot_say_is_told(tmp_path):
    static = read_network(Applied(lambda x: F.avg_pool2d(x, 2, divisor_override=3)).eval(), (3, 8, 8))
    chain = chain_from(static, plan_for(static, "uniform:0.5,0.5"))
    with pytest.raises((ModelError, VerificationError)):
        export_to(tmp_path / "b", chain)
    assert not (tmp_path / "b").exists()
