"""Strategies: they keep to the budget, are the same for the same seed, and find what is there to be found."""

import numpy as np
import pytest
from small_networks import example_network

from s2dnas_deploy.workshop.reading.read import read_network
from s2dnas_deploy.workshop.search.space.make_space import make_space
from s2dnas_deploy.workshop.search.strategies import evolution, policy, random_search
from s2dnas_deploy.workshop.search.strategies.strategy import Judge

STRATEGIES = {"policy": policy.search, "evolution": evolution.search, "random": random_search.search}


@pytest.fixture(scope="module")
def space():
    static = read_network(example_network("digits_cnn", "digits_cnn"), (1, 8, 8))
    return make_space(static.divisible.space, stages=2, portions=4)


def judge_of_choices(evaluate, budget):
    """Choices are all that these judges know of a plan."""
    return Judge(evaluate, budget, candidate_of=tuple, effect=tuple)


def landscape(space, seed):
    """Scores that are sums of what each choice and each pair of neighbouring choices brings."""
    rng = np.random.default_rng(seed)
    single = [rng.normal(size=len(slot.options)) for slot in space.slots]
    pairs = [
        0.7 * rng.normal(size=(len(a.options), len(b.options)))
        for a, b in zip(space.slots, space.slots[1:], strict=False)
    ]

    def score(choices):
        alone = sum(single[t][choice] for t, choice in enumerate(choices))
        return alone + sum(pairs[t][choices[t], choices[t + 1]] for t in range(len(pairs)))

    return score


def found_by(strategy, space, score, budget, seed):
    judge = judge_of_choices(lambda asked: [score(choices) for choices in asked], budget)
    STRATEGIES[strategy](space, judge, np.random.default_rng(seed))
    return judge


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_budget_is_kept_and_no_plan_is_judged_twice(space, strategy):
    judged = []

    def evaluate(asked):
        judged.extend(asked)
        return [0.0] * len(asked)

    judge = judge_of_choices(evaluate, 25)
    STRATEGIES[strategy](space, judge, np.random.default_rng(0))
    assert len(judged) == len(set(judged)) == 25


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_same_seed_same_questions(space, strategy):
    first, again, other = (
        list(found_by(strategy, space, landscape(space, 0), 40, seed).scores) for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_larger_budget_asks_the_same_first(space, strategy):
    few, more = (list(found_by(strategy, space, landscape(space, 0), n, 1).scores) for n in (61, 90))
    assert len(few) == 61
    assert more[:61] == few


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_space_smaller_than_the_budget_ends_a_search(strategy):
    static = read_network(example_network("digits_cnn", "digits_cnn"), (1, 8, 8))
    tiny = make_space(static.divisible.space, stages=2, portions=4, reuse=False, kind="paper")
    judge = found_by(strategy, tiny, landscape(tiny, 0), 10_000, 0)
    assert len(judge.scores) <= len(list(tiny.every()))


@pytest.mark.parametrize("strategy", ["policy", "evolution"])
def test_it_finds_better_plans_than_chance(space, strategy):
    """Paired over seeds: at the same budget, nearly always at least as good as random draws."""
    better = 0
    for seed in range(4):
        score = landscape(space, 100 + seed)
        found, drawn = (found_by(name, space, score, 80, seed) for name in (strategy, "random"))
        better += found.scores[found.best] >= drawn.scores[drawn.best]
    assert better >= 3


def test_what_is_left_of_a_budget_is_answered_and_the_rest_is_not():
    judge = judge_of_choices(lambda asked: [float(choices[0]) for choices in asked], 2)
    assert judge([(1,), (5,), (1,), (7,)]) == [1.0, 5.0, 1.0, None]
    assert judge.left == 0
    assert judge.best == (5,)
