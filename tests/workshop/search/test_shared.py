"""Shared weights: a plan's network made from them is that plan's network, and training serves all plans."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_networks import example_network, residual

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import CheckpointError
from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.network.division import divide
from s2dnas_deploy.workshop.network.network import carry_over
from s2dnas_deploy.workshop.reading.read import read_network
from s2dnas_deploy.workshop.search.judging import train_shared as train_shared_module
from s2dnas_deploy.workshop.search.judging.exit_scores import logits_of, scores_from, take_statistics
from s2dnas_deploy.workshop.search.judging.shared_weights import SharedWeights
from s2dnas_deploy.workshop.search.judging.train_shared import SharedTask, train_shared
from s2dnas_deploy.workshop.search.space.by_hand import largest, smallest
from s2dnas_deploy.workshop.search.space.make_space import make_space
from s2dnas_deploy.workshop.training.batches import normalised
from s2dnas_deploy.workshop.training.devices import autocast_for
from s2dnas_deploy.workshop.training.settings import Settings

CPU = torch.device("cpu")
FLOAT32 = autocast_for("float32", CPU)
PREPROCESSING = Preprocessing(input_shape=(1, 8, 8), mean=(0.3,), std=(0.4,))


class KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", input_shape=(1, 8, 8), seed=0)


@pytest.fixture(scope="module")
def few(digits):
    """So many digits that an epoch is over soon."""
    return replace(digits, train=digits.train.select(torch.arange(384)))


def task(digits, folder, **settings):
    static = read_network(example_network("digits_cnn", "digits_cnn"), (1, 8, 8))
    return SharedTask(
        static=static,
        space=make_space(static.divisible.space, stages=2, portions=4),
        splits=digits,
        preprocessing=PREPROCESSING,
        settings=Settings(
            **{"epochs": 1, "lr": 0.05, "augment": "none", "ema": 0.9, "precision": "float32", **settings}
        ),
        folder=folder,
    )


def silent(done, total, note):
    pass


@pytest.mark.parametrize("kind", ["full", "paper"])
def test_before_training_a_plans_network_is_the_one_carried_over(kind):
    static = residual()
    space = make_space(static.divisible.space, stages=3, kind=kind)
    shared = SharedWeights(static, space)
    images = torch.randn(3, *static.graph.input_shape, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    for choices in (space.draw(rng) for _ in range(10)):
        plan = space.plan(choices)
        ours, theirs = shared.divided(divide(static.divisible, plan)).eval(), carry_over(static, plan).eval()
        assert ours.weights().keys() == theirs.weights().keys()
        for a, b in zip(ours(images), theirs(images), strict=True):
            torch.testing.assert_close(a, b)


def test_gradients_reach_exactly_what_a_plan_uses():
    static = residual()
    space = make_space(static.divisible.space, stages=2)
    shared = SharedWeights(static, space)
    plan = space.plan(space.walk(lambda slot, allowed: allowed.index(True)))
    network = shared.divided(divide(static.divisible, plan)).train()
    images = torch.randn(4, *static.graph.input_shape)
    sum(z.sum() for z in network.answers(images, shared.used_by(network.division))).backward()
    touched = {key for key, tensor in shared.weights().items() if tensor.grad is not None}
    assert "exit at relu: weight" in touched
    assert "exit at relu_2: weight" not in touched
    assert {"stem.weight", "widen.weight"} <= touched


@pytest.mark.parametrize("count", [250, 251])
def test_statistics_are_those_of_the_images(digits, count):
    static = read_network(example_network("digits_cnn", "digits_cnn"), (1, 8, 8))
    space = make_space(static.divisible.space, stages=2)
    division = divide(static.divisible, space.plan(largest(space)))
    network = SharedWeights(static, space).divided(division)
    images = digits.train.images[:count]
    take_statistics(network, images, PREPROCESSING, CPU, FLOAT32)
    weights = network.weights()
    first = network.division.graph.by_name["conv1.1"]
    x = normalised(images, PREPROCESSING, CPU)
    features = torch.nn.functional.conv2d(x, weights["conv1.0.weight"], padding=1)
    torch.testing.assert_close(weights[first.weights["mean"]], features.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(
        weights[first.weights["variance"]], features.var((0, 2, 3)), atol=1e-4, rtol=1e-2
    )


@pytest.mark.slow
def test_training_serves_plans_that_differ_much(digits, tmp_path):
    run = task(digits, tmp_path, epochs=12)
    before, after = SharedWeights(run.static, run.space), train_shared(run, silent)
    for choices in (smallest(run.space), largest(run.space)):
        scores = []
        for shared in (before, after):
            network = shared.divided(divide(run.static.divisible, run.space.plan(choices)))
            take_statistics(network, digits.train.images[:500], PREPROCESSING, CPU, FLOAT32)
            logits = logits_of(network, digits.val, PREPROCESSING, CPU, FLOAT32)
            said = scores_from(logits, digits.val.labels)
            scores.append((said.label == said.truth).mean(axis=1))
        assert (scores[1] > scores[0]).all()
        assert scores[1][-1] > 0.8


@pytest.mark.parametrize(("batch", "plans"), [(16, 1), (32, 2), (48, 3), (64, 4)])
def test_extremes_are_taught_however_few_plans_a_step_has(few, tmp_path, monkeypatch, batch, plans):
    run = task(few, tmp_path, batch_size=batch)
    taught = []
    teach = train_shared_module._Run._teach

    def seen(self, network, images, labels, told, *, share):
        taught.append((network.division.plan.digest, len(images)))
        return teach(self, network, images, labels, told, share=share)

    monkeypatch.setattr(train_shared_module._Run, "_teach", seen)
    train_shared(run, silent)
    steps = len(few.train) // batch
    assert len(taught) == steps * plans
    assert sum(count for _, count in taught) == steps * batch
    digests = [digest for digest, _ in taught]
    for choices in (smallest(run.space), largest(run.space)):
        assert digests.count(run.space.plan(choices).digest) >= steps * min(plans - 1, 2) // 2 or plans == 1
        assert run.space.plan(choices).digest in digests


def test_a_killed_training_goes_on_to_the_same_weights(few, tmp_path):
    unbroken = train_shared(task(few, tmp_path / "a", checkpoint_seconds=0.0), silent)
    broken = task(few, tmp_path / "b", checkpoint_seconds=0.0)

    def die(done, total, note):
        if done == 5:
            raise KilledError

    with pytest.raises(KilledError):
        train_shared(broken, die)
    resumed_at = []
    again = train_shared(broken, silent, resumed_at.append)
    assert resumed_at == [4]
    for key, tensor in unbroken.weights().items():
        assert torch.equal(tensor, again.weights()[key]), key


def test_another_runs_checkpoint_is_refused(few, tmp_path):
    train_shared(task(few, tmp_path), silent)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        train_shared(task(few, tmp_path, lr=0.01), silent)
    assert replace(task(few, tmp_path)).identity() == task(few, tmp_path).identity()
