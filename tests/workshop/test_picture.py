"""The picture: who owns what, row by row, and files that open."""

from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")
from PIL import Image  # noqa: E402

from s2dnas_deploy import plan as plans  # noqa: E402
from s2dnas_deploy.errors import S2dnasError  # noqa: E402
from s2dnas_deploy.workshop.network.costs import stage_costs  # noqa: E402
from s2dnas_deploy.workshop.network.nested import planned  # noqa: E402
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, carry_over  # noqa: E402
from s2dnas_deploy.workshop.network.static_network import StaticNetwork  # noqa: E402
from s2dnas_deploy.workshop.reading.read import read_network  # noqa: E402
from s2dnas_deploy.workshop.reading.source import build_network  # noqa: E402
from s2dnas_deploy.workshop.show.picture import _percent, lay_out, save_picture  # noqa: E402

MODELS = Path(__file__).resolve().parents[2] / "models"
SVG = "{http://www.w3.org/2000/svg}"


@cache
def read(name: str) -> StaticNetwork:
    return read_network(build_network(f"{MODELS}/{name}"), (3, 32, 32))


def divided(name: str, text: str) -> MultiStageNetwork:
    static = read(name)
    return carry_over(static, plans.from_text(text, static.divisible.space))


def texts(path: Path) -> list[str]:
    return ["".join(element.itertext()).strip() for element in ElementTree.parse(path).iter(f"{SVG}text")]


def test_rows_are_layers_in_network_order_with_the_channels_of_each_stage():
    layout = lay_out(divided("cifar_resnet.py:resnet20", "uniform:0.25,0.25,0.5").division)
    assert len(layout.rows) == 19  # all but the classifier
    assert [row.node.name for row in layout.rows][:2] == ["conv1", "layer1.0.conv1"]
    assert layout.rows[0].counts == (4, 4, 8)
    assert layout.rows[-1].counts == (16, 16, 32)
    tops = [row.top for row in layout.rows]
    assert tops == sorted(set(tops))


def test_exits_at_the_output_are_below_all_rows():
    layout = lay_out(divided("cifar_resnet.py:resnet20", "uniform:0.25,0.25,0.5").division)
    (mark,) = layout.marks
    assert (mark.stages, mark.place) == ((0, 1, 2), "output")
    assert mark.top > layout.rows[-1].top


def test_an_exit_is_below_the_last_layer_it_needs():
    layout = lay_out(divided("cifar_resnet.py:resnet20", "depth:layer1.2.relu_1").division)
    first, last = layout.marks
    above = [row for row in layout.rows if row.top < first.top]
    assert above[-1].node.name == "layer1.2.conv2"
    assert {row.counts for row in above} == {(16, 0)}
    assert {row.counts[0] for row in layout.rows if row.top > first.top} == {0}
    assert (first.stages, last.stages) == ((0,), (1,))


def test_depthwise_convolutions_are_rows_too():
    layout = lay_out(divided("mobilenet_v2.py:mobilenet_v2", "static").division)
    assert len(layout.rows) == 52
    assert any(row.node.operator == "grouped_conv" for row in layout.rows)


def test_svg_is_xml_and_names_stages_exits_and_layers(tmp_path):
    path = tmp_path / "who.svg"
    save_picture(divided("cifar_resnet.py:resnet20", "uniform:0.25,0.25,0.5"), path, title="resnet20")
    words = texts(path)
    assert "resnet20: 3 stages" in words
    assert "stage 0: 6.5% of the static MACs" in words  # 2 617 504 of 40 551 040
    assert "stage 2: 50% of the static MACs" in words
    assert [word.split("  ")[0] for word in words if word.startswith("EXIT")] == [
        "EXIT 0",
        "EXIT 1",
        "EXIT 2",
    ]
    assert {"conv1", "layer3.2.conv2", "32×32", "8×8"} <= set(words)


def test_the_same_plan_gives_the_same_svg(tmp_path):
    network = divided("cifar_resnet.py:resnet20", "uniform:0.5,0.5")
    save_picture(network, tmp_path / "a.svg", title="x")
    save_picture(network, tmp_path / "b.svg", title="x")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("text", ["static", "random:4", "uniform:" + ",".join(["0.0625"] * 16)])
def test_png_opens_and_has_colours(tmp_path, text):
    path = tmp_path / "who.PNG"
    save_picture(divided("cifar_resnet.py:resnet20", text), path, title="resnet20")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] == 1430
    blue = np.abs(pixels.astype(int) - (0x00, 0x72, 0xB2)).sum(axis=2) < 6
    assert blue.mean() > 0.001  # stage 0 is somewhere


def test_a_layer_without_reuse_says_so(tmp_path):
    static = read("cifar_resnet.py:resnet20")
    plan = plans.uniform(static.divisible.space, [0.5, 0.5])
    alone = plans.Plan(channels=plan.channels, exits=plan.exits, no_reuse=frozenset({"layer2.1.conv1"}))
    save_picture(carry_over(static, alone), tmp_path / "x.svg", title="x")
    assert sum("no reuse" in word for word in texts(tmp_path / "x.svg")) == 1


def test_other_files_are_refused(tmp_path):
    with pytest.raises(S2dnasError, match=r"expected a name that ends in \.svg or \.png"):
        save_picture(divided("cifar_resnet.py:resnet20", "static"), tmp_path / "x.pdf", title="x")
    assert list(tmp_path.iterdir()) == []


def test_nested_widths_lie_over_each_other_and_each_costs_what_it_costs_alone(tmp_path):
    static = read("cifar_resnet.py:resnet20")
    network = planned(static, plans.from_text("widths:0.25,0.5,1", static.divisible.space))
    save_picture(network, tmp_path / "w.svg", title="w")
    found = texts(tmp_path / "w.svg")
    assert "w: 3 nested widths" in found
    costs = [each.macs for each in stage_costs(network)]
    for k, macs in enumerate(costs):
        share = _percent(macs, costs[-1])
        assert f"width {k}: {share} of the static MACs" in found
        assert f"WIDTH {k}   {share} of MACs" in found
