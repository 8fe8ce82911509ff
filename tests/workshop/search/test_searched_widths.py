"""Searching for nested widths: masks are slices, costs stand alone, each width has a target of its own."""

from dataclasses import replace
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from architectures import QUICK, build
from small_networks import example_network

from s2dnas_deploy.bundle.device_profile import STATIC, Profile, StageTimes, probes_in
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.plan import from_text, has_all
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.network.costs import stage_costs, static_costs
from s2dnas_deploy.workshop.network.divided import divided_by
from s2dnas_deploy.workshop.network.division import divide
from s2dnas_deploy.workshop.network.nested import nested_from
from s2dnas_deploy.workshop.network.network import as_network
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.pricing.machine_clock import MachineClock, relative_times, this_device
from s2dnas_deploy.workshop.pricing.price import by_macs
from s2dnas_deploy.workshop.pricing.probes import Probed
from s2dnas_deploy.workshop.reading.read import read_network
from s2dnas_deploy.workshop.search.judging.exit_scores import take_statistics
from s2dnas_deploy.workshop.search.judging.masked_widths import MaskedWidths
from s2dnas_deploy.workshop.search.judging.reward import target_that_fits, targets_of_widths, worth_of_widths
from s2dnas_deploy.workshop.search.judging.shared_weights import SharedWeights
from s2dnas_deploy.workshop.search.judging.train_shared import SharedTask, train_shared
from s2dnas_deploy.workshop.search.space.by_hand import choices_of, largest, smallest, written_by_hand
from s2dnas_deploy.workshop.search.space.make_space import make_space
from s2dnas_deploy.workshop.search.space.space import GroupSlot
from s2dnas_deploy.workshop.search.space.spanning import probe_plans
from s2dnas_deploy.workshop.training.devices import autocast_for
from s2dnas_deploy.workshop.training.settings import Settings

CPU = torch.device("cpu")
SLOW = ("resnext50_32x4d", "densenet121", "mobilenet_v2", "efficientnet_b0")
NAMES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.fixture(scope="module")
def static() -> StaticNetwork:
    read = read_network(example_network("digits_cnn", "digits_cnn"), (1, 8, 8))
    return StaticNetwork(divisible=read.divisible, weights={k: t.double() for k, t in read.weights.items()})


@pytest.fixture(scope="module")
def space(static):
    return make_space(static.divisible.space, stages=3, plan_kind="widths")


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_what_a_width_has_not_is_zero(name):
    size = 96 if name in ("googlenet", "squeezenet1_1") else 64
    read = read_network(build(name), (3, size, size))
    static = replace(read, weights={key: tensor.double() for key, tensor in read.weights.items()})
    space = make_space(static.divisible.space, stages=3, plan_kind="widths")
    plan = space.plan(space.draw(np.random.default_rng(3)))
    images = torch.randn(1, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    masked = MaskedWidths(divide(static.divisible, plan)).eval().answers(images, static.weights)
    for ours, sliced in zip(masked, nested_from(static, plan).eval()(images), strict=True):
        torch.testing.assert_close(ours, sliced, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["full", "paper"])
def test_only_divisions_are_chosen_and_each_width_is_wider(static, kind):
    space = make_space(static.divisible.space, stages=3, plan_kind="widths", kind=kind)
    assert all(isinstance(slot, GroupSlot) for slot in space.slots)
    rng, price = np.random.default_rng(0), by_macs(static)
    for choices in [smallest(space), largest(space), *(space.draw(rng) for _ in range(20))]:
        plan = space.plan(choices)  # checked against every rule of plans
        assert plan.nested
        costs = price(divided_by(static, plan))
        assert 0 < costs[0] < costs[1] < costs[2] == 1
        if kind == "paper":
            assert all(min(counts) > 0 for counts in plan.channels.values())


def test_tried_in_turn_the_widest_need_not_have_all_and_blocks_may_be_all_that_it_has_more():
    static = read_network(example_network("cifar_resnet", "resnet20"), (3, 32, 32))
    space = make_space(static.divisible.space, stages=2, plan_kind="in-turn")
    rng, price = np.random.default_rng(0), by_macs(static)
    plans = [space.plan(choices) for choices in {space.draw(rng) for _ in range(30)}]
    assert all(plan.in_turn for plan in plans)
    assert not any(has_all(plan, 1, space.plans) for plan in plans)
    costs = [price(divided_by(static, plan)) for plan in plans]
    assert all(0 < first < both for first, both in costs)
    assert {has_all(space.plan(choices), 1, space.plans) for choices in written_by_hand(space)} == {True}
    blocks_alone = from_text("in-turn:1x0.34,1x0.67", space.plans)
    choices = choices_of(
        make_space(space.plans, stages=2, plan_kind="in-turn", known=blocks_alone), blocks_alone
    )
    assert choices is not None
    paper = make_space(space.plans, stages=2, plan_kind="in-turn", kind="paper")
    assert all(has_all(paper.plan(paper.draw(rng)), 1, space.plans) for _ in range(5))


def test_a_width_costs_what_its_graph_does(static, space):
    plan = space.plan(space.draw(np.random.default_rng(1)))
    whole = static_costs(as_network(static)).macs
    own = [costs.macs / whole for costs in stage_costs(nested_from(static, plan))]
    assert by_macs(static)(divided_by(static, plan)) == pytest.approx(own)


def test_probes_are_the_graphs_of_widths(static, space):
    in_turn = probe_plans(make_space(static.divisible.space, stages=3, plan_kind="in-turn"))
    assert [plan.stages for plan in in_turn.values()] == [1] + [2] * (len(in_turn) - 1)
    probes = probe_plans(space)
    assert probes.pop(STATIC).stages == 1
    assert {plan.stages for plan in probes.values()} == {2}
    assert len({plan.digest for plan in probes.values()}) == len(probes)
    graphs = {str(divided_by(static, plan).stages[0].nodes) for plan in probes.values()}
    known = [divided_by(static, space.plan(choices)) for choices in (smallest(space), largest(space))]
    assert {str(known[0].stages[0].nodes), str(known[1].stages[1].nodes)} <= graphs


def test_by_hand_comes_first_what_is_near_the_targets(static, space):
    first, *_ = written_by_hand(space, targets_of_widths(0.25, 3))
    costs = by_macs(static)(divided_by(static, space.plan(first)))
    assert costs == pytest.approx((0.25, 0.5, 1), abs=0.15)


@pytest.mark.parametrize(("in_turn", "expected"), [(False, (0.25, 0.5, 1)), (True, (0.25, 0.75, 1.75))])
def test_widths_are_timed_each_by_itself(static, space, tmp_path, in_turn, expected):
    plan, asked = replace(space.plan(largest(space)), in_turn=in_turn), []

    def timer(folder, **options):
        plans = probes_in(folder)
        asked.extend(name for name in plans if name != STATIC)
        times = {
            name: StageTimes(stage_ms=(1.0 + asked.index(name) if name in asked else 4.0,), reference_ms=4.0)
            for name in plans
        }
        return Profile(device=this_device(), input_shape=static.graph.input_shape, plans=plans, times=times)

    single = {key: tensor.float() for key, tensor in static.weights.items()}
    probed = Probed.made_up(replace(static, weights=single))
    clock = MachineClock(probed=probed, folder=tmp_path, timer=timer, reporter=create_autospec(Reporter))
    times = clock.times([plan], "times.json", called="plans")
    assert relative_times(plan, times[plan.digest]) == expected
    assert len(asked) == 2, "the widest is the static network"
    clock.times([plan], "times.json", called="plans")
    assert len(asked) == 2, "what is kept is not timed anew"


def test_each_width_has_a_target_of_its_own():
    assert targets_of_widths(0.125, 4) == pytest.approx((0.125, 0.25, 0.5, 1))
    truth = np.zeros(4, np.int64)
    label = np.array([[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]])
    scores = ExitScores(label=label, confidence=np.ones((3, 4), np.float32), truth=truth)
    worth = worth_of_widths(scores, (0.25, 0.5, 1.0), 0.25)
    assert worth.fits
    assert worth.reward == worth.accuracy == pytest.approx((0.25 + 0.5 + 1) / 3)
    assert worth.cost == pytest.approx(1.75 / 3)
    assert not worth_of_widths(scores, (0.2, 0.75, 1.0), 0.25).fits  # the one in the middle is over
    assert target_that_fits((0.2, 0.75, 1.0)) == pytest.approx(0.75**2)
    assert worth_of_widths(scores, (0.2, 0.75, 1.0), 0.75**2).fits
    over = worth_of_widths(scores, (0.25, 1.0, 1.0), 0.25)
    assert over.reward == pytest.approx(worth.reward - 0.5 / 3)


def test_shared_weights_learn_for_all_widths(tmp_path):
    digits = load_images("digits", input_shape=(1, 8, 8), seed=0)
    read = read_network(example_network("digits_cnn", "digits_cnn"), (1, 8, 8))
    space = make_space(read.divisible.space, stages=3, plan_kind="widths")
    preprocessing = Preprocessing(input_shape=(1, 8, 8), mean=(0.3,), std=(0.4,))
    settings = Settings(epochs=2, lr=0.05, augment="none", ema=0.9, precision="float32", distill=0.0)
    task = SharedTask(
        static=read,
        space=space,
        splits=digits,
        preprocessing=preprocessing,
        settings=settings,
        folder=tmp_path,
    )
    shared = train_shared(task, lambda done, total, note: None)
    plan = space.plan(space.draw(np.random.default_rng(5)))
    images = (digits.val.images.float() / 255 - 0.3) / 0.4

    def right(weights: SharedWeights) -> list[float]:
        network = weights.divided(divide(read.divisible, plan))
        take_statistics(network, digits.train.images, preprocessing, CPU, autocast_for("float32", CPU))
        with torch.no_grad():
            return [float((z.argmax(1) == digits.val.labels).float().mean()) for z in network.eval()(images)]

    assert min(right(shared)) > 0.5 > max(right(SharedWeights(read, space)))
