"""`s2dnas-export --last-exit`: what no exit is sure of, the static network answers."""

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

import torch
from exports import as_model, model_of, pixels
from other_systems import SYSTEMS
from small_networks import residual

from s2dnas_deploy import Cascade
from s2dnas_deploy import plan as plans
from s2dnas_deploy.bundle.bundle import verify_bundle
from s2dnas_deploy.cli import calibrate, export
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.workshop.export.chain import chain_of
from s2dnas_deploy.workshop.export.samples import normalised
from s2dnas_deploy.workshop.export.staged import followed_by
from s2dnas_deploy.workshop.network.model_file import load_model, save_model
from s2dnas_deploy.workshop.network.nested import planned

LEFT_OVER, WHOLE, WIDTHS = "in-turn:0.25,0.5", "in-turn:0.25,1", "widths:0.25,0.5,1"
CHAIN = "uniform:0.25,0.25,0.5"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A static network, and models that it was divided into."""
    folder, static = tmp_path_factory.mktemp("models"), residual()
    space = static.divisible.space
    for text in (LEFT_OVER, WHOLE, WIDTHS):
        save_model(as_model(planned(static, plans.from_text(text, space)).eval()), folder / f"{text}.pt")
    save_model(model_of(static, plans.from_text(CHAIN, space)), folder / f"{CHAIN}.pt")
    save_model(model_of(static, plans.static(space)), folder / "static.pt")
    return folder


def exported(folder, plan, out, *options, static=True):
    given = ["--static-model", folder / "static.pt"] if static else []
    asked = [folder / f"{plan}.pt", "--out", out, *given, *options]
    return CliRunner().invoke(export, [str(each) for each in asked])


@pytest.mark.parametrize(
    ("plan", "options", "names"),
    [
        (LEFT_OVER, (), ("half", "full", "static")),
        (LEFT_OVER, ("--last-exit", "own"), ("half", "full")),
        (LEFT_OVER, ("--in-turn", "half,full"), ("half", "full")),
        (WHOLE, (), ("quarter", "full")),
        (WHOLE, ("--last-exit", "static"), ("quarter", "full", "static")),
        (WIDTHS, ("--in-turn", "quarter,half", "--last-exit", "static"), ("quarter", "half", "static")),
        (WIDTHS, ("--in-turn", "quarter", "--last-exit", "static"), ("quarter", "static")),
        (WIDTHS, ("--in-turn", "half"), ("half",)),
        (CHAIN, (), ("stage_0", "stage_1", "stage_2")),
        (CHAIN, ("--last-exit", "static"), ("stage_0", "stage_1", "stage_2", "static")),
    ],
)
def test_the_static_network_comes_last_where_no_width_is_all_of_it_or_as_asked(
    folder, tmp_path, plan, options, names
):
    result = exported(folder, plan, tmp_path / "b", *options)
    assert result.exit_code == 0, result.output
    assert tuple(stage.name for stage in verify_bundle(tmp_path / "b").manifest.stages) == names


@pytest.mark.parametrize("plan", [LEFT_OVER, CHAIN])
@pytest.mark.parametrize("form", [(), ("--gather",), ("--single-file",), ("--join", "sum")])
def test_its_answers_are_the_static_networks_to_the_bit(folder, tmp_path, plan, form):
    wanted = ("--last-exit", "static", "--threshold", "2", *form)
    assert exported(folder, plan, tmp_path / "b", *wanted).exit_code == 0
    alone = CliRunner().invoke(export, [str(folder / "static.pt"), "--out", str(tmp_path / "s"), *form])
    assert alone.exit_code == 0, alone.output
    images = pixels(as_chain(folder, CHAIN), 12)
    ours, theirs = (Cascade.load(tmp_path / name).predict(images, probabilities=True) for name in ("b", "s"))
    np.testing.assert_array_equal(ours.label, theirs.label)
    np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
    assert {ours.stages[place] for place in ours.exit} == {"static"}


def test_without_the_static_network_it_is_told_how_to_give_it(folder, tmp_path):
    result = exported(folder, LEFT_OVER, tmp_path / "b", static=False)
    assert result.exit_code == 0, result.output
    assert "give --static-model model.run/static.pt" in result.stderr
    assert "--static-model" not in exported(folder, WHOLE, tmp_path / "b", static=False).stderr
    refused = exported(folder, LEFT_OVER, tmp_path / "b", "--last-exit", "static", static=False)
    assert refused.exit_code == 2
    assert "--last-exit static: give the static network, too, by --static-model" in refused.stderr


def test_a_promise_against_the_static_network_can_always_be_kept(folder, tmp_path):
    """Exits that were never trained answer by chance, so that no image may exit: and then none does."""
    assert exported(folder, LEFT_OVER, tmp_path / "b").exit_code == 0
    chain = as_chain(folder, CHAIN)
    images = pixels(chain, 400)
    labels = Cascade.load(tmp_path / "b").predict(images, thresholds=(2.0, 2.0)).label
    np.savez(tmp_path / "known.npz", x_test=images, y_test=labels)
    asked = [
        "--bundle",
        tmp_path / "b",
        tmp_path / "known.npz",
        "--max-drop",
        "1%",
        "--static",
        tmp_path / "b.static.onnx",
    ]
    result = CliRunner().invoke(calibrate, [str(each) for each in asked])
    assert result.exit_code == 0, result.output
    assert "at most 1 point below that of the static network" in result.stdout


@pytest.mark.parametrize("system", ["widths", "gate", "blocks"])
def test_where_samples_go_by_routes_of_their_own_it_is_refused(folder, system):
    with pytest.raises(OptionError, match="for a chain of stages, and for widths that are tried in turn"):
        followed_by(SYSTEMS[system](), as_chain(folder, "static"))


def as_chain(folder, name):
    from s2dnas_deploy.workshop.export.chain import chain_of
    from s2dnas_deploy.workshop.network.model_file import load_model

    return chain_of(load_model(folder / f"{name}.pt"), name="test", split=True)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ((), ("stage_0", "stage_1", "stage_2", "static")),
        (("--last-exit", "own"), ("stage_0", "stage_1", "stage_2")),
    ],
)
def test_it_comes_last_where_it_is_clearly_right_more_often(folder, tmp_path, options, names):
    chain, static = (load_model(folder / name) for name in (f"{CHAIN}.pt", "static.pt"))
    images = pixels(chain_of(static, name="static", split=True), 400)
    normal = torch.from_numpy(normalised(images, static.preprocessing))
    with torch.no_grad():
        right, ours = (each.network.eval()(normal)[-1].argmax(1) for each in (static, chain))
    assert (right != ours).sum() > 2, "more than by chance"
    every = np.arange(400) % len(static.class_names)  # to train on, which nobody does
    parts = {"x_train": images, "y_train": every, "x_val": images, "y_val": right.numpy()}
    np.savez(tmp_path / "data.npz", **parts, class_names=np.array(static.class_names))
    done = exported(folder, CHAIN, tmp_path / "b", "--data", tmp_path / "data.npz", *options)
    assert done.exit_code == 0, done.output
    assert ("the static network on 100.0%" in done.stderr) == (not options)
    assert Cascade.load(tmp_path / "b").names == names
