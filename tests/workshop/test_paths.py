"""Whole paths: each has the channels that run for half of its images, and what is cheaper comes first."""

import pytest

torch = pytest.importorskip("torch")

from other_systems import with_drawn_gates  # noqa: E402
from small_networks import example_network  # noqa: E402

from s2dnas_deploy.bundle.preprocessing import Preprocessing  # noqa: E402
from s2dnas_deploy.errors import PlanError  # noqa: E402
from s2dnas_deploy.workshop.data import LabelledImages  # noqa: E402
from s2dnas_deploy.workshop.network.blocks import blocks_of, gated, without_gates  # noqa: E402
from s2dnas_deploy.workshop.network.costs import stage_costs  # noqa: E402
from s2dnas_deploy.workshop.network.nested import planned  # noqa: E402
from s2dnas_deploy.workshop.network.network import as_static  # noqa: E402
from s2dnas_deploy.workshop.network.static_network import run_graph  # noqa: E402
from s2dnas_deploy.workshop.reading.read import read_network  # noqa: E402
from s2dnas_deploy.workshop.training.batches import normalised  # noqa: E402
from s2dnas_deploy.workshop.training.paths import paths_of  # noqa: E402

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
