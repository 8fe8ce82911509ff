"""Nested widths from the command line: trained, exported, picked by the caller or in turn, and measured."""

import json

import pytest
from click.testing import CliRunner
from small_networks import MODELS

from s2dnas_deploy.bench.report import Report
from s2dnas_deploy.bundle.bundle import load_bundle
from s2dnas_deploy.cli import bench, calibrate, export, inspect, run, train

NAMES = ("quarter", "half", "full")
PLAN = ("--plan", "widths:0.25,0.5,1")


def invoke(command, *words):
    return CliRunner().invoke(command, [str(word) for word in words])


def done(command, *words):
    result = invoke(command, *words)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of three widths, as bundles of both kinds, and the images that training held out."""
    folder = tmp_path_factory.mktemp("widths")
    recipe = ("--recipe", MODELS / "digits.toml", "--static-epochs", 2, "--epochs", 2)
    trained = done(train, *recipe, *PLAN, "--out", folder / "model.pt")
    assert "three_quarters" not in trained.stdout
    assert "quarter" in trained.stdout
    held_out = ("--data", "digits", "--held-out", folder / "held-out")
    done(export, folder / "model.pt", "--out", folder / "picked", *held_out)
    turns = ("--in-turn", "quarter,full")
    done(export, folder / "model.pt", "--out", folder / "in-turn", "--data", "digits", *turns)
    return folder


def test_the_bundle_tells_what_each_choice_costs_and_how_good_it_is(folder):
    setting = load_bundle(folder / "picked").manifest.settings["width"]
    assert (setting.choices, setting.default) == (NAMES, "full")
    assert list(setting.macs) == sorted(set(setting.macs))
    said = done(inspect, folder / "picked").stdout
    for name, right in zip(NAMES, setting.accuracy, strict=True):
        picked = ("--setting", f"width={name}", folder / "held-out" / "validation.npz")
        lines = done(run, "--bundle", folder / "picked", *picked).stdout.splitlines()
        records = [json.loads(line) for line in lines]
        assert {record["way"] for record in records} == {name}
        assert sum(each["label"] == each["truth"] for each in records) / len(records) == pytest.approx(right)
        assert f"{100 * right:.2f}% right" in said


def test_the_summary_tells_what_a_width_costs_by_itself(folder):
    words = ("--bundle", folder / "picked", "--setting", "width=half", folder / "held-out" / "test.npz")
    rows = {line.split()[0]: line.split() for line in done(run, *words).stderr.splitlines() if "%" in line}
    macs = load_bundle(folder / "picked").manifest.macs[1]
    assert rows["half"][1:3] == ["359", "100.0%"]
    assert rows["all"][4] == rows["half"][4] == f"{macs / 1e6:.2f}"
    assert rows["quarter"][1] == "0"


def test_a_budget_picks_the_best_that_fits(folder):
    words = ("--bundle", folder / "picked", folder / "held-out" / "test.npz")
    assert "--setting width=" in done(run, *words, "--budget-ms", 1000).stderr
    least = invoke(run, *words, "--budget-ms", 1e-6)
    assert least.exit_code == 2
    assert "nothing fits into 1e-06 ms: the quickest, width=" in least.stderr
    both = invoke(run, *words, "--budget-ms", 5, "--setting", "width=half")
    assert both.exit_code == 2
    assert "leave it out where --setting" in both.stderr
    thresholds = invoke(run, *words, "--budget-ms", 5, "--threshold", "0.9")
    assert "--threshold and --last-stage are for chains" in thresholds.stderr
    assert "expected a budget above 0 ms, got nan" in invoke(run, *words, "--budget-ms", "nan").stderr
    chain = invoke(run, "--bundle", folder / "in-turn", *words[2:], "--budget-ms", 5)
    assert chain.exit_code == 2
    assert "this bundle has 0" in chain.stderr


def test_widths_in_turn_are_a_chain_that_is_calibrated(folder):
    images = folder / "held-out" / "validation.npz"
    drop = ("--max-drop", "5%", "--probability", "0.5")
    assert "exits" not in done(calibrate, "--bundle", folder / "in-turn", images, *drop).stderr
    manifest = load_bundle(folder / "in-turn").manifest
    assert manifest.flow.is_chain
    assert [stage.name for stage in manifest.stages] == ["quarter", "full"]
    assert manifest.promise.max_drop == 0.05


def test_a_plan_in_turn_is_forecast_trained_and_exported_as_a_chain(tmp_path):
    recipe = ("--recipe", MODELS / "digits.toml", "--limit", 60, "--static-epochs", 1, "--epochs", 0)
    plan = ("--plan", "in-turn:0.25,0.5,1", "--cost", "macs")
    assert "the last one reads" not in done(train, *recipe, *plan, "--out", tmp_path / "model.pt").stdout
    forecast = json.loads((tmp_path / "model.run" / "forecast.json").read_text())
    document = json.loads(done(inspect, tmp_path / "model.pt", "--json").stdout)
    assert "3 nested widths of a network, tried in turn" in done(inspect, tmp_path / "model.pt").stdout
    shares = [width["macs_share"] for width in document["stages"]]
    assert forecast["stages"] == pytest.approx(shares, abs=1e-5)
    assert [width["cumulative_macs_share"] for width in document["stages"]] == pytest.approx(
        [sum(shares[: k + 1]) for k in range(3)], abs=1e-5
    )

    def exported(*options):
        done(export, tmp_path / "model.pt", "--out", tmp_path / "bundle", *options)
        flow = load_bundle(tmp_path / "bundle").manifest.flow
        return flow.is_chain, tuple(stop.name for stop in flow.stops)

    assert exported() == (True, NAMES)
    assert exported("--in-turn", "half,full") == (True, ("half", "full"))
    assert exported("--in-turn", "none") == (False, NAMES)


def test_every_choice_is_measured(folder, tmp_path):
    data = ("--data", folder / "held-out" / "test.npz", "--out", tmp_path / "bench.json")
    done(bench, folder / "picked", *data, *["--seconds", "0.2", "--processes", "1", "--threads", "1"])
    (measured,) = Report.load(tmp_path / "bench.json").runs
    assert {f"width={name}" for name in NAMES} <= measured.subjects.keys()


def test_a_model_of_widths_is_told_in_words(folder):
    said = done(inspect, folder / "model.pt").stdout
    assert "3 nested widths of a network" in said
    planned = ("--model", f"{MODELS}/digits_cnn.py:digits_cnn", "--input", "1x8x8", *PLAN)
    document = json.loads(done(inspect, *planned, "--json").stdout)
    assert [width["channels_share"] for width in document["stages"]] == [0.25, 0.5, 1.0]
    assert document["stages"][-1]["macs_share"] == document["stages"][-1]["cumulative_macs_share"] == 1.0
    forecast = invoke(inspect, *planned, "--forecast", "--cost", "macs")
    assert "of nested widths the caller picks one" in forecast.stderr


def test_in_turn_is_for_widths(folder, tmp_path):
    recipe = ("--recipe", MODELS / "digits.toml", "--limit", 60, "--static-epochs", 1, "--epochs", 0)
    done(train, *recipe, "--plan", "uniform:0.5,0.5", "--cost", "macs", "--out", tmp_path / "stages.pt")
    result = invoke(export, tmp_path / "stages.pt", "--out", tmp_path / "bundle", "--in-turn", "quarter,full")
    assert result.exit_code == 2
    assert "--in-turn is for nested widths; this model has stages" in result.stderr
    own = ("--model", f"{MODELS}/branchy.py:branchy_digits", "--input", "1x8x8", "--in-turn", "a,b")
    assert "--in-turn is for a MODEL.PT" in invoke(export, *own, "--out", tmp_path / "bundle").stderr
