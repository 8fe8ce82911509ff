"""The inspection document: exact numbers, everything that can be divided, plain JSON values."""

import json
from functools import cache
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from s2dnas_deploy import plan as plans  # noqa: E402
from s2dnas_deploy.bundle.preprocessing import Preprocessing  # noqa: E402
from s2dnas_deploy.workshop.network.model_file import Model, save_model  # noqa: E402
from s2dnas_deploy.workshop.network.network import as_network, carry_over  # noqa: E402
from s2dnas_deploy.workshop.network.static_network import StaticNetwork  # noqa: E402
from s2dnas_deploy.workshop.reading.read import read_network  # noqa: E402
from s2dnas_deploy.workshop.reading.source import build_network  # noqa: E402
from s2dnas_deploy.workshop.show.describe import describe, describe_model  # noqa: E402

MODELS = Path(__file__).resolve().parents[2] / "models"


@cache
def resnet() -> StaticNetwork:
    return read_network(build_network(f"{MODELS}/cifar_resnet.py:resnet20"), (3, 32, 32))


@cache
def digits() -> StaticNetwork:
    return read_network(build_network(f"{MODELS}/digits_cnn.py:digits_cnn"), (1, 8, 8))


def divided(static: StaticNetwork, text: str):
    return carry_over(static, plans.from_text(text, static.divisible.space))


def test_a_static_network():
    document = describe(as_network(resnet()), name="resnet20")
    static = document["static"]
    assert (document["format"], document["version"]) == ("s2dnas-inspection", 1)
    assert (document["kind"], document["name"]) == ("static", "resnet20")
    assert (static["input"], static["classes"]) == ([3, 32, 32], 10)
    assert static["macs"] == 40_551_040
    assert static["parameters"] == 269_722
    assert static["classifier"] == {"nodes": ["linear"], "reads": ["flatten"], "macs": 640, "parameters": 650}
    assert static["operators"] == len(resnet().graph.nodes) - 1


def test_layers_of_a_static_network():
    layers = describe(as_network(resnet()), name="")["static"]["layers"]
    assert len(layers) == 20
    assert layers[0] == {
        "name": "conv1",
        "operator": "conv",
        "shape": [16, 32, 32],
        "macs": 16 * 32 * 32 * 27,
        "macs_share": 0.010909,
        "parameters": 16 * 27,
        "classifier": False,
    }
    assert (layers[-1]["name"], layers[-1]["classifier"]) == ("linear", True)
    assert sum(layer["macs"] for layer in layers) == 40_551_040
    assert sum(layer["macs_share"] for layer in layers) == pytest.approx(1, abs=1e-4)


def test_groups_of_a_static_network():
    groups = {g["name"]: g for g in describe(as_network(resnet()), name="")["static"]["groups"]}
    assert groups["layer1.0.conv1"]["layers"] == ["layer1.0.conv1"]
    assert groups["layer1.0.conv1"]["tensors"] == 3  # the convolution, its norm, its ReLU
    residual = groups["conv1"]
    assert (residual["channels"], residual["granule"], residual["portions"]) == (16, 1, 16)
    assert {"conv1", "layer1.0.conv2", "layer1.2.conv2"} <= set(residual["layers"])


def test_exits_say_what_comes_before_them_and_whether_all_hangs_on_them():
    exits = {e["name"]: e for e in describe(as_network(resnet()), name="")["static"]["exits"]}
    assert list(exits)[-1] == "output"
    block = exits["layer1.0.relu_1"]
    assert block["macs_before"] == 442_368 + 2 * 16 * 32 * 32 * 16 * 9
    assert block["shape"] == [16, 32, 32]
    assert block["cut"]
    assert not exits["layer1.0.conv1"]["cut"]  # the residual goes around it
    assert exits["output"]["macs_before"] == 40_551_040 - 640


def test_stages_and_totals():
    document = describe(divided(digits(), "uniform:0.25,0.25,0.5"), name="")
    stages, totals = document["stages"], document["totals"]
    assert document["kind"] == "multi-stage"
    assert [stage["stage"] for stage in stages] == [0, 1, 2]
    assert [stage["exit"] for stage in stages] == ["output"] * 3
    assert [stage["channels"] for stage in stages] == [56, 56, 112]  # of 32 + 64 + 64 + 64
    assert [stage["channels_share"] for stage in stages] == [0.25, 0.25, 0.5]
    assert [stage["head_macs"] for stage in stages] == [160, 320, 640]
    assert stages[2]["cumulative_macs"] == totals["macs"] == sum(stage["macs"] for stage in stages)
    assert totals["body_macs"] + totals["removed_macs"] == totals["static_body_macs"]
    assert totals["heads_macs"] == 160 + 320 + 640
    assert totals["macs"] == totals["body_macs"] + totals["heads_macs"]
    # conv1: the image has one channel, which all 8 outputs of stage 0 read, at 8·8 places
    assert stages[0]["macs_per_layer"]["conv1.0"] == 8 * 64 * 9
    assert stages[0]["macs_per_layer"]["conv2.0"] == 16 * 64 * 8 * 9


def test_features_handed_over():
    first, *_, last = describe(divided(digits(), "uniform:0.25,0.25,0.5"), name="")["stages"]
    assert {"name": "stage0/conv1.2", "node": "conv1.2", "shape": [8, 8, 8], "size_bytes": 2048} in first[
        "gives"
    ]
    assert first["gives_bytes"] == sum(feature["size_bytes"] for feature in first["gives"])
    assert last["gives"] == []
    assert "stage0/conv1.2" in last["reads"]


def test_the_plan_in_it_can_be_read_again():
    network = divided(digits(), "uniform:0.5,0.5")
    document = dict(describe(network, name="")["plan"])
    assert document.pop("digest") == network.division.plan.digest
    assert plans.Plan.from_json(json.dumps(document)) == network.division.plan


@pytest.mark.parametrize("text", ["static", "random:3", "depth:conv2.2"])
def test_it_is_json(text):
    document = describe(divided(digits(), text), name="digits")
    assert json.loads(json.dumps(document)) == document


def test_a_model_file(tmp_path):
    path = tmp_path / "model.pt"
    model = Model(
        network=divided(digits(), "uniform:0.5,0.5"),
        class_names=tuple("0123456789"),
        preprocessing=Preprocessing(input_shape=(1, 8, 8), mean=(0.5,), std=(0.25,)),
        provenance={"val_accuracy": [0.5, 0.75]},
    )
    save_model(model, path)
    document = describe_model(model, path)
    assert document["name"] == "model.pt"
    assert document["model"]["size_bytes"] == path.stat().st_size
    assert document["model"]["class_names"] == list("0123456789")
    assert document["model"]["preprocessing"]["mean"] == [0.5]
    assert document["model"]["provenance"] == {"val_accuracy": [0.5, 0.75]}
    assert json.loads(json.dumps(document)) == document
