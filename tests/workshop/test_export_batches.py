"""Export takes images a batch at a time: the bundle is the same, and no batch is larger than it should be."""

import gc
import weakref
import zipfile
from contextlib import nullcontext

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

import routed_networks  # noqa: E402
from exports import QUIET, chain_from, export_to, pixels  # noqa: E402
from onnxruntime.quantization.calibrate import CalibraterBase  # noqa: E402
from small_networks import residual  # noqa: E402

from s2dnas_deploy import plan as plans  # noqa: E402
from s2dnas_deploy.bundle.preprocessing import Preprocessing  # noqa: E402
from s2dnas_deploy.decide.flow import DONE, IMAGE, Flow, Route, Stop, chain  # noqa: E402
from s2dnas_deploy.images.archive import ImageArchive  # noqa: E402
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages  # noqa: E402
from s2dnas_deploy.workshop.export import assemble, batches, held_out  # noqa: E402
from s2dnas_deploy.workshop.export.batches import at_once, at_once_in, largest_of  # noqa: E402
from s2dnas_deploy.workshop.export.checks.expect import expected_of, told_by, weighed  # noqa: E402
from s2dnas_deploy.workshop.export.checks.verify import verify  # noqa: E402
from s2dnas_deploy.workshop.export.draft import Export  # noqa: E402
from s2dnas_deploy.workshop.export.graphs import quantise  # noqa: E402
from s2dnas_deploy.workshop.export.graphs.follow import (  # noqa: E402
    OnnxStages,
    Party,
    leading_to,
    without_exits,
)
from s2dnas_deploy.workshop.export.options import ExportOptions  # noqa: E402
from s2dnas_deploy.workshop.export.own.protocol import network_with_own_exits  # noqa: E402
from s2dnas_deploy.workshop.export.samples import ExportImages, Stored  # noqa: E402
from s2dnas_deploy.workshop.network.static_network import last_reads  # noqa: E402

PREPROCESSING = Preprocessing(input_shape=(3, 8, 8), mean=(0.4,) * 3, std=(0.3,) * 3)
NAMES = tuple(f"class {i}" for i in range(routed_networks.CLASSES))


def network_of(kind):
    if kind == "stages":
        static = residual()
        return chain_from(static, plans.from_text("uniform:0.25,0.25,0.5", static.divisible.space))
    network = getattr(routed_networks, kind)().eval()
    return network_with_own_exits(network, PREPROCESSING, NAMES, name=kind)


@pytest.fixture(scope="module", params=["stages", "gate", "setting", "skipped", "gate_then_exits", "late"])
def network(request):
    return network_of(request.param)


def labelled(network, count=45):
    images = pixels(network, count, seed=3)
    labels = np.arange(count) % len(network.class_names)
    return ExportImages(source="test", calibration=images, validation=images, labels=labels)


def draft_of(network, precision="float32"):
    options = ExportOptions(precision=precision)
    export = Export(network=network, options=options, images=labelled(network))
    return assemble._made(export, QUIET)


# --- the same, however images are cut ----------------------------------------------------------------------


def quantised(network, monkeypatch, size):
    monkeypatch.setattr(quantise, "at_once_in", lambda models, most: size)
    return draft_of(network, "int8").files


def test_quantised_graphs_do_not_depend_on_how_images_are_cut(network, monkeypatch):
    whole = quantised(network, monkeypatch, 45)
    for size in (1, 7, 32):
        assert quantised(network, monkeypatch, size) == whole


def test_calibration_in_little_memory_comes_to_onnxruntimes_own_ranges(network, monkeypatch):
    real = CalibraterBase.create_inference_session
    frugal = draft_of(network, "int8").files
    assert CalibraterBase.create_inference_session is real
    monkeypatch.setattr(quantise, "_in_little_memory", nullcontext)
    assert draft_of(network, "int8").files == frugal


def test_what_is_expected_does_not_depend_on_how_images_are_cut(network):
    draft = draft_of(network)
    flow, run, macs = draft.export.flow, OnnxStages(draft.graphs, draft.files), [1] * len(draft.stages)
    images, labels = draft.export.images.validation, draft.export.images.labels
    seen = []
    for batch in (1, 7, 45, 100):
        told = told_by(flow, run, images, batch=batch)
        choices = weighed(flow, run, images, macs, labels, batch=batch)
        seen.append((told.label.tolist(), told.came.tolist(), expected_of(flow, told, labels, macs), choices))
    assert all(each == seen[0] for each in seen)


def test_what_is_verified_does_not_depend_on_how_images_are_cut(network):
    draft = draft_of(network)
    images, told = draft.export.images.validation, {"images_are": "test", "precision": "float32"}
    few, many = (
        verify(network, draft.graphs, draft.files, images, flow=draft.export.flow, large=large, **told)
        for large in (1, 64)
    )
    assert (few.batches, many.batches) == ((1, 2, 3, 3), (1, 2, 7, 64))
    for a, b in zip(few.exits, many.exits, strict=True):
        assert (a.called, a.images, a.labels_differ, a.decisions_differ) == (b.called, b.images, 0, 0)
        assert max(a.stage_difference, a.chain_difference) <= few.tolerance
    assert "in batches of 1, 2, 3 and 3." in few.report()


class Watched:
    """Images that remember how many were asked for at a time."""

    def __init__(self, images) -> None:
        self.images, self.most = images, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        self.most = max(self.most, len(range(len(self.images))[rows]))
        return self.images[rows]


@pytest.mark.parametrize("options", [{"precision": "int8"}, {"float_input": True, "precision": "float16"}])
def test_a_bundle_is_the_same_when_memory_allows_three_images_at_a_time(
    network, tmp_path, monkeypatch, options
):
    images = labelled(network)
    whole = export_to(tmp_path / "whole", network, images, **options)
    least = batches._BATCH_BYTES // at_once_in(draft_of(network).models, 10**9)  # of an image, about
    monkeypatch.setattr(batches, "_BATCH_BYTES", 3 * least)
    watched = [Watched(images.calibration), Watched(images.validation)]
    few = ExportImages(source="test", calibration=watched[0], validation=watched[1], labels=images.labels)
    bundle = export_to(tmp_path / "few", network, few, **options)
    assert bundle.graphs == whole.graphs
    assert bundle.manifest == whole.manifest
    fit = 7 if options["precision"] == "float16" else 4  # half the size
    assert watched[0].most <= fit
    assert 1 <= watched[1].most <= fit


# --- how many at a time ------------------------------------------------------------------------------------


def test_a_batch_has_room_for_four_of_the_largest_tensors_and_all_that_stages_give():
    room = batches._BATCH_BYTES
    assert at_once(100, largest=1) == 100
    assert at_once(100, largest=room // 40) == 10
    assert at_once(100, largest=room // 80, given=room // 20) == 10
    assert at_once(100, largest=room) == 1
    assert largest_of([(3, 8, 8), (16, 4, 4), (10,)]) == 4 * 16 * 4 * 4


def test_the_largest_tensor_may_be_inside_of_a_graph():
    draft = draft_of(network_of("stages"))
    outputs = [value for model in draft.models for value in model.graph.output]
    shapes = [tuple(d.dim_value for d in v.type.tensor_type.shape.dim[1:]) for v in outputs]
    given = sum(4 * int(np.prod(shape)) for shape in shapes if len(shape) == 3)
    inside = [
        tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)
        for model in draft.models
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    ]
    found = batches._BATCH_BYTES / at_once_in(draft.models, 10**9)
    assert found == pytest.approx(4 * largest_of(inside) + given, rel=0.05)


def test_weights_that_a_graph_makes_floats_of_are_not_of_an_image():
    network = network_of("stages")
    plain, in_int8 = draft_of(network).models, draft_of(network, "int8").models
    count = at_once_in(in_int8, 10**9)
    weight = onnx.helper.make_tensor_value_info("weight", onnx.TensorProto.FLOAT, [10**4, 10**4])
    in_int8[0].graph.value_info.append(weight)
    assert at_once_in(in_int8, 10**9) == count >= at_once_in(plain, 10**9)


# --- nothing is held longer than it is read ----------------------------------------------------------------


def test_a_feature_is_gone_when_its_last_reader_has_run():
    flow = chain([("a", (IMAGE,), ("x",)), ("b", ("x",), ("y",)), ("c", ("y", IMAGE), ())], (0.5, 0.5))
    held = {}

    def run(place, brought):
        sure = np.zeros(4, np.float32)
        given = {"label": np.zeros(4, np.int64), "confidence": sure, "probabilities": np.zeros((4, 2))}
        for name in flow.stops[place].gives:
            given[name] = np.zeros((4, 3))
            held[name] = weakref.ref(given[name])
        return given

    party = Party(without_exits(flow), np.zeros((4, 2)))
    alive = []
    for place in range(3):
        party.visit(place, run)
        gc.collect()
        alive.append({name for name, array in held.items() if array() is not None})
    assert alive == [{"x"}, {"y"}, set()]


def test_what_some_of_a_batch_are_given_leaves_what_others_have():
    """Also where the tensor that they have is a stage's own."""
    stops = (
        Stop(name="a", reads=(IMAGE,), gives=("x",), answers=False, then=Route(to=("b",))),
        Stop(name="b", reads=("x",), gives=("x",), answers=False, then=Route(to=("c",))),
        Stop(name="c", reads=("x",), then=DONE),
    )
    party = Party(without_exits(Flow(start=Route(to=("a",)), stops=stops)), np.zeros((3, 2)))
    own = np.arange(3.0)
    party.visit(0, lambda place, brought: {"x": own})
    party.came[1] = [True, False, True]
    party.came[2] = True
    party.visit(1, lambda place, brought: {"x": brought["x"] + 10})
    assert party.brought(2)["x"].tolist() == [10, 1, 12]
    assert own.tolist() == [0, 1, 2]


def test_only_stages_that_lead_to_another_are_run_for_it():
    assert leading_to(draft_of(network_of("stages")).export.flow, 2) == [0, 1]
    widths = draft_of(network_of("setting")).export.flow
    assert leading_to(widths, len(widths.stops) - 1) == []


def test_values_are_dropped_after_their_last_reader():
    nodes = residual().graph.nodes[1:]
    freed = last_reads(nodes, {nodes[-1].name})
    dropped = [name for names in freed.values() for name in names]
    assert sorted(dropped) == sorted({"input", *(node.name for node in nodes[:-1])})
    place = {node.name: i for i, node in enumerate(nodes)}
    for after, names in freed.items():
        assert all(name not in node.inputs for node in nodes[place[after] + 1 :] for name in names)


# --- images that stay on disk ------------------------------------------------------------------------------


class OnDisk:
    """As images on a disk are: read row by row, never all of them."""

    def __init__(self, count, shape=(3, 6, 5)) -> None:
        generator = torch.Generator().manual_seed(0)
        self._images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
        self.labels, self.image_shape, self.reads = torch.arange(count) % 4, shape, []

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, rows):
        self.reads.append(len(rows))
        return self._images[rows]


def splits_of(val, test=None):
    train = LabelledImages(images=torch.zeros(4, 3, 6, 5, dtype=torch.uint8), labels=torch.arange(4))
    splits = ImageSplits(train=train, val=train, test=None, class_names=tuple("abcd"), digest="")
    object.__setattr__(splits, "val", val)
    object.__setattr__(splits, "test", test)
    return splits


def test_stored_images_are_read_a_slice_at_a_time():
    disk = OnDisk(10)
    images = Stored(images=disk)
    assert len(images) == 10
    assert np.array_equal(images[2:5], disk._images[2:5].permute(0, 2, 3, 1).numpy())
    assert disk.reads == [3]


@pytest.mark.parametrize("count", [1, 23, 40])
def test_held_out_images_are_written_some_at_a_time(tmp_path, monkeypatch, count):
    monkeypatch.setattr(held_out, "_CHUNK_BYTES", 10 * 3 * 6 * 5 + 7)
    disk, test = OnDisk(count), OnDisk(5)
    validation, _ = held_out.save_held_out(splits_of(disk, test), tmp_path)
    assert disk.reads == [10] * (count // 10) + [count % 10] * (count % 10 > 0)
    whole = disk._images.permute(0, 2, 3, 1).numpy()
    with np.load(validation) as archive:
        assert np.array_equal(archive["images"], whole)
        assert archive["images"].dtype == np.uint8
        assert np.array_equal(archive["labels"], disk.labels.numpy())
    part = ImageArchive(str(validation)).part("train")
    assert np.array_equal(part.images, whole)
    assert part.labels.tolist() == disk.labels.tolist()


def test_an_archive_of_held_out_images_is_what_numpy_writes(tmp_path):
    disk = OnDisk(12)
    (ours,) = held_out.save_held_out(splits_of(disk), tmp_path / "ours")
    images = np.ascontiguousarray(disk._images.permute(0, 2, 3, 1).numpy())
    np.savez(tmp_path / "numpy.npz", images=images, labels=disk.labels.numpy())
    with zipfile.ZipFile(ours) as a, zipfile.ZipFile(tmp_path / "numpy.npz") as b:
        assert a.namelist() == b.namelist()
        assert all(a.read(name) == b.read(name) for name in a.namelist())
        assert {info.compress_type for info in a.infolist()} == {zipfile.ZIP_STORED}
    assert ours.stat().st_size == (tmp_path / "numpy.npz").stat().st_size
