"""`s2dnas-train` as a person runs it: fresh processes, killed at random, and wrong turns."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_networks import MODELS

from s2dnas_deploy.cli import main, train
from s2dnas_deploy.workshop.network.model_file import load_model
from s2dnas_deploy.workshop.reading.source import build_network
from s2dnas_deploy.workshop.training import kept

DIGITS = [
    "--model", f"{MODELS}/digits_cnn.py:digits_cnn", "--input", "1x8x8", "--data", "digits",
    "--normalize", "data", "--augment", "crop", "--crop-padding", "1", "--batch", "64", "--lr", "0.05",
    "--cost", "macs",
]  # fmt: skip
FEW = ["--limit", "100"]  # of each part, where how good the network gets is no matter


def run(*arguments):
    return CliRunner().invoke(train, [*DIGITS, *map(str, arguments)])


def test_help_imports_no_torch_and_names_the_options():
    code = (
        "import sys\nfrom s2dnas_deploy.cli import train\n"
        "try: train(['--help'])\nexcept SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'numpy', 'onnx', 'matplotlib'} & set(sys.modules), sys.modules.keys()"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for option in ("--model", "--weights", "--data", "--plan", "--epochs", "--seed", "--out", "--recipe"):
        assert option in result.stdout


def test_the_group_has_every_command():
    result = CliRunner().invoke(main, ["--help"])
    assert all(name in result.output for name in ("train", "inspect"))


def test_train_writes_a_model_and_says_how_good_it_is(tmp_path):
    out = tmp_path / "digits.pt"
    result = run("--plan", "uniform:0.25,0.75", "--epochs", 2, "--out", out)
    assert result.exit_code == 0, result.output
    model = load_model(out)
    assert f"exit 1        {100 * model.provenance['val_accuracy'][1]:7.2f}%" in result.stdout
    assert model.provenance["test_accuracy"][1] > 0.3
    assert model.class_names == tuple("0123456789")
    assert len((tmp_path / "digits.run" / "metrics.jsonl").read_text().splitlines()) == 2
    again = run("--plan", "uniform:0.25,0.75", "--epochs", 2, "--out", out)
    assert again.exit_code == 0
    assert "nothing to do" in again.stderr
    other = run("--plan", "uniform:0.5,0.5", "--epochs", 2, "--out", out)
    assert other.exit_code == 3
    assert "comes from another run (another plan)" in other.stderr
    longer = run("--plan", "uniform:0.25,0.75", "--epochs", 3, "--out", out)
    assert "epochs 2, now 3" in longer.stderr


def test_a_static_model_is_trained_then_divided_without_its_code(tmp_path):
    static, out = tmp_path / "static.pt", tmp_path / "divided.pt"
    assert run("--plan", "static", "--epochs", 1, *FEW, "--out", static).exit_code == 0
    arguments = ["--weights", static, "--data", "digits", *FEW, "--plan", "depth:pool", "--epochs", "0"]
    result = CliRunner().invoke(train, [*map(str, arguments), "--out", str(out)])
    assert result.exit_code == 0, result.output
    whole, divided = load_model(static), load_model(out)
    image = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(whole.network(image)[0], divided.network(image)[-1])


def test_a_static_network_that_was_trained_here_is_not_replaced_by_another(tmp_path):
    out, kept, other = tmp_path / "m.pt", tmp_path / "m.run" / "static.pt", tmp_path / "other.pt"
    here = ["--plan", "uniform:0.5,0.5", "--epochs", 0, *FEW, "--out", out]
    assert run(*here, "--static-epochs", 1).exit_code == 0
    assert run("--plan", "static", "--epochs", 2, *FEW, "--out", other).exit_code == 0
    trained = kept.read_bytes()
    for refused in (f"{out} is there already", f"{kept} was trained here and is not the network of {other}"):
        result = run(*here, "--weights", other)
        assert result.exit_code == 3
        assert refused in result.stderr
        assert kept.read_bytes() == trained
        out.unlink(missing_ok=True)
    assert run(*here, "--weights", kept).exit_code == 0
    assert kept.read_bytes() == trained
    assert run(*here, "--weights", other, "--restart").exit_code == 0
    assert kept.read_bytes() != trained


def test_a_model_of_another_run_is_found_before_a_static_network_is_trained(tmp_path, monkeypatch):
    out, divided = tmp_path / "m.pt", ["--plan", "uniform:0.5,0.5", *FEW]
    begun = ["--static-epochs", 1, "--out", out]
    assert run(*divided, "--epochs", 0, *begun).exit_code == 0
    (tmp_path / "m.run" / "static.pt").unlink()
    again = run(*divided, "--epochs", 0, "--checkpoint-seconds", 5, *begun)  # the same, trained anew
    assert "nothing to do" in again.stderr
    (tmp_path / "m.run" / "static.pt").unlink()
    monkeypatch.setattr(kept, "train", lambda *_: pytest.fail("it was trained"))
    there = out.read_bytes()
    refused = run(*divided, "--epochs", 1, *begun)
    assert (refused.exit_code, out.read_bytes()) == (3, there)
    assert f"{out} is there already and comes from another run (epochs 0, now 1)" in refused.stderr
    out.unlink()
    assert run(*divided, "--epochs", 0, "--out", out).exit_code == 0
    refused = run(*divided, "--epochs", 0, *begun)
    assert refused.exit_code == 3
    assert "comes from another run (other starting weights)" in refused.stderr
    out.write_bytes(b"no model")
    assert "move it away, or --restart" in run(*divided, "--epochs", 0, *begun).stderr


def test_wrong_turns_that_the_text_tells_are_refused_before_torch_or_images_are_touched(tmp_path):
    weights = tmp_path / "net.pt"
    weights.write_bytes(b"weights")
    (tmp_path / "same.pt").symlink_to(weights)
    (tmp_path / "plan.json").write_text("{}")
    network = ["--model", "none.py:none", "--data", str(tmp_path / "none"), "--weights", str(weights)]
    good = ["--out", str(tmp_path / "model.pt")]
    cases = {
        "train --plan unifrom:0.5,0.5": "did you mean uniform:0.5,0.5?",
        "train --plan uniform:25,25,50": "write 0.25,0.25,0.5",
        "train --plan blocks:2": "above 0 and at most 1",
        "train --plan paths:x": "expected paths:COUNT",
        f"train --plan {tmp_path}/none.json": "there is no such file",
        f"train --plan {tmp_path}/plan.json": "plan.json",
        f"train --out {tmp_path}/net.pth": "expected a name that ends in .pt, such as net.pt",
        f"search --out {tmp_path}/net.onnx": "expected a name that ends in .pt, such as net.pt",
        f"train --out {tmp_path}/same.pt": "is the file of --weights, which is only read",
        f"search --out {tmp_path}/net.pt": "is the file of --weights, which is only read",
        "inspect --plan unifrom:0.5,0.5": "did you mean uniform:0.5,0.5?",
        "inspect --plan blocks:0.5": "is for s2dnas-train alone",
    }
    code = (
        "import sys, json\nfrom click.testing import CliRunner\nfrom s2dnas_deploy.cli import main\n"
        "told = []\nfor each in json.loads(sys.argv[1]):\n"
        "    done = CliRunner().invoke(main, each)\n    told.append((done.exit_code, done.output))\n"
        "    assert 'torch' not in sys.modules, each\n"
        "print(json.dumps(told))"
    )
    asked = []
    for each in cases:
        command, *option = each.split()
        rest = network[:2] if command == "inspect" else [*network, *([] if "--out" in option else good)]
        asked.append([command, *rest, *option])
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(asked)], check=True, capture_output=True, text=True
    )
    for (exit_code, output), (each, message) in zip(json.loads(done.stdout), cases.items(), strict=True):
        assert exit_code == 2, (each, output)
        assert message in output, (each, output)


LEVELS = """
import torch
from torch import nn


class Levels(nn.Module):
    \"\"\"Ten classes of brightness; its weights are for pixels from -1 to 1.\"\"\"

    def __init__(self):
        super().__init__()
        self.mean = nn.Conv2d(3, 4, 1)
        self.classes = nn.Linear(4, 10)
        level = torch.linspace(-0.9, 0.9, 10)
        with torch.no_grad():
            self.mean.weight.fill_(1 / 3)
            self.mean.bias.zero_()
            self.classes.weight.copy_((2 * level / 4)[:, None].expand(10, 4))
            self.classes.bias.copy_(-(level**2))

    def forward(self, images):
        return self.classes(self.mean(images).mean((2, 3)))
"""


def test_weights_that_another_normalisation_fits_get_a_word(tmp_path):
    (tmp_path / "levels.py").write_text(LEVELS)
    network = build_network(f"{tmp_path}/levels.py:Levels", {})
    torch.save(network.state_dict(), tmp_path / "w.pth")
    labels = np.arange(400) % 10
    images = np.broadcast_to((labels * 25.5 + 12).astype(np.uint8)[:, None, None, None], (400, 3, 4, 4))
    np.savez(tmp_path / "data.npz", x_train=images, y_train=labels)
    asked = [
        *("--model", f"{tmp_path}/levels.py:Levels", "--input", "3x4x4", "--weights", tmp_path / "w.pth"),
        *("--data", tmp_path / "data.npz", "--plan", "static", "--epochs", "0"),
    ]
    words = "with --normalize unit the static network is right on 100.0% of 40 validation images in place of "
    for given, told in (([], True), (["--normalize", "unit"], False)):
        out = tmp_path / f"{told}.pt"
        result = CliRunner().invoke(train, [*map(str, asked), *given, "--out", str(out)])
        assert result.exit_code == 0, result.output
        assert (words in result.stderr) == told


def test_the_digits_recipe_and_the_command_line_over_it(tmp_path):
    out = tmp_path / "digits.pt"
    recipe = ["--recipe", str(MODELS / "digits.toml"), "--static-epochs", "1", "--epochs", "1", *FEW]
    result = CliRunner().invoke(train, [*recipe, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert load_model(out).provenance["settings"]["epochs"] == 1
    assert load_model(tmp_path / "digits.run" / "static.pt").network.stages == 1


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [
        ([], [2, 1, 1]),
        (["--plan", "static"], []),
        (["--plan", "uniform:0.5,0.5"], []),
        (["--plan", "uniform:0.5,0.5", "--exit-weights", "1,3"], [1, 3]),
    ],
)
def test_a_recipes_exit_weights_go_with_its_own_plan(tmp_path, arguments, weights):
    recipe = (MODELS / "digits.toml").read_text() + 'exit_weights = "2,1,1"\n'
    (tmp_path / "r.toml").write_text(recipe)
    shutil.copy(MODELS / "digits_cnn.py", tmp_path)
    quick = ["--static-epochs", "0", "--epochs", "0", "--limit", "50", "--out", str(tmp_path / "m.pt")]
    result = CliRunner().invoke(train, ["--recipe", str(tmp_path / "r.toml"), *quick, *arguments])
    assert result.exit_code == 0, result.output
    assert load_model(tmp_path / "m.pt").provenance["settings"]["exit_weights"] == weights


def test_a_recipe_with_an_unknown_key_is_a_usage_error(tmp_path):
    (tmp_path / "r.toml").write_text("epoch = 3\n")
    result = CliRunner().invoke(train, ["--recipe", str(tmp_path / "r.toml"), "--out", "x.pt"])
    assert result.exit_code == 2
    assert "unknown keys 'epoch'" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--plan", "uniform:0.5,0.6"], 2, "sum to 1"),
        (["--plan", "depth:nowhere"], 2, "no node or module 'nowhere' to exit at"),
        (["--plan", "static", "--weights", "missing.pt"], 3, "no weights file missing.pt"),
        (["--plan", "static", "--batch", "1"], 2, "batch size: expected 2 to 1048576"),
        (["--plan", "static", "--input", "8x8"], 2, "CHANNELSxHEIGHTxWIDTH"),
        (["--plan", "static", "--input", "8x8x1"], 2, "channels last; did you mean 1x8x8?"),
        (["--plan", "static", "--input", "3x8x8"], 1, "cannot be run on a 3x8x8 image"),
        (["--plan", "static", "--model", "missing.py:make"], 1, "no file missing.py"),
        (["--plan", "static", "--data", "missing"], 1, "missing: expected a folder of classes"),
        (["--plan", "static", "--device", "cuda"], 2, "torch finds no GPU"),
        (["--plan", "static", "--device", "gpu"], 2, "expected auto, cpu, cuda or cuda:N"),
        (["--plan", "static", "--normalize", "imagnet"], 2, "cannot read --normalize 'imagnet'"),
        (["--plan", "static", "--out", f"{__file__}/x.pt"], 2, "is no folder that can be written to"),
        (["--plan", "static", "--model-args", "{"], 2, "is not JSON"),
        (["--plan", "plan.json"], 2, "cannot read the plan file plan.json"),
    ],
)
def test_wrong_turns_end_with_a_message_and_a_code(tmp_path, arguments, code, message):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so cuda is no wrong turn")
    result = run("--epochs", 1, "--out", tmp_path / "x.pt", *arguments)
    assert result.exit_code == code, result.output
    assert message in result.output
    assert "Traceback" not in result.output


def test_images_of_the_wrong_size_and_empty_classes(tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "images" / "cat" / "0.png")
    result = run("--plan", "static", "--epochs", 1, "--data", tmp_path / "images", "--out", tmp_path / "x.pt")
    assert result.exit_code == 1
    assert "dog" in result.output
    for name in ("cat", "dog"):
        for i in range(3):
            Image.new("L", (9, 7)).save(tmp_path / "images" / name / f"{i}.png")
    result = run("--plan", "static", "--epochs", 1, "--data", tmp_path / "images", "--out", tmp_path / "x.pt")
    assert result.exit_code == 1
    assert "--resize" in result.output


def test_without_epochs_a_run_says_how_long_it_was_and_what_more_would_bring(tmp_path):
    result = run("--plan=uniform:0.5,0.5", "--limit=40", f"--out={tmp_path}/x.pt", "--lr=1e-9")
    assert result.exit_code == 0, result.output
    about = load_model(tmp_path / "x.pt").provenance
    assert about["settings"]["epochs"] is None
    assert about["epochs_trained"] == 59  # of 68: nothing is gained at such a rate
    assert "so the run ended after 59 of at most 68 epochs\nover the last third of 59 ep" in result.stderr
    asked = run("--plan=uniform:0.5,0.5", "--epochs=3", "--limit=40", f"--out={tmp_path}/y.pt")
    assert "so the run ended" not in asked.stderr
    assert "over the last third of 3 epochs" in asked.stderr


def test_without_input_the_network_reads_images_as_they_are(tmp_path):
    network = [word for word in DIGITS if word not in ("--input", "1x8x8")]
    options = [*network, "--plan=static", "--epochs=0", *FEW]
    result = CliRunner().invoke(train, [*options, f"--out={tmp_path}/x.pt"])
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("--input 1x8x8, as the images are\n")
    assert load_model(tmp_path / "x.pt").preprocessing.input_shape == (1, 8, 8)
    assert (
        "as the images are" not in run("--plan=static", "--epochs=0", *FEW, f"--out={tmp_path}/y.pt").stderr
    )
    refused = CliRunner().invoke(train, [*options, "--resize=crop", f"--out={tmp_path}/z.pt"])
    assert refused.exit_code == 2
    assert "--resize is given, and --input is not: give the size that images are to get" in refused.stderr


def start(out: Path, plan: str) -> subprocess.Popen:
    command = "from s2dnas_deploy.cli import train; train()"
    options = ["--plan", plan, "--static-epochs", "1", "--epochs", "6", "--out", str(out)]
    arguments = [*DIGITS, *options, "--checkpoint-seconds", "0.05", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", command, *arguments], env=environment)


def wait_until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["uniform:0.25,0.75", "widths:0.25,0.5,1", "gate:0.25,0.5,1"])
def test_kill_9_twice_then_resume_gives_the_same_bits(tmp_path, plan):
    whole = start(tmp_path / "whole.pt", plan)
    rng = random.Random(0)  # noqa: S311 - when to kill needs no secrecy
    for _ in range(2):
        broken = start(tmp_path / "broken.pt", plan)
        wait_until((tmp_path / "broken.run" / "checkpoint.pt").exists, broken)
        time.sleep(rng.uniform(0.0, 0.7))
        broken.send_signal(signal.SIGKILL)
        broken.wait()
    assert start(tmp_path / "broken.pt", plan).wait() == 0
    assert whole.wait() == 0
    ours = load_model(tmp_path / "whole.pt").network.weights()
    theirs = load_model(tmp_path / "broken.pt").network.weights()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    logs = [(tmp_path / f"{name}.run" / "metrics.jsonl").read_text() for name in ("whole", "broken")]
    assert logs[0] == logs[1]
    assert [json.loads(line)["epoch"] for line in logs[0].splitlines()] == [1, 2, 3, 4, 5, 6]


def test_without_a_plan_the_best_of_some_is_trained_and_again_when_it_goes_on(tmp_path):
    out = tmp_path / "auto.pt"
    arguments = ("--epochs", 1, "--static-epochs", 1, *FEW, "--out", out)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "forecast: by MACs" in result.stderr
    told = json.loads((tmp_path / "auto.run/forecast.json").read_text())
    model = load_model(out)
    assert model.network.stages == told["plan"]["stages"] > 1
    again = run(*arguments)
    assert again.exit_code == 0, again.output
    assert "nothing to do" in again.stderr
    assert again.stdout == result.stdout


@pytest.mark.parametrize(("norm", "rate"), [(True, 0.1), (False, 0.01)])
def test_the_learning_rate_suits_a_network_without_norms(tmp_path, norm, rate):
    layers = "nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU()" if norm else "nn.Conv2d(1, 8, 3), nn.ReLU()"
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef make():\n"
        f"    return nn.Sequential({layers}, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))\n"
    )
    asked = [
        "--model",
        f"{tmp_path}/net.py:make",
        "--input",
        "1x8x8",
        "--data",
        "digits",
        "--normalize",
        "data",
    ]
    asked += ["--plan", "static", "--epochs", "1", "--limit", "100"]
    for more, expected in (([], rate), (["--lr", "0.03"], 0.03)):
        out = tmp_path / f"{expected}.pt"
        result = CliRunner().invoke(train, [*asked, *more, "--out", str(out)])
        assert result.exit_code == 0, result.output
        assert load_model(out).provenance["settings"]["lr"] == expected


@pytest.mark.parametrize(("said", "alone", "taught"), [(None, "crop,flip", "flip"), ("none", "none", "none")])
def test_images_are_cropped_where_nobody_teaches(tmp_path, said, alone, taught):
    asked = [*DIGITS[:6], "--normalize", "data", "--cost", "macs", *FEW, "--epochs", "1"]
    asked += [] if said is None else ["--augment", said]
    static, stages, both = (tmp_path / f"{name}.pt" for name in ("static", "stages", "both"))
    plan = ["--plan", "uniform:0.25,0.75"]
    for options in (
        ["--plan", "static", "--out", static],
        [*plan, "--weights", static, "--out", stages],
        [*plan, "--static-epochs", "1", "--out", both],
    ):
        result = CliRunner().invoke(train, [*asked, *map(str, options)])
        assert result.exit_code == 0, result.output
    trained = ((alone, (static, both.with_suffix(".run") / "static.pt")), (taught, (stages, both)))
    for augment, models in trained:
        assert {load_model(path).provenance["settings"]["augment"] for path in models} == {augment}
