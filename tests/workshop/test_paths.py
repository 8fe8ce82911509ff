"""Whole paths: each has the channels that run for half of its images, and what is cheaper comes first."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from other_systems import with_drawn_gates  # noqa: E402
from small_networks import example_network  # noqa: E402

from s2dnas_deploy.bundle.preprocessing import Preprocessing  # noqa: E402
from s2dnas_deploy.errors import PlanError  # noqa: E402
from s2dnas_deploy.plan import usual_gate  # noqa: E402
from s2dnas_deploy.workshop.data.labelled import LabelledImages  # noqa: E402
from s2dnas_deploy.workshop.network.blocks import blocks_of, gated, without_gates  # noqa: E402
from s2dnas_deploy.workshop.network.costs import stage_costs  # noqa: E402
from s2dnas_deploy.workshop.network.nested import planned  # noqa: E402
from s2dnas_deploy.workshop.network.network import as_static  # noqa: E402
from s2dnas_deploy.workshop.network.static_network import run_graph  # noqa: E402
from s2dnas_deploy.workshop.reading.read import read_network  # noqa: E402
from s2dnas_deploy.workshop.training.batches import normalised  # noqa: E402
from s2dnas_deploy.workshop.training.paths import _plan, _runs, paths_of  # noqa: E402

PREPROCESSING = Preprocessing(input_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture(scope="module")
def static():
    return read_network(example_network("cifar_resnet", "resnet20"), (3, 32, 32))


@pytest.fixture(scope="module")
def images():
    drawn = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 3, 32, 32), generator=drawn, dtype=torch.uint8)
    return LabelledImages(images=pixels, labels=torch.zeros(60, dtype=torch.int64))


@torch.no_grad()
def test_a_path_has_what_runs_for_half_of_its_images(static, images):
    network = with_drawn_gates(static, 0)
    plain, plan = paths_of(as_static(network), images, PREPROCESSING, 3)
    assert plan.stages == 3
    pixels = normalised(images.images, PREPROCESSING, torch.device("cpu"))
    network(pixels)
    cheap, dear = network.spent.argsort(stable=True).tensor_split(2)
    on, prefix = network.channels_on, plain.divisible.space.covered_by(plan.gate)
    assert len(on) == len(blocks_of(static.graph)) == 9
    for group in plain.divisible.space.groups:
        (inner,) = [name for name in on if name in group.nodes] or [None]
        counts = plan.channels[group.name]
        if inner is None:
            assert counts == (group.channels, 0, 0)
            continue
        wanted = [max(1, int((on[inner][rows].mean(0) >= 0.5).sum())) for rows in (cheap, dear)]
        wanted[1] = max(wanted)
        if group.nodes & prefix:
            assert counts == (wanted[0], 0, 0)
        else:
            assert counts == (wanted[0], wanted[1] - wanted[0], group.channels - wanted[1])
        first = plain.divisible.group_atoms[group.name][0]
        assert (
            on[inner].mean(0)[plain.divisible.atoms[inner].tolist().index(first)] == on[inner].mean(0).max()
        )
    costs = [each.macs for each in stage_costs(planned(plain, plan))]
    assert costs == sorted(costs)


@torch.no_grad()
def test_without_its_gates_it_is_the_network_that_it_was(static):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    plain = without_gates(gated(static).static)
    assert [node.name for node in plain.graph.nodes] == [node.name for node in static.graph.nodes]
    ours, theirs = (run_graph(each.graph, each.weights, images) for each in (plain, static))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_network_that_never_learned_to_is_refused(static, images):
    with pytest.raises(PlanError, match="train one by --plan blocks"):
        paths_of(static, images, PREPROCESSING, 3)
    with pytest.raises(PlanError, match="one path only"):
        paths_of(gated(static).static, images, PREPROCESSING, 3)


class Grouped(torch.nn.Module):
    """A residual block whose channels go in groups of four."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 16, 3, padding=1)
        self.reduce, self.expand = torch.nn.Conv2d(16, 16, 1), torch.nn.Conv2d(16, 16, 1)
        self.grouped = torch.nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.more, self.last = torch.nn.Conv2d(16, 16, 3), torch.nn.Conv2d(16, 16, 3)
        self.classifier = torch.nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (x + self.expand(self.grouped(self.reduce(x).relu()).relu())).relu()
        return self.classifier(self.last(self.more(x).relu()).mean((2, 3)))


def test_channels_that_go_together_run_if_one_of_them_does(images):
    static = read_network(Grouped(), (3, 8, 8))
    group = next(each for each in static.divisible.space.groups if each.granule == 4)
    (block,) = gated(static).blocks
    name = next(name for name in block.channel_gates if name in group.nodes)
    on = torch.ones(8, 16)
    on[:, 3::4] = 0  # the last of each four never
    runs = _runs(static.divisible, {name: on}, torch.arange(8).tensor_split(2))
    assert runs[:, static.divisible.group_atoms[group.name]].tolist() == [[1.0] * 4] * 2


def test_paths_that_differ_before_the_gate_only_are_one(static):
    """There, all have what the first has."""
    divisible = static.divisible
    prefix = divisible.space.covered_by(usual_gate(divisible.space))
    inner = [name for block in gated(static).blocks for name in block.channel_gates]
    runs = np.full((2, 1 + max(int(own.max()) for own in divisible.atoms.values())), np.nan)
    for name in inner:
        own = divisible.atoms[name]
        runs[:, own] = 0.0
        runs[:, own[: len(own) // 2]] = 1.0
        if name in prefix:
            runs[1, own] = 1.0
    assert any(name in prefix for name in inner)
    plan = _plan(divisible, runs, 1)
    assert plan.stages == 2
    assert {plan.channels[g.name][1] for g in divisible.space.groups if g.nodes & prefix} == {0}
    aligned = _plan(divisible, runs, 6)
    assert {counts[0] % 6 for counts in aligned.channels.values() if counts[1]} == {0}
