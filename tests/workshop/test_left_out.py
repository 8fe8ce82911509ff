"""Residual blocks that a stage or a width leaves out: who finds nothing to read gives nothing, exactly."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from architectures import ALL  # noqa: E402
from small_networks import chain_differs_by, example_network, random_plans, residual  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.functional import pad  # noqa: E402
from workshop.test_nested import SIZES, in_double  # noqa: E402

from s2dnas_deploy.errors import PlanError  # noqa: E402
from s2dnas_deploy.plan import OUTPUT, Plan, blocks, check, from_text, narrowed, uniform  # noqa: E402
from s2dnas_deploy.workshop.export.rewrites.rewrite import rewritten  # noqa: E402
from s2dnas_deploy.workshop.forecast.candidates import candidates  # noqa: E402
from s2dnas_deploy.workshop.network.costs import stage_costs  # noqa: E402
from s2dnas_deploy.workshop.network.division import NOTHING, divide  # noqa: E402
from s2dnas_deploy.workshop.network.nested import nested_from  # noqa: E402
from s2dnas_deploy.workshop.network.network import as_network, carry_over  # noqa: E402
from s2dnas_deploy.workshop.network.stages import StageNetwork, slice_stages  # noqa: E402
from s2dnas_deploy.workshop.network.static_network import StaticNetwork  # noqa: E402
from s2dnas_deploy.workshop.reading.read import read_network  # noqa: E402

IMAGES = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def in_doubles(static: StaticNetwork) -> StaticNetwork:
    return replace(static, weights={key: tensor.double() for key, tensor in static.weights.items()})


def resnet20(shortcut: str) -> StaticNetwork:
    network = example_network("cifar_resnet", "resnet20", shortcut=shortcut).eval()
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                tensor.data.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return in_doubles(read_network(network, (3, 32, 32)))


def without(plan: Plan, *groups: str) -> Plan:
    """The plan with all that the first stage owns of some groups given to the second."""
    moved = {
        name: (0, plan.channels[name][0] + plan.channels[name][1], *plan.channels[name][2:])
        for name in groups
    }
    return replace(plan, channels={**plan.channels, **moved})


def test_a_stage_that_owns_nothing_within_a_block_passes_on_what_came_before():
    static = residual()
    plan = without(uniform(static.divisible.space, [0.25, 0.25, 0.5]), "conv1")
    division = divide(static.divisible, plan)
    assert sorted(set(division.levels["conv2"].tolist())) == [1, 2, NOTHING]
    assert sorted(set(division.levels["add"].tolist())) == [0, 1, 2]
    assert chain_differs_by(static, plan, torch.randn(2, 3, 8, 8)) < 1e-5
    first = slice_stages(carry_over(static, plan))[0]
    assert [node.name for node in first.nodes if node.operator == "conv"] == ["stem", "widen"]


@pytest.mark.parametrize("shortcut", ["A", "B"])
@torch.no_grad()
def test_a_width_of_fewer_blocks_is_the_network_whose_other_blocks_give_nothing(shortcut):
    static = resnet20(shortcut)
    network = nested_from(static, from_text("in-turn:1x0.34,1x0.67,1", static.divisible.space)).eval()
    answers = network(IMAGES)
    for width, kept in enumerate((1, 2, 3)):
        silent = dict(static.weights)
        for key, tensor in static.weights.items():
            if ".bn2." in key and int(key.split(".")[1]) >= kept and key.endswith(("weight", "bias")):
                silent[key] = torch.zeros_like(tensor)
        expected = as_network(replace(static, weights=silent)).eval()(IMAGES)[0]
        torch.testing.assert_close(answers[width], expected, rtol=1e-9, atol=1e-9)
        sliced = rewritten(network.sub_networks(), (3, 32, 32), split=True)[width]
        torch.testing.assert_close(StageNetwork(sliced)(IMAGES)[0], expected, rtol=1e-9, atol=1e-9)
        assert sum(
            node.operator == "conv" and len(node.weights) > 1 for node in sliced.nodes
        ) == 1 + 2 * 3 * kept + (2 if shortcut == "B" else 0)
        assert sum(node.attributes.get("function") == "relu" for node in sliced.nodes) == 1 + 2 * 3 * kept
    macs = [cost.macs for cost in stage_costs(network)]
    assert macs[0] < 0.37 * macs[2]


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_blocks_can_be_left_out_of_every_architecture_that_has_shortcuts(name):
    size = SIZES.get(name, 64)
    static = in_double(name, size)
    space = static.divisible.space
    has_shortcuts = name.startswith(("resn", "regnet", "mobilenet", "mnasnet", "efficientnet"))
    assert bool(blocks(space, nested=True)) == has_shortcuts
    if not has_shortcuts:
        with pytest.raises(PlanError, match="no residual block"):
            from_text("in-turn:1x0.5,1", space)
        return
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    network = nested_from(static, from_text("in-turn:0.5x0.5,1", space)).eval()
    answers = network(images)
    masked = carry_over(static, narrowed(network.division.plan, 0, space)).eval()(images)[0]
    torch.testing.assert_close(answers[0], masked, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(answers[1], as_network(static).eval()(images)[0], rtol=0, atol=0)
    plan = without(uniform(space, [0.5, 0.5]), *blocks(space))
    check(plan, space)
    assert chain_differs_by(static, plan, images) < 1e-9


class Weighted(nn.Module):
    """What a product is made of cannot be left out, whereas a sum does without it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = (nn.Conv2d(n, 16, 3, padding=1) for n in (3, 16, 16))
        self.gate, self.open, self.fc = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x + self.outer(self.inner(x).relu())
        x = x * self.open(self.gate(x).relu()).sigmoid()
        return self.fc(x.mean((2, 3)))


def test_what_is_multiplied_must_be_there():
    space = read_network(Weighted(), (3, 8, 8)).divisible.space
    assert blocks(space) == {"inner": "add"}
    plan = uniform(space, [0.5, 0.5])
    check(without(plan, "inner"), space)
    message = (
        "stage 0 owns outputs of layer 'open' but none of its inputs are within its reach; give .* in gate"
    )
    with pytest.raises(PlanError, match=message):
        check(without(plan, "gate"), space)


class Padded(nn.Module):
    """A block whose shortcut adds channels of zeros: without the block there are none such."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, 2, 1)
        self.outer, self.next = nn.Conv2d(12, 16, 3, padding=1), nn.Conv2d(16, 10, 3, padding=1)
        self.last, self.fc = nn.Conv2d(10, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = (self.outer(self.inner(x).relu()) + pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))).relu()
        x = (self.last(self.next(x).relu()) + x).relu()
        return self.fc(x.mean((2, 3)))


def test_zeros_that_a_shortcut_is_padded_with_are_nothing_to_pass_on():
    static = in_doubles(read_network(Padded(), (3, 8, 8)))
    space, images = static.divisible.space, torch.randn(2, 3, 8, 8, dtype=torch.double)
    plan = without(uniform(space, [0.5, 0.5]), "inner")
    check(plan, space)
    assert chain_differs_by(static, plan, images) < 1e-9
    (first, _) = slice_stages(carry_over(static, plan))
    assert not any(node.operator in {"channel_pad", "fill"} for node in first.nodes if "add" in node.name)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_plans_at_random_leave_blocks_out_and_slices_compute_what_masks_do(shortcut):
    static = resnet20(shortcut)
    drawn = random_plans(static, 24)
    within = blocks(static.divisible.space)
    depths = [static.divisible.space.depths(plan.exits) for plan in drawn]
    passes = [
        any(
            plan.channels[name][first] == 0
            for name in within
            if (first := min(depth[n] for n in static.divisible.space.group[name].nodes)) < plan.stages - 1
        )
        for plan, depth in zip(drawn, depths, strict=True)
    ]
    assert sum(passes) > 6
    for plan in drawn:
        assert chain_differs_by(static, plan, IMAGES[:1]) < 1e-9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widths:1x0.5,0.5,1", r"each above the one before.*\['1x0.5', '0.5', '1'\]"),
        ("widths:0.5x1,0.5", "expected two or more widths"),
        ("widths:1x0,1", "expected two or more widths"),
        ("widths:1x,1", "expected numbers"),
        ("in-turn:1x0.4,1x0.5,1", "computes nothing"),
    ],
)
def test_shares_of_blocks_that_are_none_are_refused(text, message):
    with pytest.raises(PlanError, match=message):
        from_text(text, read_network(Padded(), (3, 8, 8)).divisible.space)


@torch.no_grad()
def test_blocks_that_no_width_has_are_in_none():
    static = resnet20("B")
    space = static.divisible.space
    plan, whole = (
        from_text(text, space) for text in ("in-turn:0.5x0.34,1x0.67", "in-turn:0.5x0.34,1x0.67,1")
    )
    left_out = sum(not any(counts) for counts in plan.channels.values())
    assert left_out == 3  # the third block of each three
    network, wider = (nested_from(static, each).eval() for each in (plan, whole))
    torch.testing.assert_close(network(IMAGES), wider(IMAGES)[:2], rtol=0, atol=0)
    assert "exit1/layer1.1.bn1.weight" in network.weights()
    assert "exit1/layer1.2.bn1.weight" not in network.weights()


def test_widths_are_called_by_their_share_of_all_channels():
    space = resnet20("B").divisible.space
    plan = from_text("in-turn:1x0.34,1", space)
    assert plan.width_names == ("half", "full")
    assert plan.exits == (OUTPUT, OUTPUT)
    assert Plan.from_json(plan.to_json()) == plan


class Excited(nn.Module):
    """Two residual blocks whose second layer is scaled by a gate of its own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.widen = nn.ModuleList(nn.Conv2d(16, 32, 1) for _ in range(2))
        self.squeeze = nn.ModuleList(nn.Conv2d(32, 8, 1) for _ in range(2))
        self.excite = nn.ModuleList(nn.Conv2d(8, 32, 1) for _ in range(2))
        self.narrow = nn.ModuleList(nn.Conv2d(32, 16, 1) for _ in range(2))
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        for widen, squeeze, excite, narrow in zip(
            self.widen, self.squeeze, self.excite, self.narrow, strict=True
        ):
            y = torch.relu(widen(x))
            gate = torch.sigmoid(excite(torch.relu(squeeze(y.mean((2, 3), keepdim=True)))))
            x = x + narrow(y * gate)
        return self.fc(x.mean((2, 3)))


@torch.no_grad()
def test_what_gates_a_block_is_left_out_with_it():
    torch.manual_seed(0)
    static = in_doubles(read_network(Excited().eval(), (3, 32, 32)))
    plan = from_text("in-turn:1x0.5,1", static.divisible.space)
    assert plan.channels["squeeze.1"] == (8, 0), "the gate of the block is the first width's, on paper"
    network = nested_from(static, plan).eval()
    silent = {
        key: torch.zeros_like(tensor) if key.startswith("narrow.1") else tensor
        for key, tensor in static.weights.items()
    }
    for answer, weights in zip(network(IMAGES), (silent, static.weights), strict=True):
        expected = as_network(replace(static, weights=weights)).eval()(IMAGES)[0]
        torch.testing.assert_close(answer, expected, rtol=1e-9, atol=1e-9)
    assert len(candidates(static)) > 3
