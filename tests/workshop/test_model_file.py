"""`model.pt`: comes back bit for bit in a fresh process, and nothing hostile or damaged is accepted."""

import json
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mutations import told_well
from small_networks import residual

from s2dnas_deploy import plan as plans
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import CheckpointError
from s2dnas_deploy.workshop.network.model_file import Model, load_model, read_document, save_model
from s2dnas_deploy.workshop.network.network import carry_over


@pytest.fixture
def model():
    static = residual()
    network = carry_over(static, plans.uniform(static.divisible.space, [0.25, 0.25, 0.5])).eval()
    preprocessing = Preprocessing(input_shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)
    return Model(
        network=network,
        class_names=tuple("abcde"),
        preprocessing=preprocessing,
        provenance={"seed": 0},
    )


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "model.pt"
    save_model(model, path)
    return path


def resaved(path, **changes):
    """The file with some of its entries replaced."""
    document = {**torch.load(path, weights_only=True), **changes}
    torch.save(document, path)
    return path


def test_round_trip(model, saved):
    loaded = load_model(saved)
    image = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        for ours, theirs in zip(model.network(image), loaded.network(image), strict=True):
            assert torch.equal(ours, theirs)
    assert loaded.class_names == model.class_names
    assert loaded.preprocessing == model.preprocessing
    assert loaded.provenance == {"seed": 0}
    assert loaded.network.division.plan == model.network.division.plan


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({"cap": float("inf")}, "the description: expected numbers that are finite, got Infinity"),
        ({"cap": 2**64}, "the description: expected whole numbers of 64 bits"),
        ({"val_accuracy": [0.5]}, "the provenance: 1 accuracies for 3 exits"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(model, tmp_path, provenance, message):
    with pytest.raises(CheckpointError, match=message):
        save_model(replace(model, provenance=provenance), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_a_fresh_process_gives_the_same_bits(model, saved, tmp_path):
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.save(image, tmp_path / "image.pt")
    code = (
        "import sys, torch; from pathlib import Path; from s2dnas_deploy import load_model\n"
        "network = load_model(Path('model.pt')).network\n"
        "torch.save(network(torch.load('image.pt', weights_only=True)), 'logits.pt')\n"
        "assert 'small_networks' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with torch.no_grad():
        expected = model.network(image)
    for ours, theirs in zip(expected, torch.load(tmp_path / "logits.pt", weights_only=True), strict=True):
        assert torch.equal(ours, theirs)


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (os.system, (f"touch {self.target}",))


@pytest.mark.parametrize("kind", ["bare pickle", "torch archive", "inside a model"])
def test_a_payload_is_refused_and_does_not_run(saved, tmp_path, kind):
    target = tmp_path / "ran"
    payload = Payload(target)
    if kind == "bare pickle":
        saved.write_bytes(pickle.dumps(payload))
    elif kind == "torch archive":
        torch.save(payload, saved)
    else:
        torch.save({**torch.load(saved, weights_only=True), "about": payload}, saved)
    with pytest.raises(CheckpointError):
        load_model(saved)
    assert not target.exists()


def test_every_flipped_byte_of_the_weights_is_noticed(saved):
    content = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        entry = max((i for i in archive.infolist() if "/data/" in i.filename), key=lambda i: i.file_size)
    content[entry.header_offset + 2000] ^= 1
    saved.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"digest|damaged"):
        load_model(saved)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved, part):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(CheckpointError):
        load_model(saved)


def test_other_files_are_refused(tmp_path):
    other = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(2)}, other)
    with pytest.raises(CheckpointError, match=r"no model\.pt"):
        load_model(other)
    with pytest.raises(CheckpointError, match="no file"):
        load_model(tmp_path / "missing.pt")
    other.write_text("hello")
    with pytest.raises(CheckpointError, match="no torch file: expected one that"):
        load_model(other)


def test_an_unknown_version_is_refused(saved):
    with pytest.raises(CheckpointError, match="has version 99; this release reads version 1"):
        load_model(resaved(saved, version=99))


def signed(path: Path, edit, weights_edit=None) -> Path:
    """The file after an edit, with a digest that fits: what a careful forger would make."""
    from s2dnas_deploy.workshop.network.model_file import _digest

    document = dict(read_document(path))
    about, weights = json.loads(document["about"]), dict(document["weights"])
    edit(about)
    if weights_edit is not None:
        weights_edit(weights)
    text = json.dumps(about)
    return resaved(path, about=text, weights=weights, digest=_digest(text, weights))


def insert_after_stem(graph, operator, attributes, more=0):
    """A node that none reads, which claims so many channels more than the first."""
    stem = graph["nodes"][1]
    shape = [stem["shape"][0] + more, *stem["shape"][1:]]
    node = {"name": operator, "operator": operator, "inputs": [stem["name"]], "attributes": attributes}
    graph["nodes"].insert(2, {**node, "weights": {}, "shape": shape, "source": ""})


def insert_padding(graph, channels):
    insert_after_stem(graph, "channel_pad", {"before": channels, "after": 0, "value": 0.0}, channels)


def insert_norm_of_all(graph, channels):
    """Of each channel, which ones it depends on would be written down: all of them."""
    insert_padding(graph, channels)
    padded = graph["nodes"][2]
    norm = {"name": "norm of all", "operator": "group_norm", "inputs": [padded["name"]]}
    graph["nodes"].insert(3, {**padded, **norm, "attributes": {"groups": 1, "eps": 1e-5}})


def edit_graph(change):
    def edit(about):
        graph = json.loads(about["graph"])
        change(graph)
        about["graph"] = json.dumps(graph)

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        edit_graph(lambda graph: graph["nodes"][1].update(operator="exec")),
        edit_graph(lambda graph: graph["nodes"][1].update(inputs=["nowhere"])),
        edit_graph(lambda graph: graph["nodes"][1].update(shape=[7, 7, 7])),
        edit_graph(lambda graph: graph["nodes"][1]["attributes"].update(stride="x")),
        edit_graph(lambda graph: graph["nodes"][1]["attributes"].update(stride=[True, "x"])),
        edit_graph(lambda graph: graph["nodes"][1]["attributes"].update(padding=[2**62, 2**62])),
        edit_graph(lambda graph: graph["nodes"][1].update(attributes=[])),
        edit_graph(lambda graph: graph["nodes"][1].update(weights={"weight": 7})),
        edit_graph(lambda graph: graph["nodes"][0].update(shape=[3, 2**60, 8])),
        edit_graph(lambda graph: graph["nodes"][0].update(shape=[2**60, 8, 8])),
        edit_graph(lambda graph: graph["nodes"][0].update(shape=[])),
        edit_graph(lambda graph: insert_padding(graph, 2**60)),
        edit_graph(lambda graph: insert_padding(graph, 2**30)),
        edit_graph(lambda graph: insert_norm_of_all(graph, 2**15)),
        edit_graph(lambda graph: insert_after_stem(graph, "stochastic_depth", {"p": "x", "mode": "row"})),
        edit_graph(lambda graph: insert_after_stem(graph, "stochastic_depth", {"p": 2.0, "mode": "row"})),
        edit_graph(lambda graph: graph.update(output="nowhere")),
        lambda about: about.update(class_names=["a"]),
        lambda about: about.update(plan="{}"),
        lambda about: about["preprocessing"].update(std=[0, 0, 0]),
        lambda about: about.pop("graph"),
        lambda about: about.update(graph="[" * 100_000),
        lambda about: about.update(graph="\n" * 10**6),
        lambda about: about.update(class_names=["a", "b", "c", "d", 7]),
        lambda about: about.update(provenance=[]),
        lambda about: about.update(provenance={"data": {"train": "a"}}),
        lambda about: about.update(more=1),
    ],
)
def test_a_forged_description_is_refused(saved, edit):
    """Quickly, in a line, and without memory for what it claims."""
    forged = signed(saved, edit)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as refused:
        load_model(forged)
    assert told_well(refused.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_infinite_paddings_come_back(saved):
    """Pooling over a padding is exact only if nothing is larger than what is below it."""

    def edit(graph):
        last = graph["nodes"][-1]["inputs"][0]
        shape = next(node["shape"] for node in graph["nodes"] if node["name"] == last)
        clamp = {"function": "clamp", "arguments": {"min": float("-inf")}}
        node = {"name": "clamped", "operator": "pointwise", "inputs": [last], "attributes": clamp}
        graph["nodes"].insert(-1, {**node, "weights": {}, "shape": shape, "source": ""})
        graph["nodes"][-1]["inputs"] = ["clamped"]

    loaded = load_model(signed(saved, edit_graph(edit)))
    attributes = loaded.network.division.graph.by_name["clamped"].attributes
    assert attributes["arguments"]["min"] == float("-inf")


@pytest.mark.parametrize(
    "edit",
    [
        lambda weights: weights.pop("stem.weight"),
        lambda weights: weights.update(extra=torch.zeros(1)),
        lambda weights: weights.update({"stem.weight": torch.zeros(1, 3, 3, 3)}),
        lambda weights: weights.update({"stem.weight": torch.zeros(1).expand(16, 3, 3, 3)}),
        lambda weights: weights.update({"stem.weight": torch.zeros(16, 3, 3, 3, dtype=torch.int32)}),
        lambda weights: weights.update(
            {key: torch.zeros(1) for key in weights if key.endswith("fc.bias")}  # which torch would broadcast
        ),
        lambda weights: weights.update(
            {key: torch.tensor(0.0) for key in weights if key.endswith("fc.bias")}
        ),
        lambda weights: weights.update({"norm.weight": torch.ones(1)}),
    ],
)
def test_forged_weights_are_refused(saved, edit):
    with pytest.raises(CheckpointError):
        load_model(signed(saved, lambda about: None, edit))
