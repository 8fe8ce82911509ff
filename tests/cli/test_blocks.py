"""Gates before blocks from the command line: trained to a share of the MACs, exported under `If`, run."""

import json

import onnx
import pytest
import torch
from cli.test_widths import done, invoke
from residual_net import NET
from small_networks import MODELS

from s2dnas_deploy.bundle.bundle import load_bundle
from s2dnas_deploy.cli import export, inspect, run, train
from s2dnas_deploy.workshop.network.model_file import load_model
from s2dnas_deploy.workshop.training import loop

DATA = ("--data", "digits", "--normalize", "data")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blocks")
    (folder / "net.py").write_text(NET)
    model = ("--model", f"{folder}/net.py:make_net", "--input", "1x8x8", *DATA)
    plan = ("--static-epochs", 2, "--epochs", 6, "--plan", "blocks:0.5")
    words = (*model, *plan, "--out", folder / "model.pt")
    said = done(train, *words).stderr
    assert "training gates before blocks" in said
    assert "of the MACs on average; the blocks run for" in said
    assert "nothing to do" in done(train, *words).stderr  # the same run again
    kept = ("--data", "digits", "--held-out", folder / "held-out")
    done(export, folder / "model.pt", "--out", folder / "bundle", *kept)
    return folder


def test_a_bundle_tells_what_an_image_takes_on_average(folder):
    manifest = load_bundle(folder / "bundle").manifest
    assert manifest.expected.mean_macs < 0.8 * manifest.macs[0]
    graph = onnx.load(folder / "bundle" / manifest.stages[0].graph.file).graph
    assert sum(node.op_type == "If" for node in graph.node) == 2
    said = done(run, "--bundle", folder / "bundle", folder / "held-out" / "validation.npz").stdout
    records = [json.loads(line) for line in said.splitlines()]
    right = sum(each["label"] == each["truth"] for each in records) / len(records)
    assert right == pytest.approx(manifest.expected.cascade_accuracy)
    assert "layer_gate" in done(inspect, folder / "model.pt").stdout


@pytest.mark.parametrize("form", [("--int8",), ("--fp16",), ("--float-input",), ("--single-file",)])
def test_other_forms_are_verified_too(folder, tmp_path, form):
    done(export, folder / "model.pt", "--out", tmp_path / "bundle", "--data", "digits", *form)
    entry = load_bundle(tmp_path / "bundle").manifest.stages[0].graph.file
    nodes = onnx.load(tmp_path / "bundle" / entry).graph.node
    assert any(node.op_type == "If" for node in nodes) == (form != ("--int8",))


@pytest.mark.parametrize("share", ["0", "1.5", "nan", "half", ""])
def test_a_share_that_is_none_is_refused(folder, tmp_path, share):
    words = ("--model", f"{folder}/net.py:make_net", "--input", "1x8x8", *DATA)
    result = invoke(train, *words, "--out", tmp_path / "model.pt", "--plan", f"blocks:{share}")
    assert result.exit_code == 2
    assert "expected blocks:SHARE" in result.stderr


def test_a_network_without_blocks_is_refused(tmp_path):
    words = ("--model", f"{MODELS}/digits_cnn.py:digits_cnn", "--input", "1x8x8", *DATA)
    result = invoke(train, *words, "--plan", "blocks:0.5", "--out", tmp_path / "model.pt")
    assert result.exit_code != 0
    assert "the network has no residual block" in result.stderr


@pytest.mark.slow
def test_a_run_that_was_broken_off_goes_on_to_the_same_bits(folder, tmp_path, monkeypatch):
    model = ("--model", f"{folder}/net.py:make_net", "--input", "1x8x8", "--data", "digits")
    words = (*model, "--weights", folder / "model.run" / "static.pt", "--epochs", 4, "--plan", "blocks:0.5")
    done(train, *words, "--out", tmp_path / "whole.pt")
    closed = loop._Run.close_epoch

    def broken(self):
        closed(self)
        if len(self.metrics) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._Run, "close_epoch", broken)
    assert invoke(train, *words, "--out", tmp_path / "broken.pt").exit_code != 0
    monkeypatch.undo()
    assert "resuming after step" in done(train, *words, "--out", tmp_path / "broken.pt").stderr
    ours, theirs = (load_model(tmp_path / f"{name}.pt").network.weights() for name in ("whole", "broken"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_paths_are_made_of_what_the_gates_decide(folder, tmp_path):
    words = ("--weights", folder / "model.pt", *DATA, "--epochs", 2, "--plan", "paths:3")
    done(train, *words, "--out", folder / "paths.pt")
    assert "nothing to do" in done(train, *words, "--out", folder / "paths.pt").stderr
    plan = load_model(folder / "paths.pt").network.division.plan
    assert plan.nested
    assert plan.gate is not None
    assert not any("gate" in name for name in plan.channels)
    kept = ("--data", "digits", "--static-model", folder / "model.pt")
    done(export, folder / "paths.pt", "--out", tmp_path / "bundle", *kept)
    flow = load_bundle(tmp_path / "bundle").manifest.flow
    assert flow.gate is not None
    said = done(run, "--bundle", tmp_path / "bundle", folder / "held-out" / "validation.npz").stdout
    assert all(json.loads(line)["way"].startswith("prefix") for line in said.splitlines())


def test_paths_need_a_network_that_left_blocks_out(folder, tmp_path):
    static = ("--weights", folder / "model.run" / "static.pt", *DATA)
    result = invoke(train, *static, "--plan", "paths:3", "--out", tmp_path / "m.pt")
    assert result.exit_code == 2
    assert "train one by --plan blocks:0.5" in result.stderr
    for plan in ("paths:", "paths:1", "paths:x", "paths:999"):
        result = invoke(train, *static, "--plan", plan, "--out", tmp_path / "m.pt")
        assert result.exit_code == 2
        assert "expected paths:COUNT with 2 to" in result.stderr
