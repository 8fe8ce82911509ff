"""Candidates hold no numbers, and are the same in effect if the same stages come of them, and only then."""

import pickle

import numpy as np
import pytest
from small_networks import residual

from s2dnas_deploy.plan import OUTPUT, Plan
from s2dnas_deploy.workshop.network.costs import stage_costs
from s2dnas_deploy.workshop.network.network import carry_over
from s2dnas_deploy.workshop.pricing.price import by_macs
from s2dnas_deploy.workshop.search.space.candidate import candidate_of
from s2dnas_deploy.workshop.search.space.make_space import make_space
from s2dnas_deploy.workshop.search.strategies.strategy import Judge


def plan(conv1, widen=(16, 8, 8), no_reuse=()):
    """Stage 0 owns the stem, and with it the sum: what others own of conv1 leads nowhere."""
    channels = {"stem": (16, 0, 0), "conv1": conv1, "widen": widen}
    return Plan(channels=channels, exits=(OUTPUT,) * 3, no_reuse=frozenset(no_reuse))


def effect_of(static, plan):
    return candidate_of(static, (), plan).effect


@pytest.fixture(scope="module")
def static():
    return residual()


def test_channels_that_lead_nowhere_make_no_difference(static):
    known = effect_of(static, plan((8, 8, 8)))
    assert effect_of(static, plan((8, 0, 16))) == known
    assert effect_of(static, plan((8, 16, 0))) == known


def test_others_do(static):
    effects = [
        effect_of(static, each)
        for each in (plan((8, 8, 8)), plan((16, 8, 0)), plan((8, 8, 8), widen=(8, 16, 8)))
    ]
    assert len(set(effects)) == 3


def test_of_one_effect_all_is_the_same(static):
    """Drawn plans that are told to be the same cost the same in each stage."""
    space = make_space(static.divisible.space, stages=3, align=4)
    rng, known = np.random.default_rng(0), {}
    for _ in range(200):
        drawn = space.plan(space.draw(rng))
        costs = tuple(costs.macs for costs in stage_costs(carry_over(static, drawn)))
        assert known.setdefault(effect_of(static, drawn), costs) == costs
    assert len(known) < 200, "some were the same"


def test_a_candidate_that_waits_takes_no_memory_for_numbers_and_can_be_sent(static):
    candidate = candidate_of(static, (1, 2), plan((8, 8, 8)))
    sent = pickle.loads(pickle.dumps(candidate))  # noqa: S301 - our own
    assert (sent.choices, sent.plan, sent.effect) == ((1, 2), plan((8, 8, 8)), candidate.effect)
    assert by_macs(static)(sent) == by_macs(static)(candidate)
    weights = [tensor for stage in candidate.stages for tensor in stage.weights.values()]
    assert weights
    assert all(tensor.is_meta for tensor in weights)


def test_a_candidate_is_made_once():
    """Of those asked about again none is, and those of one effect are not evaluated."""
    made, evaluated = [], []

    def candidate_of_choices(choices):
        made.append(choices)
        return sum(choices)

    def evaluate(candidates):
        evaluated.extend(candidates)
        return [float(each) for each in candidates]

    judge = Judge(evaluate, 9, candidate_of=candidate_of_choices, effect=lambda candidate: candidate)
    assert judge([(1, 2), (2, 1), (4, 0)]) == [3.0, 3.0, 4.0]
    assert judge([(2, 1), (4, 0), (5, 0)]) == [3.0, 4.0, 5.0]
    assert made == [(1, 2), (2, 1), (4, 0), (5, 0)]
    assert evaluated == [3, 4, 5]


def test_a_judge_asks_about_an_effect_once():
    asked = []

    def evaluate(choices):
        asked.extend(choices)
        return [float(sum(each)) for each in choices]

    judge = Judge(evaluate, 3, candidate_of=tuple, effect=lambda choices: choices[0])
    assert judge([(1, 5), (1, 7), (2, 0)]) == [6.0, 6.0, 2.0]
    assert judge([(1, 9), (3, 0), (4, 0)]) == [6.0, 3.0, None]
    assert asked == [(1, 5), (2, 0), (3, 0)]
    assert list(judge.scores) == asked
    assert judge.left == 0
