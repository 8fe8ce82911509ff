"""Promises are kept whatever confidences are: ties, infinities, what is no number, wrong where most sure."""

import numpy as np
import pytest

from s2dnas_deploy.decide.exact_tests import binomial_cdf
from s2dnas_deploy.decide.rules import CONFIDENCE, Threshold
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.decide.thresholds import (
    NEVER,
    Against,
    Goal,
    changes,
    choose_for_promise,
    exits_taken,
    losses_of,
    path_of,
)
from s2dnas_deploy.errors import DataError

ODD = np.float32([1, 1.0000001, 2, 1e30, np.inf, -np.inf, np.nan, 0, -0.0, -5])
ABOVE_1 = (NEVER, 1 + 1e-9, 1.5, 1e300)


def two_exits(confidence, label=0, last=0) -> ExitScores:
    """Images that exit 0 is so sure of; the last exit is right about all."""
    sure = np.stack([np.asarray(confidence, np.float32), np.ones(len(confidence), np.float32)])
    said = np.stack([np.full(len(confidence), label), np.full(len(confidence), last)])
    return ExitScores(label=said, confidence=sure, truth=np.zeros(len(confidence), np.int64))


# --- the rule ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", ABOVE_1)
def test_never_is_never_whatever_the_confidence(threshold):
    rule = Threshold(of=CONFIDENCE, at=threshold)
    assert not rule.reached(ODD).any()
    assert rule.in_words.startswith("never")
    scores = two_exits(ODD, label=1)
    assert exits_taken(scores, [threshold]).tolist() == [1] * len(ODD)
    losses, every = losses_of(scores, Against.LAST_EXIT), np.arange(len(ODD))
    worse, _ = changes(scores, losses, np.array([[threshold, 0.5]]), every)
    assert worse.tolist() == [0, 5]


def test_up_to_1_confidences_are_compared_as_numbers():
    for threshold, leave in ((1.0, ODD >= 1), (0.0, ODD >= 0), (-2.0, ODD >= -2), (-1e300, ~np.isnan(ODD))):
        assert Threshold(of=CONFIDENCE, at=threshold).reached(ODD).tolist() == leave.tolist()
        assert exits_taken(two_exits(ODD), [threshold]).tolist() == (~leave).astype(int).tolist()


@pytest.mark.parametrize("threshold", [0.9, 0.3, 0.1, 0.7, 1 / 3, 0.99999999, 0.5, 1e-6])
def test_a_tie_leaves_in_calibration_as_when_run(threshold):
    tie = np.float32(threshold)
    around = np.array([np.nextafter(tie, np.float32(0)), tie, np.nextafter(tie, np.float32(9))])
    wanted = [False, True, True]
    rule = Threshold(of=CONFIDENCE, at=threshold)
    for shape in ((3,), (3, 1)):  # NumPy 1 compares single numbers in double precision, arrays in single
        for each, leaves in zip(around.reshape(shape), wanted, strict=True):
            assert rule.reached(np.atleast_1d(each)).tolist() == [leaves]
    assert rule.reached(around).tolist() == wanted
    scores = two_exits(around, label=1)
    assert exits_taken(scores, (threshold,)).tolist() == [1, 0, 0]
    assert exits_taken(scores, np.array([threshold])).tolist() == [1, 0, 0]


def test_steps_of_a_path_are_what_its_thresholds_do():
    generator = np.random.default_rng(0)
    path = path_of(0.5, 3)[:, ::40]
    sure = generator.choice(np.concatenate([path.ravel(), ODD]), (3, 4000)).astype(np.float32)
    label = generator.integers(0, 3, (3, 4000))
    scores = ExitScores(label=label, confidence=sure, truth=np.zeros(4000, np.int64))
    losses, every = losses_of(scores, Against.LAST_EXIT), np.arange(4000)
    worse, better = changes(scores, losses, path, every)
    for step in range(path.shape[1]):
        lost = losses[exits_taken(scores, path[:, step]), every]
        assert (worse[step], better[step]) == ((lost > 0).sum(), (lost < 0).sum())


def test_an_exit_that_is_infinitely_sure_of_wrong_answers_breaks_no_promise():
    """Above 1 it left at a threshold of 2, too: every promise was broken, and none was seen to be."""
    generator = np.random.default_rng(0)
    wrong = generator.uniform(size=2000) < 0.3
    label = np.stack([wrong.astype(np.int64), np.zeros(2000, np.int64)])
    sure = np.stack([np.where(wrong, np.inf, 0.5), np.ones(2000)]).astype(np.float32)
    scores = ExitScores(label=label, confidence=sure, truth=np.zeros(2000, np.int64))
    choice = choose_for_promise(scores, Goal(drop=0.02), (1.0, 2.0), generator)
    assert choice.point.thresholds == (NEVER,)
    assert choice.point.loss == choice.full.loss == 0
    assert choice.point.shares == (0.0, 1.0)


def test_what_is_proven_beyond_a_candidate_that_is_not_counts_for_nothing():
    """The surest are wrong where the last exit is right, the many others right where it is wrong."""
    surest = np.arange(2000) < 200
    label = np.stack([surest, ~surest]).astype(np.int64)
    sure = np.stack([np.where(surest, 0.9, 0.5), np.ones(2000)]).astype(np.float32)
    scores = ExitScores(label=label, confidence=sure, truth=np.zeros(2000, np.int64))
    goal = Goal(drop=0.02)
    losses, every = losses_of(scores, Against.LAST_EXIT), np.arange(2000)
    proven = goal.test(2000).proves(*changes(scores, losses, path_of(0.0, 2), every))
    assert proven[0]
    assert proven[-1]
    assert not proven.all()
    choice = choose_for_promise(scores, goal, (1.0, 2.0), np.random.default_rng(0))
    assert choice.point.thresholds[0] > 0.9
    assert choice.point.shares == (0.0, 1.0)


# --- over many draws ---------------------------------------------------------------------------------------

EVERYONE = 20_000  # calibration images are drawn from so many, which are all there is: the truth is known


def likely(rng, exits):
    """What a network does: the surer, the more often right."""
    return rng.uniform(size=(exits, EVERYONE)) ** 0.5


def tied(rng, exits):
    """A few values only, the least and the largest among them."""
    return rng.choice([0, 0.3, 0.9, 0.9, 1], size=(exits, EVERYONE))


def odd(rng, exits):
    """Half of the confidences are none."""
    none = rng.choice([np.nan, np.inf, -np.inf, 0, 1, 1.0000001, -3], size=(exits, EVERYONE))
    return np.where(rng.uniform(size=(exits, EVERYONE)) < 0.5, none, likely(rng, exits))


def made(kind, wrong_share, rng, exits, known) -> ExitScores:
    """Everyone there is, in ten classes. Exit 0 is wrong about so many, and all are among its surest fifth.

    There each exit is as good as the last otherwise: all that is lost lies where it is surest, or tied.
    """
    truth = rng.integers(0, 10, EVERYONE)
    confidence = kind(rng, exits).astype(np.float32)
    right = rng.uniform(size=(exits, EVERYONE)) < np.linspace(0.9, 0.95, exits)[:, None]
    surest = np.argsort(np.nan_to_num(-confidence, nan=np.inf), kind="stable")[:, : EVERYONE // 5]
    for exit_, rows in enumerate(surest[:-1]):
        right[exit_, rows] = right[-1, rows]
    flipped = rng.permutation(surest[0])[: int(wrong_share * EVERYONE)]
    right[0, flipped], right[-1, flipped] = False, True
    label = np.where(right, truth, (truth + 1 + np.arange(exits)[:, None] % 3) % 10)
    static = np.where(rng.uniform(size=EVERYONE) < known, label[-1], (truth + 5) % 10)
    return ExitScores(label=label, confidence=confidence, truth=truth, static=static)


def goal_against(against: Against, everyone: ExitScores, drop: float) -> Goal:
    if against is not Against.ACCURACY:
        return Goal(drop=drop, against=against)
    last = float((everyone.label[-1] == everyone.truth).mean())
    return Goal(drop=drop, against=against, accuracy=last)


def broken_and_drawn(against: Against, draws: int, seed: int) -> tuple[int, int]:
    """How many promises were broken, among so many draws of images from several kinds of networks."""
    rng = np.random.default_rng(seed)
    populations = 12
    broken = 0
    for number in range(populations):
        kind = (likely, tied, odd)[number % 3]
        exits, drop = 2 + number % 4, float(rng.choice([0.02, 0.05]))
        # The loss that lies in the first step is just more than is promised: there a test errs most often.
        everyone = made(kind, drop * float(rng.choice([1.02, 1.2, 0.5])), rng, exits, known=0.99)
        goal = goal_against(against, everyone, drop)
        losses, cost = losses_of(everyone, against), tuple(np.cumsum(rng.uniform(1, 3, exits)))
        for _ in range(draws // populations):
            rows = rng.integers(0, EVERYONE, int(rng.choice([400, 1000, 2000])))
            try:
                choice = choose_for_promise(everyone.of(rows), goal, cost, rng)
            except DataError:
                continue  # nothing is proven, and nothing is promised
            taken = exits_taken(everyone, choice.point.thresholds)
            broken += int(losses[taken, np.arange(EVERYONE)].mean() > goal.bound)
    return broken, draws // populations * populations


def assert_kept(broken: int, draws: int) -> None:
    """One in twenty may be broken: more than that has a probability of one in ten thousand."""
    assert binomial_cdf(broken - 1, draws, 0.05) < 1 - 1e-4, f"{broken} of {draws} promises were broken"


@pytest.mark.parametrize("against", Against)
def test_promises_are_kept_over_a_few_draws(against):
    broken, draws = broken_and_drawn(against, 48, seed=1)
    assert_kept(broken, draws)


@pytest.mark.slow
@pytest.mark.parametrize("against", Against)
def test_promises_are_kept_over_a_thousand_draws(against):
    broken, draws = broken_and_drawn(against, 996, seed=2)
    assert_kept(broken, draws)
    assert broken > 0.005 * draws  # a test that never errs proves less than it could
