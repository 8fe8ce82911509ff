"""Plans that are tried without a search: legal, of all kinds, each once, in blocks that kernels like."""

import pytest
from small_networks import example_network, residual

from s2dnas_deploy.plan import OUTPUT, check
from s2dnas_deploy.workshop.forecast.candidates import candidates, halves
from s2dnas_deploy.workshop.network.divided import divided_by
from s2dnas_deploy.workshop.reading.read import read_network

torch = pytest.importorskip("torch")
nn = torch.nn


@pytest.fixture(scope="module")
def resnet():
    return read_network(example_network("cifar_resnet", "resnet20"), (3, 32, 32))


def test_each_is_legal_and_another_network_than_the_others(resnet):
    for static in (resnet, residual()):
        plans = candidates(static)
        for plan in plans:
            check(plan, static.divisible.space)
        assert len({divided_by(static, plan).effect for plan in plans}) == len(plans) > 3


def test_there_are_exits_in_depth_widths_mixes_and_widths_in_turn(resnet):
    plans = candidates(resnet)
    in_depth = [plan for plan in plans if len(set(plan.exits)) == plan.stages and not plan.no_reuse]
    in_width = [plan for plan in plans if set(plan.exits) == {OUTPUT} and not plan.nested]
    in_turn = [plan for plan in plans if plan.in_turn]
    mixed = [plan for plan in plans if plan.no_reuse and plan.exits[0] != OUTPUT]
    assert {plan.stages for plan in in_depth} >= {2, 3}
    assert {bool(plan.no_reuse) for plan in in_width} == {True, False}
    assert mixed
    owned = {sum(map(sum, plan.channels.values())) for plan in in_turn}
    assert len(owned) > 2, "some leave channels or blocks out of all widths"
    assert {plan.stages for plan in in_turn} == {2, 3}
    for plan in in_depth:
        owners = [sum(count > 0 for count in counts) for counts in plan.channels.values()]
        assert set(owners) == {1}  # each group is one stage's


def test_groups_are_divided_in_blocks_where_they_are_wide_enough():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(3, 96, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(96, 24, 3),
                nn.ReLU(),
                nn.Conv2d(24, 7, 1),
            )
            self.fc = nn.Linear(7, 5)

        def forward(self, x):
            return self.fc(self.body(x).mean((2, 3)))

    static = read_network(Wide(), (3, 8, 8))
    divided = halves(static.divisible.space)
    assert sorted(divided.channels.values()) == [(4, 3), (16, 8), (48, 48)]
    first = [
        counts[0] for plan in candidates(static) for counts in plan.channels.values() if sum(counts) == 96
    ]
    assert all(count % 16 == 0 for count in first)


def test_a_network_of_one_layer_has_none():
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 1, 3), nn.Linear(1, 5)

        def forward(self, x):
            return self.fc(self.conv(x).mean((2, 3)))

    assert candidates(read_network(One(), (3, 8, 8))) == ()


def test_models_of_this_project_have_candidates():
    gated = read_network(example_network("gated_cnn", "gated_cnn", num_classes=5), (3, 64, 64))
    assert len(candidates(gated)) > 10
