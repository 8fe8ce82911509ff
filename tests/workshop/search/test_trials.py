"""What was tried is kept, comes back, and is not mixed with another search."""

import errno
import json
import os

import numpy as np
import pytest
from full_disk import files_of_at_most
from small_networks import residual

from s2dnas_deploy.errors import CheckpointError
from s2dnas_deploy.workshop.search.judging.reward import Worth
from s2dnas_deploy.workshop.search.space.candidate import candidate_of
from s2dnas_deploy.workshop.search.space.make_space import make_space
from s2dnas_deploy.workshop.search.trials import Trials

STATIC = residual()


@pytest.fixture(scope="module")
def space():
    return make_space(STATIC.divisible.space, stages=2)


def drawn(space, seed=0, count=1):
    """Candidates that differ."""
    rng = np.random.default_rng(seed)
    chosen = dict.fromkeys(space.draw(rng) for _ in range(count))
    return [candidate_of(STATIC, choices, space.plan(choices)) for choices in chosen]


def worth(reward):
    return Worth(
        reward=reward,
        accuracy=reward,
        cost=0.2,
        exit_accuracy=(0.5, reward),
        exit_cost=(0.1, 0.9),
        exit_share=(0.9, 0.1),
        fits=True,
    )


class Judged:
    def __init__(self):
        self.asked = []

    def __call__(self, asked):
        self.asked.extend(asked)
        return [worth(sum(candidate.choices) / 100) for candidate in asked]


def trials(path, space, judged, run=None):
    return Trials(path, run or {"seed": 0}, space, judged, lambda: None)


def test_answers_are_kept_and_not_asked_for_again(space, tmp_path):
    asked = drawn(space, count=6)
    first, again = Judged(), Judged()
    rewards = trials(tmp_path / "plans.jsonl", space, first).evaluate(asked)
    later = trials(tmp_path / "plans.jsonl", space, again)
    assert later.evaluate(asked) == rewards
    assert again.asked == []
    lines = [json.loads(line) for line in (tmp_path / "plans.jsonl").read_text().splitlines()]
    assert len(lines) == 1 + len(asked)
    assert lines[1]["plan"]["format"] == "s2dnas-plan"
    assert (lines[1]["reward"], lines[1]["cost"]) == (rewards[0], 0.2)
    best = later.best(2)
    assert [trial.worth.reward for trial in best] == sorted(rewards, reverse=True)[:2]
    plans = {candidate.choices: candidate.plan for candidate in asked}
    assert all(trial.plan == plans[trial.choices] for trial in best)


def test_half_a_line_is_judged_again(space, tmp_path):
    asked = drawn(space, seed=1, count=4)
    path = tmp_path / "plans.jsonl"
    trials(path, space, Judged()).evaluate(asked)
    whole = path.read_bytes()
    for cut in (1, 30, 200):
        path.write_bytes(whole[:-cut])
        judged = Judged()
        trials(path, space, judged).evaluate(asked)
        assert judged.asked == asked[-1:]
        assert path.read_bytes() == whole


def test_each_answer_is_kept_as_soon_as_it_is_there(space, tmp_path):
    asked = drawn(space, seed=2, count=4)
    path = tmp_path / "plans.jsonl"

    def killed_at_the_third(asked):
        yield worth(0.1)
        yield worth(0.2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trials(path, space, killed_at_the_third).evaluate(asked)
    judged = Judged()
    assert trials(path, space, judged).evaluate(asked)[:2] == [0.1, 0.2]
    assert judged.asked == asked[2:]


def test_only_what_cannot_be_written_is_said_to_be_so(space, tmp_path):
    def fails(asked):
        raise OSError(errno.EIO, "the images are gone")
        yield

    asked = drawn(space)
    with pytest.raises(OSError, match="the images are gone") as caught:
        trials(tmp_path / "plans.jsonl", space, fails).evaluate(asked)
    assert caught.value.filename is None
    kept = trials(tmp_path / "plans.jsonl", space, Judged())
    size = (tmp_path / "plans.jsonl").stat().st_size
    with files_of_at_most(size + 10), pytest.raises(OSError, match="cannot be written") as caught:
        kept.evaluate(asked)
    assert caught.value.filename == str(tmp_path / "plans.jsonl")


def test_trials_of_another_search_make_room_and_are_kept(space, tmp_path):
    path = tmp_path / "plans.jsonl"
    asked = drawn(space)
    first = trials(path, space, Judged())
    first.evaluate(asked)
    content = path.read_bytes()
    assert first.set_aside is None
    for number, run in enumerate(({"seed": 1}, {"seed": 2}), start=1):
        judged = Judged()
        other = trials(path, space, judged, run)
        other.evaluate(asked)
        assert judged.asked == asked
        assert other.set_aside == tmp_path / f"plans-{number}.jsonl"
    assert (tmp_path / "plans-1.jsonl").read_bytes() == content


def test_trials_that_made_room_come_back(space, tmp_path):
    path = tmp_path / "plans.jsonl"
    asked = drawn(space)
    for run in ({"seed": 0}, {"seed": 1}):
        trials(path, space, Judged(), run).evaluate(asked)
    again = Judged()
    first = trials(path, space, again, {"seed": 0})
    first.evaluate(asked)
    assert again.asked == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["plans-2.jsonl", "plans.jsonl"]


def test_damaged_trials_are_refused(space, tmp_path):
    path = tmp_path / "plans.jsonl"
    trials(path, space, Judged()).evaluate(drawn(space))
    header, line = path.read_text().splitlines()
    document = json.loads(line)
    for broken in (
        "something else",
        "[1]",
        json.dumps({**document, "choices": [0]}),
        json.dumps({**document, "choices": [-1, *document["choices"][1:]]}),
        json.dumps({**document, "choices": [99, *document["choices"][1:]]}),
        json.dumps({**document, "accuracy": 1.5}),
        json.dumps({**document, "reward": float("nan")}),
        json.dumps({**document, "fits": 1}),
        json.dumps({**document, "exit_cost": [0.1]}),
        json.dumps({**document, "more": 1}),
        json.dumps({**document, "plan": {**document["plan"], "exits": ["elsewhere", "output"]}}),
    ):
        path.write_text(f"{header}\n{broken}\n")
        with pytest.raises(
            CheckpointError, match=r"plans\.jsonl is damaged, line 2: .*; start over with --restart"
        ):
            trials(path, space, Judged())


def test_a_pipe_in_the_place_of_trials_is_not_waited_for(space, tmp_path):
    os.mkfifo(tmp_path / "plans.jsonl")
    with pytest.raises(CheckpointError, match=r"plans\.jsonl: expected a file, got a pipe"):
        trials(tmp_path / "plans.jsonl", space, Judged())
