"""A gate's offsets: what is counted along their path is what the rule does, and promises hold."""

import numpy as np
import pytest

from s2dnas_deploy.decide.flow import DONE, IMAGE, Flow, Route, Stop, check_looks
from s2dnas_deploy.decide.rules import FAR, Largest, only
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.decide.thresholds import (
    Against,
    Goal,
    changes,
    choose_for_budget,
    choose_for_promise,
    exits_taken,
    losses_of,
    mean_cost,
    path_of_gate,
)
from s2dnas_deploy.errors import BundleError, DataError, OptionError, RecordError

COST = (1.0, 3.0, 10.0)
ODD = np.float32([np.nan, np.inf, -np.inf, 0, -0.0, 1e30, -1e30, 1])


def drawn(count: int, seed: int, *, knows: float = 1.0) -> ExitScores:
    """Images of some difficulty, which the gate sees as far as it `knows`; wider ways are right oftener."""
    rng = np.random.default_rng(seed)
    hard = rng.random(count)
    right = np.stack([rng.random(count) > hard * wrong for wrong in (0.6, 0.3, 0.15)])
    seen = knows * hard + (1 - knows) * rng.random(count)
    gate = np.stack([1 - 3 * seen, 0.5 - seen, np.zeros(count)], axis=1).astype(np.float32)
    return ExitScores(
        label=np.where(right, 0, 1),
        confidence=np.full(right.shape, 0.5, np.float32),
        truth=np.zeros(count, np.int64),
        gate=gate,
    )


def test_steps_of_a_path_are_what_its_offsets_do():
    scores, path = drawn(700, 0), path_of_gate(COST)
    rng = np.random.default_rng(1)
    odd = rng.choice(ODD, (700, 3))
    mixed = ExitScores(**{**vars(scores), "gate": np.where(rng.random((700, 3)) < 0.2, odd, scores.gate)})
    losses, every = losses_of(mixed, Against.LAST_EXIT), np.arange(700)
    worse, better = changes(mixed, losses, path, every)
    spent = mean_cost(mixed, path, every, COST)
    for step in range(0, path.shape[1], 40):
        taken = exits_taken(mixed, path[:, step])
        lost = losses[taken, every]
        assert (worse[step], better[step]) == ((lost > 0).sum(), (lost < 0).sum())
        assert spent[step] == pytest.approx(np.asarray(COST)[taken].mean())


def test_a_path_goes_from_the_last_way_to_the_cheapest():
    scores, path = drawn(500, 2), path_of_gate(COST)
    spent = mean_cost(scores, path, np.arange(500), COST)
    assert (spent[0], spent[-1]) == (10, 1)
    assert (np.diff(spent) <= 1e-12).all()
    assert set(exits_taken(scores, path[:, 0])) == {2}
    assert set(exits_taken(scores, only(1, 3))) == {1}


@pytest.mark.parametrize(
    "knows", [0.6, *(pytest.param(knows, marks=pytest.mark.slow) for knows in (0.0, 1.0))]
)
def test_what_is_proven_is_broken_no_oftener_than_said(knows):
    everyone = drawn(200_000, 7, knows=knows)
    losses = losses_of(everyone, Against.LAST_EXIT)
    rng, broken, spent = np.random.default_rng(3), 0, []
    for _ in range(25):
        rows = rng.integers(0, 200_000, 1000)
        choice = choose_for_promise(everyone.of(rows), Goal(drop=0.02, probability=0.9), COST, rng)
        taken = exits_taken(everyone, choice.point.thresholds)
        broken += losses[taken, np.arange(200_000)].mean() > 0.02
        spent.append(choice.point.cost)
    assert broken <= 7  # of 25, at most one in ten; more than seven once in 400 times
    assert np.mean(spent) < 9.5


def test_a_budget_is_kept_and_a_larger_one_loses_less():
    scores, losses = drawn(3000, 4), []
    for budget in (1.0, 2.0, 5.0, 10.0):
        choice = choose_for_budget(scores, budget, COST)
        assert choice.point.cost <= budget + 1e-9
        assert choice.full.shares == (0, 0, 1)
        losses.append(choice.point.loss)
    assert losses == sorted(losses, reverse=True)
    with pytest.raises(OptionError, match="what the cheapest way costs"):
        choose_for_budget(scores, 0.5, COST)


def test_a_gate_that_says_no_number_for_the_last_way_proves_nothing():
    scores = drawn(500, 5)
    gate = scores.gate.copy()
    gate[:, 2] = np.nan
    with pytest.raises(DataError, match="is not proven"):
        choose_for_promise(
            ExitScores(**{**vars(scores), "gate": gate}), Goal(drop=0.02), COST, np.random.default_rng(0)
        )


def test_scores_of_a_gate_are_kept(tmp_path):
    scores = drawn(50, 6)
    scores.save(tmp_path / "scores.npz")
    again = ExitScores.load(tmp_path / "scores.npz")
    assert np.array_equal(again.gate, scores.gate)
    assert len(again.of(slice(0, 7)).gate) == 7
    with pytest.raises(RecordError, match="a gate's numbers float32"):
        ExitScores(**{**vars(scores), "gate": scores.gate[:, :2]})
    with pytest.raises(RecordError, match="expected the sha256 of 4 graphs, got 3"):
        ExitScores(**{**vars(scores), "graphs": ("a" * 64,) * 3})


def flow(rule=None, last=DONE) -> Flow:
    names = ("small", "large")
    prefix = Stop(
        name="prefix",
        reads=(IMAGE,),
        gives=("gate",),
        answers=False,
        then=Route(to=names, by=rule or Largest(of="gate")),
    )
    slices = (
        Stop(name=name, reads=(IMAGE,), then=then) for name, then in zip(names, (DONE, last), strict=True)
    )
    return Flow(start=Route(to=("prefix",)), stops=(prefix, *slices))


def test_offsets_are_added_as_the_rule_says():
    rule = flow().with_offsets((0.5, -0.5)).stops[0].then.by
    assert rule == Largest(of="gate", offsets=(0.5, -0.5))
    numbers = np.float32([[0, 0.9], [0, 1.1], [0, 1.0], [np.nan, -FAR]])
    assert rule.column(numbers).tolist() == [0, 1, 0, 1]
    assert rule.in_words == "the largest of gate + (0.5, -0.5)"
    assert flow().with_offsets(None) == flow()
    assert flow().gate == 0
    with pytest.raises(BundleError, match=r"expected 2 offsets, got \[0"):
        check_looks(flow(Largest(of="gate", offsets=(0.0, 0.0, 0.0))), {"gate": (2,)}, 10)
