"""Training on photos that stay on disk: what is told, what comes of `kill -9`, and what export takes."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from s2dnas_deploy.cli import export, train
from s2dnas_deploy.workshop.network.model_file import load_model

NET = """
from torch import nn

def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())

def make():
    return nn.Sequential(block(3, 8), block(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2))
"""
OPTIONS = "--model net.py:make --input 3x72x72 --data photos --resize crop --plan uniform:0.5,0.5 --cost macs"
OPTIONS += " --epochs 4 --batch 8 --precision float32 --val-fraction 0.2 --checkpoint-seconds 0 --workers 2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    (folder / "net.py").write_text(NET)
    for label, tint in (("day", 160), ("night", 60)):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(40):
            coarse = np.clip(draw.normal(tint, 40, (6, 8, 3)), 0, 255).astype(np.uint8)
            photo = Image.fromarray(coarse).resize((200, 150), Image.Resampling.BICUBIC)
            photo.save(folder / "photos" / label / f"{number}.jpg")
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    """A run that nobody disturbed, and what it said."""
    done = subprocess.run(_line("whole.pt"), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "whole.pt", done.stderr


def _line(out):
    code = "from s2dnas_deploy.cli import train; train()"
    return [sys.executable, "-c", code, *OPTIONS.split(), "--out", out]


def test_photos_made_smaller_are_cut_anew_and_waiting_is_told(whole):
    model, said = whole
    about = load_model(model).provenance
    assert about["settings"]["augment"] == "resized-crop,flip"
    assert about["data"]["on_disk"] is True
    assert "training waited for images " in said


def test_a_run_that_is_killed_ends_with_the_same_weights(folder, whole):
    started = subprocess.Popen(_line("killed.pt"), cwd=folder, stderr=subprocess.DEVNULL)
    metrics, until = folder / "killed.run" / "metrics.jsonl", time.monotonic() + 120
    while not metrics.exists():
        assert started.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    assert not (folder / "killed.pt").exists()
    resumed = subprocess.run(_line("killed.pt"), cwd=folder, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after step" in resumed.stderr
    ones, others = (load_model(path).network.weights() for path in (folder / "killed.pt", whole[0]))
    assert all(torch.equal(ones[key], others[key]) for key in ones)


def test_export_holds_out_what_training_held_out(folder, whole, monkeypatch):
    monkeypatch.chdir(folder)
    options = ["whole.pt", "--out", "bundle", "--data", "photos", "--held-out", "held-out"]
    result = CliRunner().invoke(export, options)
    assert result.exit_code == 0, result.output
    held_out = np.load(folder / "held-out" / "validation.npz")
    assert held_out["images"].shape == (16, 72, 72, 3)
    assert sorted(np.bincount(held_out["labels"])) == [8, 8]


def test_ways_that_are_unknown_are_told_before_anything_is_read(folder, monkeypatch):
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(train, [*OPTIONS.split(), "--augment", "cutout", "--out", "other.pt"])
    assert result.exit_code == 2
    assert "expected none, or some of crop, flip, resized-crop, colour, randaugment" in result.output
