"""Thresholds from scores: the promise is kept over many draws, and what is chosen is what the rule does."""

import re
from dataclasses import replace

import numpy as np
import pytest

from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.decide.thresholds import (
    NEVER,
    Against,
    Goal,
    choose_for_budget,
    choose_for_promise,
    exits_taken,
    losses_of,
    path_of,
)
from s2dnas_deploy.errors import DataError, OptionError, RecordError

COST = (1.0, 3.0, 10.0)
SKILL = (0.80, 0.88, 0.93)


def population(count: int, seed: int, skill=SKILL) -> ExitScores:
    """Scores with a known truth: an exit that is c sure is right with a probability that grows with c."""
    generator = np.random.default_rng(seed)
    hard = generator.uniform(size=count)  # the same image is hard for every exit
    label, confidence = [], []
    truth = generator.integers(0, 10, count)
    for k, share in enumerate(skill):
        sure = np.clip(1 - hard ** (1 + k) * generator.uniform(0.6, 1.0, count), 0, 1)
        chance = np.clip(share + 1.2 * (sure - sure.mean()), 0.02, 0.995)
        right = generator.uniform(size=count) < chance
        label.append(np.where(right, truth, (truth + 1 + k) % 10))
        confidence.append(sure)
    return ExitScores(label=np.array(label), confidence=np.array(confidence, np.float32), truth=truth)


EVERYONE = population(60_000, 0)  # who is drawn from, so that the truth is known


def true_drop(thresholds) -> float:
    exits = exits_taken(EVERYONE, thresholds)
    return float(losses_of(EVERYONE, Against.LAST_EXIT)[exits, np.arange(len(EVERYONE))].mean())


def draw(count: int, seed: int) -> ExitScores:
    return EVERYONE.of(np.random.default_rng(seed).integers(0, len(EVERYONE), count))


def broken_share(draws: int, count: int, goal: Goal) -> tuple[float, float]:
    drops = []
    for seed in range(draws):
        choice = choose_for_promise(draw(count, seed), goal, COST, np.random.default_rng(seed))
        drops.append(true_drop(choice.point.thresholds))
    return float(np.mean(np.array(drops) > goal.drop)), float(np.mean(drops))


def test_a_promise_is_kept():
    share, mean = broken_share(40, 2000, Goal(drop=0.02))
    assert share <= 0.15  # 5% are allowed; 7 or more of 40 have a probability of 0.3%
    assert 0 < mean < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("count", [1000, 4000])
def test_a_promise_is_kept_over_a_thousand_draws_and_not_by_waste(count):
    share, mean = broken_share(1000, count, Goal(drop=0.02))
    assert 0.005 < share <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)
    assert mean > 0.005


def test_a_promise_against_an_accuracy_and_against_answers_is_kept():
    for goal, reference in (
        (Goal(drop=0.02, against=Against.ACCURACY, accuracy=0.83), EVERYONE.truth),
        (Goal(drop=0.1, against=Against.ANSWERS), EVERYONE.label[-1]),
    ):
        broken = 0
        for seed in range(30):
            choice = choose_for_promise(draw(3000, seed), goal, COST, np.random.default_rng(seed))
            exits = exits_taken(EVERYONE, choice.point.thresholds)
            said = EVERYONE.label[exits, np.arange(len(EVERYONE))]
            broken += (said != reference).mean() > goal.bound
        assert broken <= 6


def beside_a_static_network(scores: ExitScores, known: float) -> ExitScores:
    """It answers as the last exit does, but for 3% by chance and a share that it knows."""
    generator = np.random.default_rng(5)
    other = np.where(generator.uniform(size=len(scores)) < 0.97, scores.label[-1], 10)
    return replace(scores, static=np.where(generator.uniform(size=len(scores)) < known, scores.truth, other))


def test_a_promise_against_the_static_network_is_kept():
    everyone = beside_a_static_network(EVERYONE, 0.1)
    goal = Goal(drop=0.02, against=Against.STATIC)
    broken = 0
    for seed in range(40):
        rows = np.random.default_rng(seed).integers(0, len(everyone), 3000)
        choice = choose_for_promise(everyone.of(rows), goal, COST, np.random.default_rng(seed))
        exits = exits_taken(everyone, choice.point.thresholds)
        broken += losses_of(everyone, Against.STATIC)[exits, np.arange(len(everyone))].mean() > goal.drop
        assert choice.point.shares[0] > 0
    assert broken <= 6  # 5% are allowed


def test_a_static_network_that_is_better_than_the_last_exit():
    everyone = beside_a_static_network(EVERYONE, 0.35)
    behind = float(losses_of(everyone, Against.STATIC)[-1].mean())
    assert 0.005 < behind < 0.05
    few, rng = everyone.of(slice(0, 400)), np.random.default_rng(0)
    with pytest.raises(DataError, match="allow a larger drop, compare with the last exit"):
        choose_for_promise(few, Goal(drop=behind / 2, against=Against.STATIC), COST, rng)
    goal = Goal(drop=behind + 0.02, against=Against.STATIC)
    with pytest.raises(DataError, match=r"give more images, about \d+ if they are like these") as told:
        choose_for_promise(few, goal, COST, rng)
    needed = int(re.search(r"about (\d+)", str(told.value))[1])
    assert choose_for_promise(everyone.of(slice(0, 3 * needed)), goal, COST, rng).proven_on > 0


def test_the_curve_and_the_point_are_what_the_rule_does():
    scores = draw(3000, 1)
    choice = choose_for_promise(scores, Goal(drop=0.02), COST, np.random.default_rng(0))
    losses = losses_of(scores, Against.LAST_EXIT)
    for point in (choice.point, choice.full, *choice.curve):
        exits = []
        for i in range(len(scores)):
            k = 0
            while k < 2 and not scores.confidence[k, i] >= np.float32(point.thresholds[k]):
                k += 1
            exits.append(k)
        assert point.cost == pytest.approx(np.mean([COST[k] for k in exits]))
        assert point.loss == pytest.approx(np.mean([losses[k, i] for i, k in enumerate(exits)]))
        assert point.shares == pytest.approx(tuple(np.bincount(exits, minlength=3) / 3000))
    assert choice.full.thresholds == (NEVER, NEVER)
    assert choice.full.loss == 0
    costs = [point.cost for point in choice.curve]
    assert min(costs) == pytest.approx(COST[0])
    assert max(costs) == pytest.approx(COST[2], rel=0.05)


def test_not_a_number_never_leaves():
    scores = draw(2000, 2)
    scores.confidence[0] = np.nan
    choice = choose_for_promise(scores, Goal(drop=0.05), COST, np.random.default_rng(0))
    assert choice.point.shares[0] == 0
    assert choice.point.cost >= COST[1]


def test_with_nothing_to_lose_everybody_leaves_at_once():
    scores = draw(2000, 3)
    same = ExitScores(label=scores.label[[2, 2, 2]], confidence=scores.confidence, truth=scores.truth)
    choice = choose_for_promise(same, Goal(drop=0.02), COST, np.random.default_rng(0))
    assert choice.point.cost < 1.05 * COST[0]


def test_with_everything_to_lose_nobody_leaves():
    scores = draw(2000, 4)
    wrong = scores.label.copy()
    wrong[:2] = (scores.truth + 1) % 10
    choice = choose_for_promise(
        ExitScores(label=wrong, confidence=scores.confidence, truth=scores.truth),
        Goal(drop=0.02),
        COST,
        np.random.default_rng(0),
    )
    assert choice.point.loss <= 0.02
    assert choice.point.cost > 0.9 * COST[2]


def test_too_few_images_are_told_how_many_it_takes():
    with pytest.raises(
        DataError, match=r"200 images cannot prove a drop of 0.5 points .* it takes 714 to prove"
    ):
        choose_for_promise(draw(200, 0), Goal(drop=0.005), COST, np.random.default_rng(0))


def test_as_many_images_as_it_takes_are_enough():
    choice = choose_for_promise(draw(1000, 0), Goal(drop=0.0038), COST, np.random.default_rng(0))
    assert choice.proven_on == 1000


def test_more_images_that_would_help_are_named():
    choice = choose_for_promise(draw(1500, 5), Goal(drop=0.01), COST, np.random.default_rng(0))
    assert choice.proven_on == 1500
    assert choice.useful_images > 1500


def test_an_accuracy_that_the_last_exit_does_not_have():
    goal = Goal(drop=0.01, against=Against.ACCURACY, accuracy=0.99)
    with pytest.raises(DataError, match=r"even if no image exits early, an accuracy of 98\.00% is"):
        choose_for_promise(draw(2000, 6), goal, COST, np.random.default_rng(0))


def test_a_budget_is_kept_and_used():
    scores = draw(4000, 7)
    losses = []
    for budget in (1.0, 2.0, 4.0, 10.0):
        choice = choose_for_budget(scores, budget, COST)
        assert choice.point.cost <= budget + 1e-9
        assert choice.proven_on == 0
        losses.append(choice.point.loss)
    assert losses == sorted(losses, reverse=True)
    assert choose_for_budget(scores, 4.0, COST).point.cost > 3
    with pytest.raises(OptionError, match="a budget of 1 or more, what exit 0 alone costs"):
        choose_for_budget(scores, 0.5, COST)


def test_a_budget_that_is_just_what_exit_0_costs():
    for seed in range(12):
        cost = np.random.default_rng(seed).uniform(0.1, 1)
        for costs in ((cost, 2 * cost, 3 * cost), (cost, cost, cost)):
            choice = choose_for_budget(draw(50, seed), cost, costs)
            assert choice.point.cost == pytest.approx(cost)


def test_labels_that_are_not_there_are_needed():
    scores = draw(2000, 8)
    unlabelled = ExitScores(label=scores.label, confidence=scores.confidence)
    with pytest.raises(DataError, match="the true class of every image must be known"):
        choose_for_promise(unlabelled, Goal(drop=0.02), COST, np.random.default_rng(0))
    goal = Goal(drop=0.2, against=Against.ANSWERS)
    choice = choose_for_promise(unlabelled, goal, COST, np.random.default_rng(0))
    assert choice.point.accuracy is None
    assert choice.point.loss <= 0.2


def test_paths_fall_from_nobody_to_everybody():
    for offset in (0.0, 1.5):
        path = path_of(offset, 4)
        assert path.shape[0] == 3
        assert (np.diff(path, axis=1) <= 0).all()
        assert (np.diff(path, axis=0) <= 0).all()
        assert path[:, 0].min() > 0.999
        assert path[:, -1].max() < 1e-4


def test_scores_are_kept_and_read(tmp_path):
    scores = draw(50, 9)
    scores.save(tmp_path / "s.npz")
    again = ExitScores.load(tmp_path / "s.npz")
    np.testing.assert_array_equal(again.label, scores.label)
    np.testing.assert_array_equal(again.confidence, scores.confidence)
    np.testing.assert_array_equal(again.truth, scores.truth)
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(RecordError, match="expected exit scores that --scores has kept"):
        ExitScores.load(tmp_path / "bad.npz")
