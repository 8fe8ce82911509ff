"""`s2dnas-train --classes`: a network trained on other classes gets a new classifier, and is tuned first."""

import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from small_networks import MODELS

from s2dnas_deploy.cli import search, train
from s2dnas_deploy.workshop.network.model_file import load_model
from s2dnas_deploy.workshop.network.network import as_static
from s2dnas_deploy.workshop.training import kept, loop

STAGES = ("--plan", "uniform:0.5,0.5", "--epochs", 0)
QUICK = ("--limit", 60, "--static-epochs", 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights for ten digits, an archive of three of them, and their names."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("classes")
    shutil.copy(MODELS / "digits_cnn.py", folder)
    out = folder / "ten.pt"
    data = ["--data", "digits", "--normalize", "data", "--lr", "0.05", "--epochs", "3", "--plan", "static"]
    network = ["--model", f"{folder}/digits_cnn.py:digits_cnn", "--input", "1x8x8", "--out", str(out)]
    result = CliRunner().invoke(train, [*network, *data])
    assert result.exit_code == 0, result.output
    torch.save(dict(weights_of(out)), folder / "ten.pth")
    digits = load_digits()
    rows = np.flatnonzero(digits.target > 6)
    pixels = (digits.images[rows] * 15).astype(np.uint8)
    labels = digits.target[rows] - 7
    np.savez(
        folder / "three.npz",
        train_images=pixels[:300],
        train_labels=labels[:300],
        test_images=pixels[300:],
        test_labels=labels[300:],
    )
    return folder


def weights_of(path):
    return as_static(load_model(path).network).weights


def words(folder, *more, weights=True):
    given = ["--weights", folder / "ten.pth"] if weights else []
    network = ["--model", f"{folder}/digits_cnn.py:digits_cnn", "--input", "1x8x8", *given]
    data = ["--data", folder / "three.npz", "--normalize", "data", "--augment", "none", "--lr", "0.05"]
    return [str(word) for word in (*network, *data, "--cost", "macs", "--batch", 20, *more)]


def run(folder, *more, weights=True):
    return CliRunner().invoke(train, words(folder, *more, weights=weights))


def test_a_network_of_other_classes_is_tuned_and_then_divided(folder, tmp_path):
    out = tmp_path / "m.pt"
    result = run(folder, "--classes", "auto", *STAGES, *QUICK, "--out", out)
    assert result.exit_code == 0, result.output
    said = "64 channels to 10 outputs, is replaced by a new one for 3 classes"
    assert said in result.stderr
    assert "split off those to train on" not in result.stderr  # the weights know none of these images
    static, model = (load_model(path) for path in (tmp_path / "m.run" / "static.pt", out))
    assert (static.network.stages, model.network.stages, len(model.class_names)) == (1, 2, 3)
    assert static.provenance["tuning"]["share"] == 0.1
    assert static.provenance["settings"]["epochs"] == 2
    assert model.provenance["static_accuracy"]["test"] > 0.5
    again = run(folder, "--classes", "auto", *STAGES, *QUICK, "--out", out)
    assert "nothing to do" in again.stderr
    tuned = [
        "--weights",
        tmp_path / "m.run" / "static.pt",
        *STAGES,
        "--limit",
        60,
        "--out",
        tmp_path / "2.pt",
    ]
    data = ["--data", folder / "three.npz", "--normalize", "data", "--cost", "macs"]
    result = CliRunner().invoke(train, [str(word) for word in (*tuned, *data)])
    assert result.exit_code == 0, result.output
    assert "split off those to train on" not in result.stderr  # it was tuned with the same held out


def test_without_epochs_it_lasts_as_suits_the_images(folder, tmp_path, monkeypatch):
    tasks = []

    def keep(task, *_):
        tasks.append(task)
        raise KeyboardInterrupt

    monkeypatch.setattr(kept, "train", keep)
    for more in (
        STAGES,
        ("--plan", "static", "--epochs", 3),
        ("--plan", "static", "--epochs", 3, "--body-lr", 0),
    ):
        run(folder, "--classes", "3", *more, "--limit", 60, "--out", tmp_path / "m.pt")
    assert [task.settings.epochs for task in tasks] == [None, 3, 3]
    assert [task.folder.name for task in tasks] == ["static", "m.run", "m.run"]
    assert [task.tuning.share for task in tasks] == [0.1, 0.1, 0.0]


def test_the_body_waits_and_then_learns_less(folder, tmp_path, monkeypatch):
    rates = []

    def seen(optimizer, settings, share, *, bodys=1.0):
        was(optimizer, settings, share, bodys=bodys)
        rates.append({group.get("is_body"): group["lr"] for group in optimizer.param_groups})
        body = [group["params"] for group in optimizer.param_groups if group["is_body"]]
        assert {weight.requires_grad for weights in body for weight in weights} == {bodys > 0}

    was = loop.set_rate
    monkeypatch.setattr(loop, "set_rate", seen)
    tuned = ("--plan", "static", "--epochs", 5, "--limit", 60, "--body-lr", 0.001, "--warmup", 0)
    assert run(folder, "--classes", "3", *tuned, "--out", tmp_path / "m.pt").exit_code == 0
    assert [rate[True] for rate in rates[:3]] == [0.0] * 3
    assert rates[3][True] == pytest.approx(rates[3][False] / 50)
    assert rates[0][False] == pytest.approx(0.05)


def test_a_body_that_does_not_learn_stays(folder, tmp_path):
    out = tmp_path / "m.pt"
    tuned = ("--plan", "static", "--epochs", 2, "--limit", 60, "--body-lr", 0, "--ema", 0)
    assert run(folder, "--classes", "3", *tuned, "--out", out).exit_code == 0
    before, after = torch.load(folder / "ten.pth"), weights_of(out)
    assert all(weight.requires_grad for weight in load_model(out).network.parameters())
    kernels = [name for name, tensor in before.items() if tensor.dim() == 4]
    assert kernels
    assert all(torch.equal(before[name], after[name]) for name in kernels)
    (classifier,) = [name for name, tensor in before.items() if tensor.dim() == 2]
    assert after[classifier].shape == (3, 64)


def test_what_the_data_must_be(folder, tmp_path):
    (tmp_path / "names.txt").write_text("0\n1\n2\n")
    (tmp_path / "other.txt").write_text("0\n2\n1\n")
    (tmp_path / "cats.txt").write_text("0\ncat\n")
    out = ("--plan", "static", "--epochs", 0, "--limit", 60, "--out", tmp_path / "m.pt")
    assert run(folder, "--classes", tmp_path / "names.txt", *out).exit_code == 0
    for classes, code, words in (
        (tmp_path / "other.txt", 1, "expected '1' in line 2, got '2'"),
        (tmp_path / "cats.txt", 1, "the data lacks 'cat', and has besides: '1', '2'"),
        ("4", 1, "--classes 4: the data has 3 classes"),
        ("all", 2, "--classes: expected auto, a number or a file with a class a line, got 'all'"),
    ):
        result = run(folder, "--classes", classes, *out)
        assert (result.exit_code, words in result.stderr) == (code, True), result.stderr


def test_wrong_turns(folder, tmp_path):
    out = ("--limit", 60, "--out", tmp_path / "m.pt")
    for more, code, words in (
        ((*STAGES,), 1, "--classes auto gives it a new classifier"),
        ((*STAGES, "--body-lr", 0.1), 2, "--body-lr is for a network with a new classifier"),
        (
            (*STAGES, "--classes", "auto", "--body-lr", -1),
            2,
            "--body-lr: expected a finite number, 0 or more",
        ),
        (
            (*STAGES, "--classes", "auto", "--static-epochs", 0),
            2,
            "which has learnt nothing: give --static-ep",
        ),
        (("--model-args", '{"num_classes": 3}', *STAGES), 3, "and give --classes auto"),
    ):
        result = run(folder, *more, *out)
        assert (result.exit_code, words in result.stderr) == (code, True), result.stderr


def test_as_many_classes_keep_their_classifier(folder, tmp_path):
    ten = ("--data", "digits", "--plan", "static", "--epochs", 0, "--limit", 60)
    kept = run(folder, *ten, "--classes", "auto", "--out", tmp_path / "kept.pt")
    new = run(folder, *ten, "--classes", "10", "--out", tmp_path / "new.pt")
    assert (kept.exit_code, new.exit_code) == (0, 0)
    assert "is replaced" not in kept.stderr
    assert "is replaced by a new one for 10 classes" in new.stderr
    before = torch.load(folder / "ten.pth")
    same = [
        all(torch.equal(before[name], tensor) for name, tensor in weights_of(path).items())
        for path in (tmp_path / "kept.pt", tmp_path / "new.pt")
    ]
    assert same == [True, False]


def test_a_tuning_that_was_interrupted_goes_on(folder, tmp_path, monkeypatch):
    options = ("--classes", "auto", *STAGES, *QUICK)
    assert run(folder, *options, "--out", tmp_path / "whole.pt").exit_code == 0
    was = loop._Run.close_epoch

    def interrupted(self):
        was(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop._Run, "close_epoch", interrupted)
    run(folder, *options, "--out", tmp_path / "broken.pt")
    assert (tmp_path / "broken.run" / "static" / "checkpoint.pt").exists()
    monkeypatch.setattr(loop._Run, "close_epoch", was)
    other = run(folder, *options, "--body-lr", 0.001, "--out", tmp_path / "broken.pt")
    assert other.exit_code == 3
    assert "belongs to another run" in other.stderr
    result = run(folder, *options, "--out", tmp_path / "broken.pt")
    assert "resuming after step 3 of 6" in result.stderr
    ours, theirs = (load_model(tmp_path / f"{name}.pt").network.weights() for name in ("whole", "broken"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    (tmp_path / "broken.run" / "static.pt").unlink()
    (tmp_path / "broken.pt").rename(tmp_path / "kept.pt")
    shutil.move(tmp_path / "broken.run", tmp_path / "kept.run")
    again = run(folder, *options, "--out", tmp_path / "kept.pt")  # its static network is trained anew
    assert again.exit_code == 0, again.output


def test_a_recipe_may_say_so(folder, tmp_path):
    shutil.copy(folder / "digits_cnn.py", tmp_path)
    shutil.copy(folder / "three.npz", tmp_path)
    shutil.copy(folder / "ten.pth", tmp_path)
    (tmp_path / "names.txt").write_text("0\n1\n2\n")
    recipe = (
        'model = "digits_cnn.py:digits_cnn"\ninput = "1x8x8"\nweights = "ten.pth"\ndata = "three.npz"\n'
        'normalize = "data"\nclasses = "names.txt"\nbody_lr = 0.002\nstatic_epochs = 1\n'
        'plan = "uniform:0.5,0.5"\n'
        "epochs = 0\nlimit = 60\n"
    )
    (tmp_path / "r.toml").write_text(recipe)
    out = tmp_path / "out" / "m.pt"
    out.parent.mkdir()
    result = CliRunner().invoke(train, ["--recipe", str(tmp_path / "r.toml"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    static = load_model(tmp_path / "out" / "m.run" / "static.pt")
    assert static.provenance["tuning"]["share"] == pytest.approx(0.02)


def test_weights_of_the_factory_are_taken_as_trained_where_it_was_told_to_load_some(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef make(pretrained=False):\n"
        "    if pretrained:\n        torch.manual_seed(5)\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),\n"
        "        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))\n"
    )
    network = ["--model", f"{tmp_path}/net.py:make", "--input", "1x8x8", "--data", "digits", "--limit", "60"]
    network += ["--normalize", "data", "--cost", "macs", "--plan", "uniform:0.5,0.5", "--epochs", "0"]
    network += ["--classes", "auto", "--static-epochs", "1"]
    for told, share in ((True, 0.1), (False, None)):
        out = tmp_path / f"{told}.pt"
        arguments = ["--model-args", f'{{"pretrained": {str(told).lower()}}}', "--out", str(out)]
        result = CliRunner().invoke(train, [*network, *arguments])
        assert result.exit_code == 0, result.output
        assert ("without --weights, all else is new" in result.stderr) is not told
        about = load_model(tmp_path / f"{told}.run" / "static.pt").provenance
        assert about.get("tuning", {}).get("share") == share
        assert about["weights"] == ("loaded by the factory" if told else None)


def test_a_search_tunes_first_as_well(folder, tmp_path):
    asked = ("--classes", "auto", *QUICK, "--epochs", 0, "--shared-epochs", 0, "--finalists", 0)
    result = CliRunner().invoke(
        search,
        words(folder, *asked, "--evaluations", 2, "--stages", 2, "--target", 0.9, "--out", tmp_path / "m.pt"),
    )
    assert result.exit_code == 0, result.output
    assert "tuning" in load_model(tmp_path / "m.run" / "static.pt").provenance
    assert len(load_model(tmp_path / "m.pt").class_names) == 3


NETWORK_OF_TIMMS_FORM = """
from torch import nn


def make(pretrained=True, classes=4):
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
    network.pretrained_cfg = {"input_size": (3, 16, 16), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.5),
        "crop_pct": 0.8, "interpolation": "bicubic", "crop_mode": "center"}
    return network
"""


@pytest.mark.parametrize(
    "said", [(), ("--normalize", "unit"), ("--resize", "stretch"), ("--input", "3x12x12")]
)
def test_images_are_prepared_as_the_weights_were_judged_where_nobody_says_otherwise(tmp_path, said):
    (tmp_path / "net.py").write_text(NETWORK_OF_TIMMS_FORM)
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(3):
            pixels = generator.integers(0, 255, (30 + k, 41, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{k}.png")
    options = ["--model", f"{tmp_path}/net.py:make", "--data", f"{tmp_path}/images", "--classes", "auto"]
    options += ["--plan", "static", "--epochs", "0", "--model-args", '{"pretrained": true}', *said]
    result = CliRunner().invoke(train, [*options, "--out", str(tmp_path / "m.pt")])
    assert result.exit_code == 0, result.output
    given = {
        "--input": "3x16x16",
        "--normalize": "0.5,0.4,0.3/0.2,0.25,0.5",
        "--resize": "crop:0.8:bicubic",
    }
    told = " ".join(f"{name} {value}" for name, value in given.items() if name not in said)
    assert f"{told}, as the weights were judged (timm's pretrained_cfg)\n" in result.stderr
    assert "no --normalize" not in result.stderr
    told = load_model(tmp_path / "m.pt").preprocessing
    assert told.input_shape == ((3, 12, 12) if "--input" in said else (3, 16, 16))
    assert told.mean == ((0.5,) * 3 if "--normalize" in said else (0.5, 0.4, 0.3))
    assert told.resize == ("stretch" if "--resize" in said else "crop:0.8:bicubic")
    if not said:
        alone = [word for word in options if "pretrained" not in word and word != "--model-args"]
        out = ["--input", "3x16x16", "--out", str(tmp_path / "n.pt")]
        untrained = CliRunner().invoke(train, [*alone, *out])
        assert untrained.exit_code == 1  # nothing was judged, so nobody says how images are to fit
        assert "Add `--resize crop`" in untrained.stderr
