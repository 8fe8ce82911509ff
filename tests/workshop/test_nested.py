"""Nested widths: each is the static network's channels up to its own, whatever else there is."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from architectures import ALL, build  # noqa: E402

from s2dnas_deploy.bundle.preprocessing import Preprocessing  # noqa: E402
from s2dnas_deploy.errors import CheckpointError, OptionError, PlanError  # noqa: E402
from s2dnas_deploy.plan import OUTPUT, Plan, check, from_text, narrowed  # noqa: E402
from s2dnas_deploy.workshop.export.widths import widths_of  # noqa: E402
from s2dnas_deploy.workshop.network.costs import stage_costs, static_costs  # noqa: E402
from s2dnas_deploy.workshop.network.model_file import Model, load_model, save_model  # noqa: E402
from s2dnas_deploy.workshop.network.nested import nested_from  # noqa: E402
from s2dnas_deploy.workshop.network.network import as_network, carry_over  # noqa: E402
from s2dnas_deploy.workshop.network.stages import StageNetwork  # noqa: E402
from s2dnas_deploy.workshop.network.static_network import StaticNetwork  # noqa: E402
from s2dnas_deploy.workshop.reading.read import read_network  # noqa: E402

WIDTHS = "widths:0.25,0.5,0.75,1"
SIZES = {"inception_v3": 299, "googlenet": 96, "alexnet": 96, "squeezenet1_1": 96}


def in_double(name: str, size: int) -> StaticNetwork:
    """A network as no training would leave it: statistics and scales that differ by channel."""
    static = read_network(build(name), (3, size, size))
    drawn = torch.Generator().manual_seed(1)
    weights = {
        key: tensor.double() * (1 + 0.2 * torch.rand(tensor.shape, generator=drawn, dtype=torch.float64))
        for key, tensor in static.weights.items()
    }
    return StaticNetwork(divisible=static.divisible, weights=weights)


@pytest.fixture(scope="module")
def resnet() -> StaticNetwork:
    return in_double("resnet18", 32)


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_every_width_is_what_masks_leave_of_the_static_network(name):
    size = SIZES.get(name, 64)
    static = in_double(name, size)
    network = nested_from(static, from_text(WIDTHS, static.divisible.space)).eval()
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    answers, parts = network(images), network.sub_networks()
    for index, answer in enumerate(answers):
        masked = carry_over(static, narrowed(network.division.plan, index, static.divisible.space)).eval()(
            images
        )[0]
        torch.testing.assert_close(answer, masked, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(StageNetwork(parts[index])(images)[0], answer, rtol=0, atol=0)
    torch.testing.assert_close(answers[-1], as_network(static).eval()(images)[0], rtol=0, atol=0)
    costs = [each.macs for each in stage_costs(network)]
    assert costs == sorted(set(costs))
    assert costs[-1] == static_costs(network).macs == static_costs(as_network(static)).macs


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_the_widest_need_not_have_all(name):
    size = SIZES.get(name, 64)
    static = in_double(name, size)
    space = static.divisible.space
    plan, whole = (from_text(text, space) for text in ("in-turn:0.25,0.5", "in-turn:0.25,0.5,1"))
    assert plan.channels == {group: counts[:2] for group, counts in whole.channels.items()}
    network, wider = (nested_from(static, each).eval() for each in (plan, whole))
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    answers, parts = network(images), network.sub_networks()
    for index, expected in enumerate(wider(images)[:2]):
        torch.testing.assert_close(answers[index], expected, rtol=0, atol=0)
        torch.testing.assert_close(StageNetwork(parts[index])(images)[0], expected, rtol=0, atol=0)
    assert [each.macs for each in stage_costs(network)] == [each.macs for each in stage_costs(wider)][:2]
    costs = static_costs(network)
    assert (costs.macs, costs.parameters) == (static_costs(wider).macs, static_costs(wider).parameters)


def test_widths_share_weights_and_have_norms_and_classifiers_of_their_own(resnet):
    network = nested_from(resnet, from_text(WIDTHS, resnet.divisible.space)).train()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    shared, first, last = "layer1.0.conv1.weight", "exit0/layer1.0.bn1.weight", "exit3/layer1.0.bn1.weight"
    assert {shared, first, last, "exit0/fc.weight", "exit3/fc.bias"} <= network.weights().keys()
    assert "layer1.0.bn1.weight" not in network.weights()
    assert network.weights()[first].shape == (16,)
    before = {key: tensor.clone() for key, tensor in network.weights().items()}
    network(images)[0].sum().backward()
    gradient = network.weights()[shared].grad
    assert gradient[:16, :16].abs().min() > 0
    assert gradient[16:].abs().max() == 0
    assert gradient[:, 16:].abs().max() == 0
    assert network.weights()[last].grad is None
    moved = {key for key, tensor in network.weights().items() if not torch.equal(tensor, before[key])}
    assert {f"exit{k}/layer1.0.bn1.running_mean" for k in range(4)} <= moved  # all ran on the batch


def test_the_order_of_channels_decides_which_a_width_has(resnet):
    rng = np.random.default_rng(3)
    order = {name: rng.permutation(len(own)) for name, own in resnet.divisible.order.items()}
    other = StaticNetwork(divisible=resnet.divisible.in_order(order), weights=resnet.weights)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        mine, theirs = (
            nested_from(each, from_text("widths:0.5,1", each.divisible.space)).eval()(images)
            for each in (resnet, other)
        )
    assert (mine[0] - theirs[0]).abs().max() > 1e-3
    torch.testing.assert_close(mine[1], theirs[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widths:1", "two or more widths"),
        ("widths:0.5,0.25,1", "each above the one before"),
        ("widths:0.5,1.25", "from above 0 to 1"),
        ("widths:0,1", "from above 0 to 1"),
        ("widths:a,1", "expected numbers"),
        ("widths:0.5,nan", "expected finite numbers"),
    ],
)
def test_widths_that_are_none_are_refused(resnet, text, message):
    with pytest.raises(PlanError, match=message):
        from_text(text, resnet.divisible.space)


def test_a_plan_of_widths_is_kept_and_checked(resnet):
    space = resnet.divisible.space
    plan = from_text(WIDTHS, space)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.digest != Plan(channels=plan.channels, exits=plan.exits).digest
    early = Plan(channels=plan.channels, exits=("layer1.1.add", *(OUTPUT,) * 3), nested=True)
    with pytest.raises(PlanError, match="all of them answer at 'output'"):
        check(early, space)
    name = next(iter(plan.channels))
    first, second, *others = plan.channels[name]
    none = {**plan.channels, name: (0, first + second, *others)}
    with pytest.raises(PlanError, match=r"stage 0 owns outputs of layer .* but none of its inputs"):
        check(Plan(channels=none, exits=plan.exits, nested=True), space)


def model_of(static: StaticNetwork, plan: str) -> Model:
    weights = {key: tensor.float() for key, tensor in static.weights.items()}
    static = StaticNetwork(divisible=static.divisible, weights=weights)
    return Model(
        network=nested_from(static, from_text(plan, static.divisible.space)).eval(),
        class_names=tuple("abcdefghij"),
        preprocessing=Preprocessing(input_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3),
        provenance={"tool": "a test"},
    )


@pytest.mark.parametrize(
    ("name", "plan"),
    [("resnet18", WIDTHS), ("resnet18", "in-turn:0.5x0.5,1x0.5"), ("vgg11_bn", "widths:0.25,0.5")],
)
def test_a_model_of_widths_is_read_as_it_was_written(tmp_path, name, plan):
    model = model_of(in_double(name, 32), plan)
    save_model(model, tmp_path / "model.pt")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        pairs = zip(load_model(tmp_path / "model.pt").network(images), model.network(images), strict=True)
        for mine, theirs in pairs:
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    broken = model.network
    broken.register_buffer("|surplus", torch.zeros(1))
    broken._attribute["surplus"] = "|surplus"
    save_model(Model(**{**vars(model), "network": broken}), tmp_path / "more.pt")
    with pytest.raises(CheckpointError, match=r"unexpected: \['surplus'\]"):
        load_model(tmp_path / "more.pt")


def test_widths_are_called_by_their_share():
    def called(text: str) -> tuple[str, ...]:
        return from_text(text, in_double("resnet18", 32).divisible.space).width_names

    assert called(WIDTHS) == ("quarter", "half", "three_quarters", "full")
    assert called("widths:0.375,1") == ("0.38", "full")
    assert called("widths:0.24,0.26,1") == ("quarter_0", "quarter_1", "full")
    assert called("widths:0.5,0.99,1") == ("half", "0.99", "full")


@pytest.mark.parametrize(
    ("in_turn", "message"),
    [
        (("small", "full"), "there is no width 'small'; expected some of quarter, half"),
        (("full", "quarter"), "each wider than the one before"),
    ],
)
def test_widths_in_turn_that_are_none_are_refused(resnet, in_turn, message):
    with pytest.raises(OptionError, match=message):
        widths_of(model_of(resnet, WIDTHS), name="w", split=False, in_turn=in_turn)
