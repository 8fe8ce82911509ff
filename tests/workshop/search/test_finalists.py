"""Finalists are the best, differ from each other, and have those among them that are always looked at."""

from dataclasses import replace

from s2dnas_deploy.plan import OUTPUT, Plan
from s2dnas_deploy.workshop.search.finalists import by_more_than_chance, choose_finalists
from s2dnas_deploy.workshop.search.judging.reward import Worth
from s2dnas_deploy.workshop.search.trials import Trial


def trial(number, reward, *exit_cost):
    worth = Worth(
        reward=reward,
        accuracy=reward,
        cost=0.2,
        exit_accuracy=(reward,) * len(exit_cost),
        exit_cost=exit_cost,
        exit_share=(1.0, 0.0),
        fits=True,
    )
    return Trial(choices=(number,), plan=Plan(channels={}, exits=(OUTPUT,) * 2), worth=worth)


BEST, TWIN, OTHER, THIRD = (
    trial(0, 0.9, 0.1, 0.5),
    trial(1, 0.89, 0.102, 0.51),
    trial(2, 0.8, 0.2, 0.5),
    trial(3, 0.7, 0.3, 0.5),
)
UNIFORM = trial(4, 0.5, 0.1, 0.7)


def test_of_plans_that_are_alike_only_the_best_is_looked_at():
    assert choose_finalists([BEST, TWIN, OTHER, THIRD], [], 3) == [BEST, OTHER, THIRD]
    assert choose_finalists([BEST, TWIN, OTHER, THIRD], [], 2) == [BEST, OTHER]


def test_what_is_always_looked_at_is_among_them():
    worse = trial(5, 0.4, 0.3, 0.9)
    ranked = [BEST, TWIN, OTHER, THIRD, UNIFORM, worse]
    assert choose_finalists(ranked, [UNIFORM], 3) == [BEST, OTHER, UNIFORM]
    assert choose_finalists(ranked, [worse, UNIFORM], 3) == [BEST, UNIFORM, worse]
    assert choose_finalists([UNIFORM, BEST, OTHER], [UNIFORM], 2) == [UNIFORM, BEST]
    twin = trial(6, 0.45, 0.1, 0.5)
    assert choose_finalists([BEST, twin], [twin], 2) == [BEST, twin]


def test_there_may_be_fewer_than_asked_for():
    assert choose_finalists([BEST, TWIN], [], 5) == [BEST]


def test_the_plan_begun_with_wins_unless_another_is_better_by_more_than_chance():
    # 0.8 of 100 images: the standard error is 0.04
    begun_with, hardly, surely = trial(7, 0.8, 0.2, 0.5), trial(8, 0.83, 0.1, 0.5), trial(9, 0.85, 0.1, 0.5)
    assert by_more_than_chance([hardly, begun_with, THIRD], begun_with, 100) == [begun_with, hardly, THIRD]
    assert by_more_than_chance([surely, hardly, begun_with], begun_with, 100) == [surely, begun_with, hardly]
    assert by_more_than_chance([hardly, begun_with], begun_with, 10_000) == [hardly, begun_with]


def test_a_plan_begun_with_that_is_over_the_target_wins_nothing():
    over = trial(7, 0.9, 0.3, 0.5)
    over = replace(over, worth=replace(over.worth, fits=False))
    assert by_more_than_chance([THIRD, over], over, 100) == [THIRD, over]
    assert by_more_than_chance([BEST, OTHER], None, 100) == [BEST, OTHER]
