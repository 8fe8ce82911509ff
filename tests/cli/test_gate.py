"""Gates from the command line: trained, exported, run, calibrated by offsets, measured."""

import json

import numpy as np
import pytest
from cli.test_widths import done, invoke
from small_networks import MODELS

from s2dnas_deploy.bench.report import Report
from s2dnas_deploy.bundle.bundle import load_bundle
from s2dnas_deploy.cli import bench, calibrate, export, inspect, run, train
from s2dnas_deploy.decide.rules import Largest, only
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.workshop.training import gate

NAMES = ("quarter", "half", "full")
CHEAP = ("--static-epochs", 2, "--epochs", 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network with a gate, as a bundle and as a chain of its widths, and images that training held out."""
    folder = tmp_path_factory.mktemp("gate")
    recipe = ("--recipe", MODELS / "digits.toml", *CHEAP, "--plan", "gate:0.25,0.5,1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "_STEPS", 300)
        trained = done(train, *recipe, "--out", folder / "model.pt")
    assert "the gate sends" in trained.stderr
    held_out = ("--data", "digits", "--held-out", folder / "held-out")
    done(export, folder / "model.pt", "--out", folder / "gated", *held_out)
    turns = ("--in-turn", "quarter,full", "--data", "digits")
    done(export, folder / "model.pt", "--out", folder / "in-turn", *turns)
    return folder


def images(folder):
    return folder / "held-out" / "validation.npz"


def records(folder, *words):
    lines = done(run, "--bundle", folder / "gated", *words, images(folder)).stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_a_gate_sends_each_image_one_way(folder):
    flow = load_bundle(folder / "gated").manifest.flow
    assert [stop.name for stop in flow.stops] == ["prefix", *NAMES]
    assert flow.gate == 0
    ways = {each["way"] for each in records(folder)}
    assert ways <= {f"prefix > {name}" for name in NAMES}
    said = done(inspect, folder / "gated").stdout
    assert "the largest of gate: quarter, half, full" in said
    assert "with a gate after" in done(inspect, folder / "model.pt").stdout


def test_offsets_move_the_balance(folder):
    with Cascade.load(folder / "gated", provider="cpu", threads=1) as cascade:
        with np.load(images(folder)) as archive:
            pixels = archive["images"][:50]
        for way in range(3):
            assert set(cascade.predict(pixels, offsets=only(way, 3)).exit) == {1 + way}
        heard, numbers = cascade.all_ways(pixels)
        picked = Largest(of="gate").column(numbers)
        said = cascade.predict(pixels)
        assert said.exit.tolist() == (1 + picked).tolist()
        assert said.label.tolist() == heard.label[picked, np.arange(50)].tolist()
        streamed = [each.exit for each in cascade.stream(list(pixels), offsets=only(0, 3), batch=8)]
        assert set(streamed) == {1}
        with pytest.raises(OptionError, match="expected 3 offsets, a number for each way behind the gate"):
            cascade.predict(pixels, offsets=(0.0, 1.0))
    with (
        Cascade.load(folder / "in-turn", provider="cpu") as chain,
        pytest.raises(OptionError, match="this bundle has none"),
    ):
        chain.predict(pixels, offsets=(0.0, 0.0, 0.0))


def test_a_promise_and_budgets_are_kept_by_offsets(folder, tmp_path):
    words = ("--bundle", folder / "gated", images(folder), "--scores", tmp_path / "scores.npz")
    drop = ("--max-drop", "5%", "--probability", "0.5", "--plot", tmp_path / "plot.svg")
    said = done(calibrate, *words, *drop).stdout
    assert said.splitlines()[0].split() == ["way", "offset", "share"]
    manifest = load_bundle(folder / "gated").manifest
    assert len(manifest.stages[0].then.by.offsets) == 3
    assert manifest.promise.max_drop == 0.05
    expected = manifest.expected
    taken = records(folder)
    right = sum(each["label"] == each["truth"] for each in taken) / len(taken)
    assert right == pytest.approx(expected.cascade_accuracy)
    shares = [sum(each["way"].endswith(name) for each in taken) / len(taken) for name in NAMES]
    assert expected.exit_share == pytest.approx((0, *shares))
    macs = [manifest.macs[0] + each for each in manifest.macs[1:]]
    assert expected.mean_macs == pytest.approx(np.dot(shares, macs))
    middle = sum(macs) / 3e6
    done(calibrate, *words, "--target-macs", f"{middle}M")
    assert load_bundle(folder / "gated").manifest.expected.mean_macs <= middle * 1e6
    done(calibrate, *words, "--target-ms", 1000)
    few = invoke(calibrate, *words, "--target-macs", "1k")
    assert "what the cheapest way costs" in few.stderr
    other = invoke(calibrate, "--bundle", folder / "in-turn", *words[2:])
    assert "holds scores of 3 exits behind a gate, the bundle has 2 exits" in other.stderr


@pytest.mark.parametrize("option", [("--single-file",), ("--threshold", "0.9,0.9")])
def test_what_is_for_chains_says_how_to_make_one(folder, tmp_path, option):
    result = invoke(export, folder / "model.pt", "--out", tmp_path / "bundle", *option)
    assert result.exit_code == 2
    assert "--in-turn makes a chain" in " ".join(result.stderr.split())


def test_widths_in_turn_share_the_prefix(folder):
    quarter, full = load_bundle(folder / "in-turn").manifest.stages
    assert full.reads == quarter.gives != ()
    assert "image" not in full.reads
    assert load_bundle(folder / "in-turn").manifest.flow.is_chain


@pytest.mark.parametrize("form", [("--int8",), ("--fp16",), ("--gather",), ("--float-input",)])
def test_other_forms_are_verified_too(folder, tmp_path, form):
    done(export, folder / "model.pt", "--out", tmp_path / "bundle", "--data", "digits", *form)
    done(run, "--bundle", tmp_path / "bundle", images(folder)) if form != ("--float-input",) else None


def test_a_gated_bundle_is_measured(folder, tmp_path):
    data = ("--data", folder / "held-out" / "test.npz", "--out", tmp_path / "bench.json")
    done(bench, folder / "gated", *data, *["--seconds", "0.2", "--processes", "1", "--threads", "1"])
    (measured,) = Report.load(tmp_path / "bench.json").runs
    assert "cascade" in measured.subjects
