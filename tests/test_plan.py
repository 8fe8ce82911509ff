"""Plans: constructors give legal ones, illegal ones are refused with what would be legal."""

import json
from dataclasses import replace

import numpy as np
import pytest
from small_networks import example_network, residual

from s2dnas_deploy import plan as plans
from s2dnas_deploy.errors import PlanError
from s2dnas_deploy.plan import OUTPUT, Plan, check
from s2dnas_deploy.plan.text import in_words
from s2dnas_deploy.workshop.reading.read import read_network


@pytest.fixture(scope="module")
def space():
    return residual().divisible.space


@pytest.fixture(scope="module")
def legal(space):
    return plans.uniform(space, [0.25, 0.25, 0.5])


def changed(plan, **channels):
    return Plan(channels={**plan.channels, **channels}, exits=plan.exits, no_reuse=plan.no_reuse)


def test_groups_tie_what_a_residual_add_ties(space):
    sizes = {group.name: group.channels for group in space.groups}
    assert sizes == {"stem": 16, "conv1": 24, "widen": 32}
    assert {"stem", "norm", "relu", "conv2", "add"} <= space.group["stem"].nodes


def test_static_gives_all_to_one_stage(space):
    assert plans.static(space).channels == {"stem": (16,), "conv1": (24,), "widen": (32,)}


def test_uniform_divides_every_group_alike(legal):
    assert legal.channels == {"stem": (4, 4, 8), "conv1": (6, 6, 12), "widen": (8, 8, 16)}
    assert legal.exits == (OUTPUT,) * 3


def test_uniform_rounds_to_the_alignment(space):
    assert plans.uniform(space, [0.3, 0.7], align=8).channels["widen"] == (8, 24)


@pytest.mark.parametrize("fractions", [[0.5, 0.4], [1.5, -0.5], []])
def test_uniform_refuses_fractions_that_are_none(space, fractions):
    with pytest.raises(PlanError, match="positive fractions that sum to 1"):
        plans.uniform(space, fractions)


def test_depth_gives_a_stage_all_before_its_exit(space):
    plan = plans.depth(space, ["relu"])
    assert plan.channels == {"stem": (16, 0), "conv1": (0, 24), "widen": (0, 32)}
    assert plan.exits == ("relu", OUTPUT)


@pytest.mark.parametrize("seed", range(30))
def test_random_plans_are_legal_and_seeded(space, seed):
    plan = plans.random(space, 2 + seed % 3, np.random.default_rng(seed))
    check(plan, space)
    assert plan == plans.random(space, 2 + seed % 3, np.random.default_rng(seed))


def test_random_plans_use_the_whole_space(space):
    rng = np.random.default_rng(0)
    drawn = [plans.random(space, 3, rng) for _ in range(60)]
    assert any(exit_ != OUTPUT for plan in drawn for exit_ in plan.exits)
    assert any(plan.no_reuse for plan in drawn)
    assert any(0 in counts for plan in drawn for counts in plan.channels.values())


def test_full_depth_plans_exit_at_the_output_only(space):
    rng = np.random.default_rng(0)
    assert all(set(plans.random(space, 3, rng, full_depth=True).exits) == {OUTPUT} for _ in range(20))


def test_json_round_trip(legal):
    plan = Plan(channels=legal.channels, exits=legal.exits, no_reuse=frozenset({"conv1"}))
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ('{"a": [1, 2], "b": [1]}', "group 'b': \\[1\\] has 1 counts; expected one per stage, 2"),
        ('{"a": [0, 0]}', "no width owns any channel"),
        ("{}", "no width owns any channel"),
    ],
)
def test_a_document_that_no_network_can_have_is_refused_without_one(channels, message):
    head = '{"format": "s2dnas-plan", "version": 1, "exits": ["output", "output"], "nested": true'
    with pytest.raises(PlanError, match=message):
        Plan.from_json(f'{head}, "channels": {channels}}}')


def test_digest_is_of_the_decision_not_of_its_spelling(legal):
    backwards = Plan(channels=dict(reversed(legal.channels.items())), exits=legal.exits)
    assert backwards.digest == legal.digest
    assert changed(legal, stem=(8, 4, 4)).digest != legal.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem": (4, 4, 4)}, "sums to 12; the group has 16"),
        ({"stem": (8, 8)}, "2 counts; expected one per stage, 3"),
        ({"stem": (20, -8, 4)}, "negative count"),
        ({"steem": (4, 4, 8)}, "no channel group 'steem'; did you mean stem"),
        ({"stem": (0, 8, 8)}, "stage 0 owns outputs of layer 'widen' but none of its inputs"),
        ({"widen": (0, 16, 16)}, "stage 0 exits at 'output', where stages 0 to 0 own nothing"),
    ],
)
def test_illegal_divisions_say_what_would_be_legal(legal, space, change, message):
    with pytest.raises(PlanError, match=message):
        check(changed(legal, **change), space)


def test_missing_group_is_named(legal, space):
    plan = Plan(channels={"stem": (4, 4, 8)}, exits=legal.exits)
    with pytest.raises(PlanError, match="does not divide 2 of the channel groups: conv1, widen"):
        check(plan, space)


@pytest.mark.parametrize(
    ("exits", "message"),
    [
        (("relu", "relu"), "last stage must exit at 'output'"),
        (("nowhere", OUTPUT), "no node 'nowhere' to exit at"),
        (("add", "relu", OUTPUT), "not before stage 1's exit 'relu'"),
    ],
)
def test_illegal_exits(space, exits, message):
    with pytest.raises(PlanError, match=message):
        plans.depth(space, exits[:-1]) if exits[-1] == OUTPUT else check(
            Plan(channels={}, exits=exits), space
        )


def test_a_stage_past_its_exit_owns_nothing(space):
    plan = plans.depth(space, ["relu"])
    with pytest.raises(PlanError, match="before this group begins, so it must own 0"):
        check(changed(plan, widen=(16, 16)), space)


def test_an_idle_stage_is_refused(legal, space):
    plan = changed(legal, stem=(4, 0, 12), conv1=(6, 0, 18), widen=(8, 0, 24))
    with pytest.raises(PlanError, match="stage 1 computes nothing"):
        check(plan, space)


def test_no_reuse_needs_something_of_its_own(legal, space):
    plan = Plan(
        channels={**legal.channels, "conv1": (12, 0, 12)}, exits=legal.exits, no_reuse=frozenset({"conv2"})
    )
    with pytest.raises(PlanError, match="remove the layer from no_reuse"):
        check(plan, space)


def test_grouped_convolutions_keep_their_width_together():
    import torch
    from torch import nn

    network = nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.Conv2d(16, 32, 3, groups=4),
        nn.Conv2d(32, 8, 1),
        nn.Flatten(),
        nn.Linear(8 * 36, 3),
    )
    torch.manual_seed(0)
    space = read_network(network, (3, 8, 8)).divisible.space
    group = space.group["0"]
    assert (group.channels, group.granule) == (16, 4)
    plan = plans.static(space)
    with pytest.raises(PlanError, match="6 is not a multiple of 4"):
        check(Plan(channels={"0": (6, 10), "2": (4, 4)}, exits=(OUTPUT, OUTPUT)), space)
    assert plan.channels == {"0": (16,), "2": (8,)}


def test_option_a_shortcuts_divide_the_padding_apart():
    network = read_network(example_network("cifar_resnet", "resnet20", shortcut="A"), (3, 32, 32))
    sizes = [group.channels for group in network.divisible.space.groups if "add" in " ".join(group.nodes)]
    assert sorted(sizes) == [16, 16, 32]


def plan_document(**changes):
    whole = {"format": "s2dnas-plan", "version": 1, "exits": [OUTPUT], "channels": {}}
    return json.dumps({**whole, **changes})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[]", "expected an object"),
        ("{}", 'expected "s2dnas-plan", as s2dnas-inspect --write-plan writes it, got none'),
        ("{", "expected JSON"),
        ("[" * 100_000, "at most 64 lists and objects within each other"),
        (plan_document(version=9), "version: expected 1, which this release reads, got 9"),
        (plan_document(exits=[]), "exits: expected a list of length 1 to 16"),
        (plan_document(exits=["a"] * 17), "exits: expected a list of length 1 to 16"),
        (plan_document(channels={"a": ["4"]}), r"channels\['a'\]\[0\]: expected a whole number, got '4'"),
        (plan_document(channels={"a": [2**60]}), r"channels\['a'\]\[0\]: expected a whole number from 0 to"),
        (plan_document(channels={"a": [-1]}), r"channels\['a'\]\[0\]: expected a whole number from 0 to"),
        (plan_document(stages=2), '"stages" is 2 but "exits" lists 1'),
        (plan_document(x=1), "expected no other keys, got 'x'"),
    ],
)
def test_malformed_documents_are_refused(document, message):
    with pytest.raises(PlanError, match=message):
        Plan.from_json(document)


def test_only_plain_nested_widths_are_tried_in_turn(space, legal):
    in_turn = plans.widths(space, [0.25, 1], in_turn=True)
    plans.check(in_turn, space)
    assert Plan.from_json(in_turn.to_json()) == in_turn
    assert in_turn.digest != replace(in_turn, in_turn=False).digest
    for wrong in (replace(legal, in_turn=True), replace(plans.gated(space, [0.5, 1]), in_turn=True)):
        with pytest.raises(PlanError, match="in_turn"):
            plans.check(wrong, space)


@pytest.mark.parametrize("text", ["uniform", "uniform:a,b", "random:x", "half", "depth:"])
def test_unreadable_plan_texts_are_refused(space, text):
    with pytest.raises(PlanError):
        plans.from_text(text, space)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unifrom:0.5,0.5", "did you mean uniform:0.5,0.5?"),
        ("Static", "did you mean static?"),
        ("uniform:25,25,50", "which sum to 100: write 0.25,0.25,0.5"),
        ("uniform:1,1,1", "which sum to 3: write 0.333,0.333,0.333"),
        ("widths:25,50,100", "write 0.25,0.5,1"),
        ("in-turn:1,0.5", "expected two or more widths, each above the one before"),
        ("random:99", "a plan has 1 to 16 stages, got 99"),
        ("gate:0.5", "expected two or more widths"),
    ],
)
def test_what_suits_no_network_is_told_by_the_text_alone(text, message):
    with pytest.raises(PlanError) as refused:
        in_words(text)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("depth:layer1,laier2", "no node or module 'laier2' to exit at; did you mean layer2"),
        ("depth:layer1.2.relu1", "did you mean layer1.2.relu_1"),
        ("gate:0.5,1@leyer1", "no node or module 'leyer1' to put a gate after; did you mean layer1"),
        ("depth:xyz", "no node or module 'xyz' to exit at; there are layer1, "),
    ],
)
def test_misspelled_nodes_and_modules_are_told_with_what_was_meant(text, hint):
    space = read_network(example_network("cifar_resnet", "resnet20"), (3, 32, 32)).divisible.space
    with pytest.raises(PlanError) as refused:
        plans.from_text(text, space)
    assert hint in str(refused.value)


def test_plan_texts(space):
    assert plans.from_text("static", space) == plans.static(space)
    assert plans.from_text("uniform:0.5,0.5", space) == plans.uniform(space, [0.5, 0.5])
    nested = plans.widths(space, [0.25, 1])
    assert plans.from_text("widths:0.25,1", space) == nested
    assert plans.from_text("in-turn:0.25,1", space) == replace(nested, in_turn=True)
    assert plans.from_text("depth:relu", space) == plans.depth(space, ["relu"])
    assert plans.from_text("random:3", space, seed=5) == plans.random(space, 3, np.random.default_rng(5))


def test_a_modules_name_stands_for_its_last_node():
    space = read_network(example_network("cifar_resnet", "resnet20"), (3, 32, 32)).divisible.space
    plan = plans.from_text("depth:layer1,layer2", space)
    assert plan.exits == ("layer1.2.relu_1", "layer2.2.relu_1", OUTPUT)
