"""Gates: one prefix for all widths, the same answers cut and whole, and numbers that know what pays."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from small_networks import example_network  # noqa: E402
from workshop.test_nested import SIZES, in_double, model_of  # noqa: E402

from s2dnas_deploy.errors import CheckpointError, PlanError  # noqa: E402
from s2dnas_deploy.plan import Plan, check, from_text, narrowed  # noqa: E402
from s2dnas_deploy.workshop.network.costs import stage_costs, static_costs  # noqa: E402
from s2dnas_deploy.workshop.network.model_file import load_model, save_model  # noqa: E402
from s2dnas_deploy.workshop.network.nested import NestedNetwork, nested_from  # noqa: E402
from s2dnas_deploy.workshop.network.network import as_network, carry_over  # noqa: E402
from s2dnas_deploy.workshop.network.stages import StageNetwork  # noqa: E402
from s2dnas_deploy.workshop.reading.read import read_network  # noqa: E402
from s2dnas_deploy.workshop.training import gate as training  # noqa: E402

GATE = "gate:0.25,0.5,1"
SLOW = ("regnet_y_400mf", "resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0")
NAMES = [
    *("resnet18", "shufflenet_v2_x1_0", "mobilenet_v3_small", "squeezenet1_1"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
]


@pytest.fixture(scope="module")
def resnet():
    return in_double("resnet18", 32)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_prefix_and_slice_are_the_masked_network(name):
    size = SIZES.get(name, 64)
    static = in_double(name, size)
    plan = from_text(GATE, static.divisible.space)
    network = nested_from(static, plan).eval()
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    answers, seen = network.judged(images)
    prefix, rests = network.prefix_and_rests()
    numbers, *features = StageNetwork(prefix)(images)
    torch.testing.assert_close(numbers, network.numbers(seen), rtol=1e-9, atol=1e-9)
    assert numbers.shape == (2, 3)
    given = {feature.name: x for feature, x in zip(prefix.gives, features, strict=True)}
    turns = network.in_turn((0, 2))
    _, *handed = StageNetwork(turns[0])(images)
    for index, (rest, answer) in enumerate(zip(rests, answers, strict=True)):
        masked = carry_over(static, narrowed(plan, index, static.divisible.space)).eval()(images)[0]
        torch.testing.assert_close(answer, masked, rtol=1e-9, atol=1e-9)
        brought = [given[feature.name] for feature in rest.reads]
        torch.testing.assert_close(StageNetwork(rest)(images, *brought)[0], answer, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(StageNetwork(turns[1])(images, *handed)[0], answers[2], rtol=1e-9, atol=1e-9)
    whole, static_ones = static_costs(network), static_costs(as_network(static))
    assert (whole.macs, whole.parameters) == (static_ones.macs, static_ones.parameters)
    costs = [each.macs for each in stage_costs(network)]
    assert costs == sorted(set(costs))
    assert costs[-1] < whole.macs


def test_the_prefix_runs_once_and_has_one_set_of_norms(resnet):
    network = nested_from(resnet, from_text(GATE, resnet.divisible.space)).train()
    norms = {key for key in network.weights() if key.endswith("layer1.0.bn1.running_mean")}
    assert norms == {"exit0/layer1.0.bn1.running_mean"}
    assert "exit2/layer2.0.bn1.running_mean" in network.weights()
    before = {key: tensor.clone() for key, tensor in network.weights().items()}
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    network(images)
    counted = network.weights()["exit0/bn1.running_mean"] - 0.9 * before["exit0/bn1.running_mean"]
    network.weights()["exit0/bn1.running_mean"].copy_(before["exit0/bn1.running_mean"])
    network(images)
    again = network.weights()["exit0/bn1.running_mean"] - 0.9 * before["exit0/bn1.running_mean"]
    torch.testing.assert_close(counted, again)  # moved once a pass, not once a width


def test_a_gate_is_put_where_all_features_pass_and_groups_end(resnet):
    space = resnet.divisible.space
    plan = from_text(GATE, space)
    assert plan.gate == "layer1.1.relu_1"
    assert plan.channels["conv1"] == (16, 0, 0)
    assert from_text(f"{GATE}@layer1", space) == plan
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.digest != replace(plan, gate="layer1.0.relu_1").digest
    later = from_text(f"{GATE}@layer2", space)
    assert sum(map(bool, (counts[1] for counts in later.channels.values()))) == 6


def test_gates_that_are_none_are_refused(resnet):
    space = resnet.divisible.space
    plan = from_text(GATE, space)
    with pytest.raises(PlanError, match="no node or module 'layer9' to put a gate after"):
        from_text(f"{GATE}@layer9", space)
    with pytest.raises(PlanError, match="a gate picks one of nested widths"):
        check(replace(plan, nested=False), space)
    with pytest.raises(PlanError, match="where all widths are one; expected counts like"):
        check(replace(plan, gate="layer2.1.relu_1"), space)
    with pytest.raises(PlanError, match="no node 'output'"):
        check(replace(plan, gate="output"), space)
    with pytest.raises(PlanError, match="expected two or more widths"):
        from_text("gate:1", space)
    wide = {**plan.channels, "conv1": (65, 0, 0)}
    with pytest.raises(PlanError, match="sums to 65; the group has 64"):
        check(replace(plan, channels=wide), space)
    layers = (torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 10))
    with pytest.raises(PlanError, match="found no place for a gate"):
        from_text(GATE, read_network(torch.nn.Sequential(*layers), (3, 8, 8)).divisible.space)


def test_a_model_with_a_gate_is_read_as_it_was_written(tmp_path):
    static = read_network(example_network("cifar_resnet", "resnet20"), (3, 32, 32))
    model = model_of(static, GATE)  # whose shortcuts take the thin prefix as far as the classifier
    assert static_costs(model.network).parameters == static_costs(as_network(static)).parameters
    save_model(model, tmp_path / "model.pt")
    again = load_model(tmp_path / "model.pt").network
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        (_, mine), (_, theirs) = model.network.judged(images), again.judged(images)
        torch.testing.assert_close(model.network.numbers(mine), again.numbers(theirs), rtol=0, atol=0)
    own = ("exit0/layer1.0.bn1.weight", "exit1/layer2.0.bn1.running_var")
    assert set(own) <= model.network.weights().keys()
    for key in ("gate/hidden.weight", *own):
        broken = model_of(static, GATE)
        name = broken.network._attribute[key]
        too_large = torch.cat([getattr(broken.network, name).detach()] * 2)
        if name in broken.network._buffers:
            broken.network.register_buffer(name, too_large)
        else:
            broken.network.register_parameter(name, torch.nn.Parameter(too_large))
        save_model(broken, tmp_path / "broken.pt")
        with pytest.raises(CheckpointError, match="as its width is"):
            load_model(tmp_path / "broken.pt")


def small_network(static) -> NestedNetwork:
    return model_of(static, GATE).network


def test_a_gate_learns_which_width_an_image_needs(resnet):
    """The first channel tells: below 0 all widths are right, above it only the widest."""
    network, drawn = small_network(resnet), torch.Generator().manual_seed(0)
    seen = torch.randn(4000, 16, generator=drawn) * 3 + 5
    hard = (seen[:, 0] - 5) / 3
    right = torch.stack([hard < 0, hard < 0, torch.ones_like(hard, dtype=torch.bool)], 1)
    found = training._Judged(seen=seen, losses=torch.where(right, 0.05, 3.0), right=right)
    cost = torch.tensor([0.1, 0.4, 1.0])
    numbers = network.numbers(seen, training._taught(network, found, cost, 0))
    numbers = numbers - 0.5 * training._SHARPNESS * cost
    picked = numbers.argmax(1)
    assert (picked[hard < -0.2] == 0).float().mean() > 0.98
    assert (picked[hard > 0.2] == 2).float().mean() > 0.98
    balance = training._balance(numbers, right, cost)
    moved = (numbers + balance).argmax(1)
    accuracy = right[torch.arange(len(right)), moved].float().mean()
    assert right[:, 2].float().mean() - accuracy <= training._SPARED
    assert cost[moved].mean() < 0.6


def test_only_the_gate_moves_and_always_alike(resnet, monkeypatch):
    monkeypatch.setattr(training, "_STEPS", 20)
    first, second = small_network(resnet), small_network(resnet)
    before = {key: tensor.clone() for key, tensor in first.weights().items()}
    drawn = torch.Generator().manual_seed(1)
    right = torch.rand(200, 3, generator=drawn) < 0.7
    found = training._Judged(
        seen=torch.randn(200, 16, generator=drawn), losses=torch.rand(200, 3, generator=drawn), right=right
    )
    taught = [
        training._taught(each, found, torch.tensor([0.1, 0.3, 1.0]), seed)
        for each, seed in ((first, 3), (second, 3), (second, 4))
    ]
    assert taught[0].keys() == {key for key in before if key.startswith("gate/")}
    assert all(torch.equal(taught[0][key], taught[1][key]) for key in taught[0])
    assert not all(torch.equal(taught[0][key], taught[2][key]) for key in taught[0])
    assert all(torch.equal(tensor, before[key]) for key, tensor in first.weights().items())
