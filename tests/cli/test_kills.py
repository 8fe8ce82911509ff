"""Whenever a command is killed, the same again ends as if nothing had happened, and leaves nothing.

Training and exporting have a hundred points at which they can be killed, seconds each: S2DNAS_ALL_KILLS=1
tries all of them, else some, far from each other.
"""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from kill_points import Commands, contents, evenly
from scored_bundle import with_images
from tiny_flows import FLOWS, images_of, tiny_bundle

MANY = None if os.environ.get("S2DNAS_ALL_KILLS") else 12
NET = """
from torch import nn


def make():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8),
        )

    def forward(self, x):
        return (x + self.branch(x)).relu()


def make_residual():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        Block(), nn.Conv2d(8, 8, 3, 2, 1), Block(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )
"""
RUN = "run --bundle bundle images.npz --out out/answers.{} --resume"
CALIBRATE = "calibrate --bundle bundle images.npz --max-drop 50% --scores out/scores.npz --plot out/curve.svg"
TRAIN = (
    "train --model net.py:make --input 1x8x8 --normalize unit --data digits --limit 40 "
    "--cost macs --static-epochs 1 --epochs 1 --batch 16 --out out/model.pt --quiet"
)
EXPORT = (
    "export out/model.pt --out out/bundle --data digits --limit 40 --held-out out/held-out "
    "--static-model out/model.run/static.pt --quiet"
)


@pytest.fixture(scope="module")
def running():
    with Commands() as commands:
        yield commands


@pytest.fixture(scope="module")
def building():
    with Commands(build=True) as commands:
        yield commands


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """A bundle, and images in an archive."""
    return with_images(tmp_path_factory.mktemp("deployed"))


@pytest.fixture(scope="module")
def flowing(tmp_path_factory):
    """A bundle whose samples go many ways, and images in an archive."""
    folder = tmp_path_factory.mktemp("flowing")
    tiny_bundle(folder / "bundle", *FLOWS["gate then exits"])
    np.savez(folder / "images.npz", images=images_of(300))
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The code of a network."""
    folder = tmp_path_factory.mktemp("network")
    (folder / "net.py").write_text(NET)
    return folder


@pytest.fixture(scope="module")
def exported(network, building, tmp_path_factory):
    """A trained network, and the bundle of an earlier export."""
    folder = Path(shutil.copytree(network, tmp_path_factory.mktemp("exported") / "it"))
    for words in (TRAIN, f"{EXPORT} --threshold 0.5"):
        code, _, said = building.run(folder, words.split())
        assert code == 0, said
    return folder


def check_kills(commands, start, tmp_path, words, most=None):
    """Kill at each of the points (or at most so many of them), and give the command again."""
    folder = Path(shutil.copytree(start, tmp_path / "it"))  # a model tells where its code lies
    code, points, said = commands.run(folder, words.split())
    assert code == 0, said
    expected = contents(folder)
    for number in evenly(len(points), most):
        shutil.rmtree(folder)
        shutil.copytree(start, folder)
        code, reached, said = commands.run(folder, words.split(), kill_at=number)
        assert code == -signal.SIGKILL, (reached, said)
        code, _, said = commands.run(folder, words.split())
        assert code == 0, (reached, said)
        found = contents(folder)
        assert sorted(found) == sorted(expected), reached
        assert [name for name in expected if found[name] != expected[name]] == [], reached


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_run_that_is_killed_at_some_points(running, deployed, tmp_path, form):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    check_kills(running, deployed, tmp_path, RUN.format(form), most=4)


def test_a_run_of_many_ways_that_is_killed_at_some_points(running, flowing, tmp_path):
    check_kills(running, flowing, tmp_path, f"{RUN.format('csv')} --batch 2", most=4)


def test_a_calibration_that_is_killed_at_some_points(running, deployed, tmp_path):
    check_kills(running, deployed, tmp_path, CALIBRATE, most=4)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_run_that_is_killed_anywhere(running, deployed, tmp_path, form):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    check_kills(running, deployed, tmp_path, RUN.format(form))


@pytest.mark.slow
def test_a_calibration_that_is_killed_anywhere(running, deployed, tmp_path):
    check_kills(running, deployed, tmp_path, CALIBRATE)


@pytest.mark.slow
def test_a_training_that_is_killed_at_many_points(building, network, tmp_path):
    check_kills(building, network, tmp_path, TRAIN, most=MANY)


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["widths:0.5,1", "gate:0.5,1", "blocks:0.7"])
def test_a_training_of_another_system_that_is_killed_at_some_points(building, network, tmp_path, plan):
    words = TRAIN.replace(":make ", ":make_residual ")
    check_kills(building, network, tmp_path, f"{words} --plan {plan}", most=4)


@pytest.mark.slow
def test_an_export_over_an_older_bundle_that_is_killed_at_many_points(building, exported, tmp_path):
    check_kills(building, exported, tmp_path, EXPORT, most=MANY)
