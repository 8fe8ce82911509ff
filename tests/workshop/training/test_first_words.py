"""What is said before a long training: how good the static network is here, and what will be missed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_networks import MODELS

from s2dnas_deploy.cli import train
from s2dnas_deploy.plan import OUTPUT, Plan
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.reading.source import build_network
from s2dnas_deploy.workshop.training.first_words import cautions, outlook, shortfall, static_words
from s2dnas_deploy.workshop.training.likelier import likelier_words
from s2dnas_deploy.workshop.training.normalise import preprocessing_for
from s2dnas_deploy.workshop.training.settings import Settings

STAGES = Plan(channels={"conv": (4, 4)}, exits=(OUTPUT, OUTPUT))


@pytest.fixture
def archive(tmp_path):
    """Writes random images as an archive, so many per part."""

    def write(**counts):
        rng = np.random.default_rng(0)
        arrays = {}
        for part, count in counts.items():
            arrays[f"x_{part}"] = rng.integers(0, 255, (count, 4, 4, 3), dtype=np.uint8)
            arrays[f"y_{part}"] = np.arange(count) % 2
        path = tmp_path / "images.npz"
        np.savez(path, **arrays)
        return load_images(str(path), input_shape=(3, 4, 4), seed=0, val_fraction=0.25)

    return write


def said(splits, *, guessed=False, may_know=True, divided=True, limited=False):
    found = cautions(
        splits,
        normalize_guessed=guessed,
        weights_may_know_val=may_know,
        to_be_divided=divided,
        limited=limited,
    )
    return list(found)


def test_the_static_network_is_judged_on_every_part_there_is(archive):
    splits = archive(train=20, val=8, test=12)
    words = static_words({"val": 0.875, "test": 0.5}, splits)
    assert words == "static network: 87.50% on 8 validation images, 50.00% on 12 test images"
    assert static_words({"val": 0.875}, archive(train=20, val=8)).endswith("on 8 validation images")


def test_classes_that_nothing_is_judged_by_are_named(archive):
    whole = archive(train=20, val=400)
    first = whole.val.labels == 0
    splits = replace(whole, val=whole.val.select(first), test=whole.val.select(~first))
    words = said(splits, divided=False)
    assert words == ["there are no validation images of '1'", "there are no test images of '0'"]


def test_enough_validation_images_of_ones_own_need_no_word(archive):
    assert said(archive(train=20, val=400)) == []


def test_weights_from_elsewhere_may_know_the_images_that_are_held_out(archive):
    splits = archive(train=1600)
    (caution,) = said(splits)
    assert caution.startswith("400 validation images are split off those to train on.")
    assert "into val/" in caution
    assert said(splits, may_know=False) == []


def test_a_normalisation_that_nobody_chose_is_named(archive):
    splits = archive(train=20, val=400)
    (caution,) = said(splits, guessed=True)
    assert "no --normalize: images are normalised as for ImageNet" in caution


@pytest.mark.parametrize(
    ("right", "others", "told"),
    [
        (0.12, {"unit": 0.7125}, "with --normalize unit the static network is right on 71.2% of 200 "),
        (0.12, {"unit": 0.7, "none": 0.8}, "with --normalize none "),
        (0.12, {"unit": 0.2}, None),  # not clearly better
        (0.75, {"unit": 0.99}, None),  # good enough that nothing is tried
    ],
)
def test_a_normalisation_that_fits_weights_better_is_named(right, others, told):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (400, 3, 8, 8), dtype=torch.uint8, generator=generator)
    part = LabelledImages(images=images, labels=torch.arange(400) % 10)
    names = tuple(map(str, range(10)))
    splits = ImageSplits(train=part, val=part, test=None, class_names=names, digest="d")
    guessed = preprocessing_for("imagenet", (3, 8, 8))
    of = {preprocessing_for(name, (3, 8, 8)).mean: share for name, share in others.items()}

    def judge(images, preprocessing):
        assert len(images) == 200
        assert right <= 0.5, "it was tried all the same"
        return of.get(preprocessing.mean, right)

    words = list(likelier_words(right, splits, guessed, judge))
    assert [each.startswith(told) for each in words] == ([] if told is None else [True])


def test_too_few_images_for_a_promise_are_told_before_they_are_missed(archive):
    few = archive(train=100, val=240)
    (caution,) = said(few)
    assert "on 240 validation images s2dnas-calibrate can prove a drop of 1.5 points at the least" in caution
    assert "1 point takes 356" in caution
    assert "--val-fraction" not in caution
    assert "more images in val/" in caution
    assert "--val-fraction" in said(archive(train=100), may_know=False)[0]
    assert said(few, limited=True)[0].endswith("356 or more")
    assert said(few, divided=False) == []


def test_weights_that_this_package_trained_know_nothing_that_is_held_out(tmp_path):
    network = ["--model", f"{MODELS}/digits_cnn.py:digits_cnn", "--input", "1x8x8", "--data", "digits"]
    kept = ["--plan", "static", "--normalize", "0.3/0.4", "--static-epochs", "0", "--epochs", "0"]

    def train_to(out, *more):
        arguments = [*network, *kept, "--out", str(tmp_path / out), *more]
        result = CliRunner().invoke(train, arguments)
        assert result.exit_code == 0, result.output
        return result.stderr

    train_to("static.pt")
    mine = ("--weights", str(tmp_path / "static.pt"))
    assert "split off" not in train_to("a.pt", *mine)
    assert "split off" in train_to("more.pt", *mine, "--val-fraction", "0.2")
    assert "split off" in train_to("other.pt", *mine, "--seed", "1")
    torch.save(build_network(f"{MODELS}/digits_cnn.py:digits_cnn", {}).state_dict(), tmp_path / "w.pth")
    told = train_to("b.pt", "--weights", str(tmp_path / "w.pth"))
    assert "validation images are split off those to train on" in told
    assert "split off" in train_to("c.pt", "--weights", str(tmp_path / "b.pt"))
    assert "validation images, " in told
    assert "test images" in told


def test_a_last_exit_far_below_the_static_network_gets_advice():
    settings = Settings(epochs=3, lr=0.05, augment="crop")
    said = shortfall({"val": 0.95}, [0.1, 0.12], settings, 3, STAGES)
    assert "the last exit is 83.0 points below the static network" in said
    assert "--epochs (now 3)" in said
    assert "--lr (now 0.05)" in said
    assert "the widest is" in shortfall({"val": 0.95}, [0.1, 0.12], settings, 3, replace(STAGES, nested=True))
    assert shortfall({"val": 0.95}, [0.5, 0.91], settings, 3, STAGES) is None
    assert shortfall(None, [0.1], settings, 3, STAGES) is None
    assert shortfall({"val": 0.95}, [0.1], settings, 0, STAGES) is None


def curve(*means):
    return [{"epoch": i, "loss": 1.0, "val_accuracy": [x - 0.1, x + 0.1]} for i, x in enumerate(means, 1)]


def test_a_run_says_how_far_one_twice_as_long_would_get():
    said = outlook(curve(0.4, 0.5, 0.6, 0.7, 0.75, 0.8), 1000)
    assert said == (
        "over the last third of 6 epochs answers gained 10.0 points: a run twice as long would gain about "
        "5.0, give or take 0.6 as judged by 1,000 validation images"
    )
    # A tenth of the epochs is averaged, at the end and at two thirds.
    long = outlook(curve(*[0.5] * 18, 0.6, 0.6, *[0.7] * 8, 0.8, 0.7), 1000)
    assert long.startswith("over the last third of 30 epochs answers gained 16.7 points")


def test_few_images_promise_little_and_a_loss_promises_no_gain():
    few = outlook(curve(0.4, 0.5, 0.6, 0.7, 0.71, 0.72), 100)
    assert "gained 2.0 points: a run twice as long would gain about 1.0, give or take 2.2 as judged" in few
    worse = outlook(curve(0.7, 0.7, 0.65), 10_000)
    assert "gained -5.0 points: a run twice as long would gain about 0.0, give or take 0.2" in worse


def test_two_epochs_tell_nothing_of_a_longer_run():
    assert outlook(curve(0.4, 0.5), 1000) is None
