"""The start of training: channels that matter come first, and stages give what the static network gave."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from exports import QUIET
from small_networks import Residual, chain_differs_by, example_network, random_plans, residual
from torch import nn

from s2dnas_deploy import plan as plans
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import CheckpointError
from s2dnas_deploy.workshop.data.labelled import LabelledImages
from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.network.model_file import Model, load_model, save_model
from s2dnas_deploy.workshop.network.network import as_network, as_static, carry_over
from s2dnas_deploy.workshop.network.stages import slice_stages
from s2dnas_deploy.workshop.reading.read import read_network
from s2dnas_deploy.workshop.search.judging.train_shared import SharedTask
from s2dnas_deploy.workshop.search.space.make_space import make_space
from s2dnas_deploy.workshop.training.loop import Task, accuracy, train
from s2dnas_deploy.workshop.training.settings import Settings
from s2dnas_deploy.workshop.training.start import begin, ranking
from s2dnas_deploy.workshop.training.start.begin import Beginner
from s2dnas_deploy.workshop.training.start.fitting import fit, images_that_fit
from s2dnas_deploy.workshop.training.start.ranking import by_importance, images_to_rank_by

PREPROCESSING = Preprocessing(input_shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.3,) * 3)
CPU = torch.device("cpu")


def silent(done, total, note):
    pass


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (96, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return LabelledImages(images=images, labels=torch.arange(96) % 5)


def in_random_order(static, seed=0):
    rng = np.random.default_rng(seed)
    order = {name: rng.permutation(len(own)) for name, own in static.divisible.group_atoms.items()}
    return replace(static, divisible=static.divisible.in_order(order))


# --- the order of channels ---------------------------------------------------------------------------------


def test_channels_that_nothing_depends_on_come_last(pictures):
    torch.manual_seed(0)
    network = Residual()
    with torch.no_grad():
        network.conv2.weight[:, [0, 5, 7]] = 0  # of conv1's channels, these are read by nobody
    static = read_network(network, (3, 8, 8))
    order = by_importance(static, pictures, PREPROCESSING, CPU)
    assert set(order["conv1"][-3:].tolist()) == {0, 5, 7}
    assert all(sorted(each) == list(range(len(each))) for each in order.values())


def test_large_networks_are_ranked_by_fewer_images_at_a_time_and_in_all(monkeypatch):
    static = residual()
    assert images_to_rank_by(static) == 512
    monkeypatch.setattr(ranking, "static_macs", lambda network: {"conv": 4 * 10**9})
    assert images_to_rank_by(static) == 250
    monkeypatch.setattr(ranking, "static_macs", lambda network: {"conv": 4 * 10**12})
    assert images_to_rank_by(static) == 64


def test_the_order_does_not_depend_on_how_many_images_go_at_a_time(pictures, monkeypatch):
    static = residual()
    whole = by_importance(static, pictures, PREPROCESSING, CPU)
    monkeypatch.setattr(ranking, "_MOST_BYTES", 1)
    by_one = by_importance(static, pictures, PREPROCESSING, CPU)
    assert all(np.array_equal(each, by_one[name]) for name, each in whole.items())


def test_the_first_stage_owns_the_first_channels_of_the_order():
    static = residual()
    order = {**static.divisible.order, "conv1": np.arange(24)[::-1]}
    ranked = replace(static, divisible=static.divisible.in_order(order))
    assert {name: each.tolist() for name, each in ranked.divisible.order.items()} == {
        name: each.tolist() for name, each in order.items()
    }
    plan = plans.from_text("uniform:0.25,0.75", static.divisible.space)
    levels = carry_over(ranked, plan).division.levels["conv1"]
    assert levels.tolist() == [1] * 18 + [0] * 6


def test_an_order_changes_no_function_of_the_static_network():
    static, image = residual(), torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        before = as_network(static).eval()(image)[0]
        assert torch.equal(as_network(in_random_order(static)).eval()(image)[0], before)


@pytest.mark.parametrize("seed", range(3))
def test_slices_compute_what_masks_do_whatever_the_order(seed):
    static = in_random_order(residual(), seed)
    for plan in random_plans(static, 4, seed):
        assert chain_differs_by(static, plan, torch.randn(3, 3, 8, 8)) < 1e-5


def test_slices_of_well_known_networks_compute_what_masks_do_in_any_order():
    network = example_network("mobilenet_v2", "mobilenet_v2", width=0.25)
    static = in_random_order(read_network(network, (3, 32, 32)))
    for plan in random_plans(static, 2):
        assert chain_differs_by(static, plan, torch.randn(2, 3, 32, 32)) < 1e-5


def test_a_model_keeps_its_order(tmp_path):
    static = in_random_order(residual())
    network = carry_over(static, plans.from_text("uniform:0.5,0.5", static.divisible.space)).eval()
    names = tuple("abcde")
    model = Model(network=network, class_names=names, preprocessing=PREPROCESSING, provenance={})
    save_model(model, tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt").network
    image = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(network(image), loaded(image), strict=True))
    levels = network.division.levels
    assert all(np.array_equal(loaded.division.levels[name], each) for name, each in levels.items())


def test_an_order_that_is_none_is_refused(tmp_path, monkeypatch):
    static = residual()
    network = as_network(static).eval()
    model = Model(network=network, class_names=tuple("abcde"), preprocessing=PREPROCESSING, provenance={})
    for wrong in ({"conv1": [0] * 24}, {"conv1": list(range(23))}, {"nobody": [0]}):
        monkeypatch.setattr("s2dnas_deploy.workshop.network.model_file.order_of", lambda _, w=wrong: w)
        save_model(model, tmp_path / "model.pt")
        with pytest.raises(CheckpointError, match="order of group"):
            load_model(tmp_path / "model.pt")


def test_runs_of_another_order_are_other_runs(tmp_path, digits):
    """Though every weight is the same: a checkpoint of one would be nonsense in the other."""
    static = read_network(example_network("digits_cnn", "digits_cnn"), (1, 8, 8))
    preprocessing = Preprocessing(input_shape=(1, 8, 8), mean=(0.3,), std=(0.4,))
    space = make_space(static.divisible.space, stages=2)
    runs, searches = set(), set()
    for each in (static, in_random_order(static), in_random_order(static, 1)):
        network = carry_over(each, plans.from_text("uniform:0.5,0.5", static.divisible.space))
        common = {"splits": digits, "preprocessing": preprocessing, "settings": Settings(epochs=1)}
        runs.add(Task(network=network, teacher=None, folder=tmp_path, **common).identity())
        searches.add(SharedTask(static=each, space=space, folder=tmp_path, **common).identity())
    assert len(runs) == len(searches) == 3


# --- fitted weights ----------------------------------------------------------------------------------------


class Doubled(nn.Module):
    """Every channel of the second half is a mixture of those of the first: the first half knows it all."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.norm, self.fc = nn.BatchNorm2d(16), nn.Linear(16, 5)
        with torch.no_grad():
            mixture = torch.randn(8, 8)
            self.one.weight[8:] = torch.einsum("oi,ijkl->ojkl", mixture, self.one.weight[:8])
            self.one.bias[8:] = mixture @ self.one.bias[:8]
            self.two.weight[8:] = torch.einsum("oi,ijkl->ojkl", mixture, self.two.weight[:8])
            self.two.bias[8:] = mixture @ self.two.bias[:8]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.two(self.one(x))).mean((2, 3)))


def test_what_removed_channels_gave_is_won_back_from_those_that_are_left():
    torch.manual_seed(0)
    static = read_network(Doubled(), (3, 8, 8))
    images = torch.randn(256, 3, 8, 8)
    network = carry_over(static, plans.from_text("uniform:0.5,0.5", static.divisible.space)).eval()
    with torch.no_grad():
        wanted = as_network(static).eval()(images)[0]
        before = [float((said - wanted).abs().max()) for said in network(images)]
        fit(network, static, images, silent)
        after = [float((said - wanted).abs().max()) for said in network(images)]
    assert all(now < 0.2 * then for now, then in zip(after, before, strict=True)), (before, after)


def test_layers_that_read_all_they_did_are_left_as_they_are():
    static, images = residual(), torch.randn(32, 3, 8, 8)
    network = carry_over(static, plans.from_text("depth:conv2", static.divisible.space)).eval()
    with torch.no_grad():
        before = [each.clone() for each in network(images)]
        fit(network, static, images, silent)
        early, last = network(images)
    assert torch.equal(last, before[1])
    assert not torch.equal(early, before[0])


@pytest.mark.parametrize("value", [0.0, float("inf")])
def test_features_that_tell_nothing_leave_weights_as_they_are(value):
    static = residual()
    network = carry_over(static, plans.from_text("uniform:0.5,0.5", static.divisible.space)).eval()
    before = {key: each.clone() for key, each in network.weights().items()}
    fit(network, static, torch.full((4, 3, 8, 8), value), silent)
    assert torch.equal(network.weights()["stem.weight"], before["stem.weight"])


def test_features_are_held_of_as_many_images_as_memory_is_meant_for(monkeypatch):
    static = residual()
    division = carry_over(static, plans.from_text("uniform:0.5,0.5", static.divisible.space)).division
    assert images_that_fit(division) == 512
    # conv1's 24 channels of 8 x 8 numbers, and the 16 before it that the sum reads: of two networks.
    monkeypatch.setattr("s2dnas_deploy.workshop.training.start.fitting._MOST_BYTES", 100 * 8 * 64 * 3 * 24)
    assert 32 <= images_that_fit(division) < 512


# --- where training begins ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", input_shape=(1, 8, 8), seed=0, limit=300)


@pytest.fixture
def beginner(digits, tmp_path):
    preprocessing = Preprocessing(input_shape=(1, 8, 8), mean=(0.3,), std=(0.4,))
    return Beginner(start="fitted", splits=digits, preprocessing=preprocessing, device=CPU, folder=tmp_path)


@pytest.fixture
def static():
    return read_network(example_network("digits_cnn", "digits_cnn"), (1, 8, 8))


@pytest.fixture
def plan(static):
    return plans.from_text("uniform:0.25,0.25,0.5", static.divisible.space)


def test_a_beginning_is_the_same_whenever_it_is_asked_for(beginner, static, plan, monkeypatch):
    ranked = beginner.ranked(static, QUIET)
    first = beginner.beginning(ranked, plan, QUIET).weights()
    monkeypatch.setattr(begin, "fit", None)
    monkeypatch.setattr(begin, "by_importance", None)
    again = beginner.ranked(static, QUIET)
    assert again.divisible.order.keys() == ranked.divisible.order.keys()
    assert all(np.array_equal(each, again.divisible.order[k]) for k, each in ranked.divisible.order.items())
    second = beginner.beginning(again, plan, QUIET).weights()
    assert all(torch.equal(each, second[key]) for key, each in first.items())


@pytest.mark.parametrize("name", ["order.json", "start.pt"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"of": "x", "order": {}}'])
def test_a_damaged_beginning_is_made_anew(beginner, static, plan, name, content):
    first = beginner.beginning(beginner.ranked(static, QUIET), plan, QUIET).weights()
    path = beginner.folder / name
    whole = path.read_bytes()
    path.write_bytes(content)
    second = beginner.beginning(beginner.ranked(static, QUIET), plan, QUIET).weights()
    assert all(torch.equal(each, second[key]) for key, each in first.items())
    assert len(path.read_bytes()) == len(whole)


def test_a_kept_order_that_is_none_is_found_anew(beginner, static):
    first = beginner.ranked(static, QUIET).divisible.order
    path = beginner.folder / "order.json"
    told = json.loads(path.read_text())
    name = next(iter(told["order"]))
    told["order"][name][0] = told["order"][name][1]
    path.write_text(json.dumps(told))
    again = beginner.ranked(static, QUIET).divisible.order
    assert all(np.array_equal(each, again[key]) for key, each in first.items())


def test_other_images_are_another_beginning(beginner, static, plan):
    beginner.beginning(beginner.ranked(static, QUIET), plan, QUIET)
    kept = (beginner.folder / "start.pt").read_bytes()
    before = json.loads((beginner.folder / "order.json").read_text())
    fewer = load_images("digits", input_shape=(1, 8, 8), seed=0, limit=100)
    other = replace(beginner, splits=fewer)
    other.beginning(other.ranked(static, QUIET), plan, QUIET)
    assert json.loads((beginner.folder / "order.json").read_text())["of"] != before["of"]
    assert (beginner.folder / "start.pt").read_bytes() != kept


def test_a_copied_start_is_what_carries_over(beginner, static, plan):
    copied = replace(beginner, start="copied")
    assert copied.ranked(static, QUIET) is static
    expected, got = carry_over(static, plan).weights(), copied.beginning(static, plan, QUIET).weights()
    assert all(torch.equal(each, got[key]) for key, each in expected.items())
    assert not list(copied.folder.iterdir())


def test_a_trained_network_begins_with_what_it_knows(digits, beginner, static, plan):
    """Trained for a moment, and divided: copied, the early exits answer by chance; fitted, they know much."""
    settings = Settings(epochs=12, augment="none", ema=0.5)
    task = Task(
        network=as_network(static),
        teacher=None,
        splits=digits,
        preprocessing=beginner.preprocessing,
        settings=settings,
        folder=beginner.folder / "static",
    )
    train(task, silent)
    trained = as_static(task.network.eval())
    whole = accuracy(as_network(trained), digits.train, beginner.preprocessing)[0]
    copied = accuracy(carry_over(trained, plan), digits.train, beginner.preprocessing)
    fitted = beginner.beginning(beginner.ranked(trained, QUIET), plan, QUIET)
    found = accuracy(fitted, digits.train, beginner.preprocessing)
    assert whole > 0.9
    assert max(copied) < 0.5
    assert min(found) > 0.6
    assert len(slice_stages(fitted)) == 3
