"""The search space: whatever is chosen is a legal plan, and everything meant to be in it is."""

import functools
from dataclasses import replace

import numpy as np
import pytest
from architectures import ALL, build
from small_networks import example_network, residual
from torch import nn

from s2dnas_deploy import plan as plans
from s2dnas_deploy.errors import OptionError, PlanError
from s2dnas_deploy.plan import OUTPUT, ChannelGroup
from s2dnas_deploy.workshop.network.joints import joints
from s2dnas_deploy.workshop.reading.read import read_network
from s2dnas_deploy.workshop.search.space.by_hand import largest, smallest, uniform_choices
from s2dnas_deploy.workshop.search.space.make_space import divisions, make_space
from s2dnas_deploy.workshop.search.space.space import ExitSlot, GroupSlot


def digits_space(**options):
    static = read_network(example_network("digits_cnn", "digits_cnn"), (1, 8, 8))
    return make_space(static.divisible.space, **{"stages": 3, **options})


@functools.cache
def plans_of(architecture):
    """The space of all plans of a well-known architecture, which takes a while to read."""
    shape = (3, 96, 96) if architecture == "inception_v3" else (3, 64, 64)
    return read_network(build(architecture).eval(), shape).divisible.space


def group(channels, granule=1):
    return ChannelGroup(name="g", channels=channels, granule=granule, nodes=frozenset({"g"}))


@pytest.mark.parametrize("architecture", ALL)
def test_draws_are_legal_plans_of_every_architecture(architecture):
    rng = np.random.default_rng(0)
    for kind, stages in (("full", 3), ("full", 2), ("paper", 3)):
        space = make_space(plans_of(architecture), stages=stages, kind=kind)
        for choices in [smallest(space), largest(space), *(space.draw(rng) for _ in range(20))]:
            plan = space.plan(choices)  # checked against every rule of plans
            assert plan.stages == stages
            if kind == "paper":
                assert set(plan.exits) == {OUTPUT}


def test_every_plan_of_a_small_space_is_there_once_and_legal():
    space = digits_space(stages=2, portions=4)
    every = list(space.every())
    assert len(set(every)) == len(every) > 1000
    assert len({space.plan(choices).digest for choices in every}) == len(every)
    rng = np.random.default_rng(0)
    assert {space.draw(rng) for _ in range(200)} <= set(every)


def test_the_uniform_plans_are_in_it():
    space = digits_space()
    wanted = plans.uniform(space.plans, (0.25, 0.25, 0.5), align=8)
    assert wanted.digest in [space.plan(choices).digest for choices in uniform_choices(space)]


def test_uniform_plans_without_reuse_are_in_it_too():
    static = read_network(
        example_network("mobilenet_v2", "mobilenet_v2", num_classes=10, width=0.5), (3, 32, 32)
    )
    space = make_space(static.divisible.space, stages=3)
    must = 0
    for shared, apart in zip(uniform_choices(space), uniform_choices(space, reuse=False), strict=True):
        before, after = space.plan(shared), space.plan(apart)
        assert (after.channels, after.exits) == (before.channels, before.exits)
        assert before.no_reuse == frozenset()
        assert after.no_reuse
        left = {layer.name for layer in space.plans.layers if not layer.reads_image} - after.no_reuse
        must += len(left)
        for name in left:  # without, a stage would have nothing to read
            with pytest.raises(PlanError):
                plans.check(replace(after, no_reuse=after.no_reuse | {name}), space.plans)
    assert must


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("kind", ["full", "paper"])
def test_uniform_plans_of_every_architecture_divide_what_is_wide_alike(architecture, kind):
    space = make_space(plans_of(architecture), stages=3, kind=kind)
    _, doubling, thin = (space.plan(choices) for choices in uniform_choices(space))
    assert set(doubling.exits) == {OUTPUT}
    for group in space.plans.groups:
        if group.channels % 64 == 0 and group.granule == 1:
            assert doubling.channels[group.name] == tuple(group.channels // n for n in (4, 4, 2))
            assert thin.channels[group.name][0] == group.channels // 8


def test_the_papers_space_is_full_depth_and_every_stage_owns_something():
    space = digits_space(kind="paper")
    assert not any(isinstance(slot, ExitSlot) for slot in space.slots)
    for slot in space.slots:
        if isinstance(slot, GroupSlot):
            assert all(min(counts) > 0 for counts in slot.options)


def test_joints_are_block_ends():
    static = read_network(example_network("cifar_resnet", "resnet20"), (3, 32, 32))
    found = joints(static.divisible.space)
    assert found[:2] == ("relu", "layer1.0.relu_1")
    assert found[-1] == "layer3.1.relu_1"  # the last block's end is what the output reads
    assert len(found) == 9


def test_divisions_come_in_portions():
    assert divisions(group(32), 2, align=8, portions=8, kind="full") == (
        (0, 32),
        (8, 24),
        (16, 16),
        (24, 8),
        (32, 0),
    )
    assert divisions(group(32), 2, align=8, portions=8, kind="paper") == ((8, 24), (16, 16), (24, 8))
    assert all(c % 32 == 0 for cs in divisions(group(256), 3, align=8, portions=8, kind="full") for c in cs)
    assert all(c % 3 == 0 for cs in divisions(group(24, 3), 2, align=8, portions=8, kind="full") for c in cs)
    assert (10, 2) in divisions(group(12), 2, align=5, portions=8, kind="full")  # what is left over


def test_the_first_stage_is_smallest_and_largest():
    space = digits_space()
    small, large = space.plan(smallest(space)), space.plan(largest(space))
    assert small.exits == large.exits == (OUTPUT,) * 3
    for slot in space.slots:
        if isinstance(slot, GroupSlot):
            owned = sorted({counts[0] for counts in slot.options})
            assert small.channels[slot.group.name][0] == owned[1]  # the least above none
            assert large.channels[slot.group.name][0] >= owned[-3]  # all but what two others must own


def test_a_space_of_few_portions_has_plans():
    space = digits_space(kind="paper", portions=3)
    assert len({space.plan(choices).digest for choices in space.every()}) > 1


def test_what_is_no_space_is_refused():
    static = residual()
    for stages in (1, 9):
        with pytest.raises(OptionError, match=f"among 2 to 8 stages, got {stages}"):
            make_space(static.divisible.space, stages=stages)
    with pytest.raises(PlanError, match="choices, got 1"):
        make_space(static.divisible.space, stages=2).plan((0,))
    narrow = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    with pytest.raises(PlanError, match="among 8 stages: 4 can own a part"):
        make_space(read_network(narrow, (3, 8, 8)).divisible.space, stages=8, align=1)
