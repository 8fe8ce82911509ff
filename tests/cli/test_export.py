"""`s2dnas-export` from the command line: what it writes, what it prints, and how it refuses."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from exports import model_of  # noqa: E402
from small_networks import example_network  # noqa: E402

from s2dnas_deploy import Cascade  # noqa: E402
from s2dnas_deploy import plan as plans  # noqa: E402
from s2dnas_deploy.bundle.bundle import load_bundle, verify_bundle  # noqa: E402
from s2dnas_deploy.bundle.entries import Promise  # noqa: E402
from s2dnas_deploy.bundle.saving import replace_manifest  # noqa: E402
from s2dnas_deploy.cli import export, train  # noqa: E402
from s2dnas_deploy.runtime.answers.inputs import find_items  # noqa: E402
from s2dnas_deploy.workshop.data.load import load_images  # noqa: E402
from s2dnas_deploy.workshop.network.model_file import save_model  # noqa: E402
from s2dnas_deploy.workshop.reading.read import read_network  # noqa: E402

MODELS = Path(__file__).resolve().parents[2] / "models"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(export, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A digits network of two stages, trained for a moment."""
    out = tmp_path_factory.mktemp("digits") / "digits.pt"
    network = [f"--model={MODELS}/digits_cnn.py:digits_cnn", "--input=1x8x8"]
    training = ["--epochs=3", "--augment=none", "--normalize=data", "--plan=uniform:0.5,0.5", "--ema=0.9"]
    result = CliRunner().invoke(train, [*network, *training, "--data=digits", f"--out={out}", "--quiet"])
    assert result.exit_code == 0, result.output
    return out


def test_model_pt_becomes_a_verified_bundle(digits, tmp_path):
    result = run(digits, "--out", tmp_path / "bundle", "--data", "digits", "--threshold", "0.7")
    assert result.exit_code == 0, result.output
    assert f"bundle: {tmp_path / 'bundle'}" in result.stdout
    manifest = verify_bundle(tmp_path / "bundle").manifest
    assert manifest.name == "digits"
    assert manifest.expected.images == 145
    assert manifest.expected.exit_accuracy[-1] > 0.8
    right = f"{100 * manifest.expected.cascade_accuracy:.2f}%"
    by_default = f"with the thresholds 0.7, until s2dnas-calibrate chooses others: {right}, exits "
    assert by_default in result.stdout
    assert manifest.sources["model"].startswith("sha256:")
    assert manifest.flow.thresholds[0] == 0.7
    assert not manifest.stages[0].exit.calibrated


def test_features_are_joined_before_they_are_read_unless_sums_are_asked_for(digits, tmp_path):
    """One convolution of all channels is faster than one of each part where parts are narrow."""
    for name, options in (("default", []), ("concat", ["--join=concat"]), ("sum", ["--join=sum"])):
        assert run(digits, "--out", tmp_path / name, *options).exit_code == 0
    convolutions = {
        name: sum(node.op_type == "Conv" for node in onnx.load(tmp_path / name / "stage_1.onnx").graph.node)
        for name in ("default", "concat", "sum")
    }
    assert convolutions["default"] == convolutions["concat"] < convolutions["sum"]


def test_what_training_held_out_is_written(digits, tmp_path):
    options = ["--out", tmp_path / "b", "--data", "digits", "--held-out", tmp_path / "kept"]
    assert run(digits, *options).exit_code == 0
    splits = load_images("digits", input_shape=(1, 8, 8), seed=0)
    for name, part in (("validation", splits.val), ("test", splits.test)):
        images = find_items([str(tmp_path / "kept" / f"{name}.npz")], tuple("0123456789")).images
        answers = Cascade.load(tmp_path / "b").predict(np.stack([item.source for item in images]))
        right = np.mean([answers.label[i] == int(item.truth) for i, item in enumerate(images)])
        assert right > 0.8
        kept = [item.source[None, :, :, 0] for item in images]
        assert np.array_equal(np.stack(kept), part.images.numpy())


def test_a_calibration_that_is_replaced_is_told_of(digits, tmp_path):
    again = (digits, "--out", tmp_path / "b")
    assert "was calibrated" not in run(*again).stderr + run(*again).stderr
    bundle = load_bundle(tmp_path / "b")
    promise = Promise(statement="Made up.", images=1, max_drop=None, probability=None, observed_drop=0.0)
    replace_manifest(bundle, replace(bundle.manifest, promise=promise))
    assert "was calibrated: its thresholds are gone" in run(*again).stderr
    (tmp_path / "b" / "manifest.json").write_text("damaged")
    assert run(*again).exit_code == 0


def test_images_that_the_network_was_not_trained_on_are_no_held_out_ones(tmp_path):
    generator = np.random.default_rng(0)
    for i in range(40):
        path = tmp_path / "images" / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    network = [
        f"--model={MODELS}/digits_cnn.py:digits_cnn",
        '--model-args={"num_classes": 2}',
        "--input=1x8x8",
    ]
    data = ["--data", str(tmp_path / "images")]
    model = tmp_path / "m.pt"
    options = [*network, *data, "--normalize=unit", "--plan=uniform:0.5,0.5", "--epochs=0", f"--out={model}"]
    result = CliRunner().invoke(train, options)
    assert result.exit_code == 0, result.output
    held_out = ["--out", tmp_path / "b", *data, "--held-out", tmp_path / "kept"]
    assert run(model, *held_out).exit_code == 0
    (tmp_path / "images" / "0" / "0.png").unlink()
    result = run(model, *held_out)
    assert result.exit_code == 1
    assert "is not, or no longer, what the network was trained on" in result.stderr
    assert run(model, *held_out[:-2]).exit_code == 0


def test_resizing_is_added_to_a_network_that_was_trained_without(digits, tmp_path):
    assert run(digits, "--out", tmp_path / "b", "--resize", "crop").exit_code == 0
    with Cascade.load(tmp_path / "b") as cascade:
        assert len(cascade.predict([Image.new("L", (50, 30), 7)])) == 1


def test_a_missing_model_is_exit_code_3(tmp_path):
    result = run(tmp_path / "nowhere.pt", "--out", tmp_path / "b")
    assert result.exit_code == 3
    assert "no file" in result.stderr


def test_int8(digits, tmp_path):
    result = run(digits, "--out", tmp_path / "b", "--data", "digits", "--int8", "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert load_bundle(tmp_path / "b").manifest.precision == "int8"
    report = (tmp_path / "b" / "verification.txt").read_text()
    assert "float32      int8  same label" in report


def test_a_network_with_its_own_exits(tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text(
        "".join(f"digit {i}\n" for i in range(10)), encoding="utf-8-sig"
    )  # as Windows' editors write it
    network = ["--model", f"{MODELS}/branchy.py:branchy_digits", "--input", "1x8x8", "--normalize", "unit"]
    result = run(*network, "--labels", labels, "--out", tmp_path / "b")
    assert result.exit_code == 0, result.output
    assert "with the weights its factory gives it" in result.stderr
    manifest = load_bundle(tmp_path / "b").manifest
    assert (manifest.name, len(manifest.stages)) == ("branchy_digits", 3)
    assert manifest.labels == tuple(f"digit {i}" for i in range(10))


def test_the_weights_of_such_a_network_are_loaded(tmp_path):
    network = example_network("branchy", "branchy_digits")
    with torch.no_grad():
        network.branches[0].bias.copy_(torch.tensor([0.0] * 7 + [99.0, 0.0, 0.0]))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    options = ["--input=1x8x8", "--normalize=unit", "--data=digits", f"--weights={tmp_path / 'weights.pt'}"]
    result = run("--model", f"{MODELS}/branchy.py:branchy_digits", *options, "--out", tmp_path / "b")
    assert result.exit_code == 0, result.output
    assert load_bundle(tmp_path / "b").manifest.expected.exit_share[0] == 1.0  # always sure that it is a 7


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "either a MODEL.PT or --model"),
        (["{model}", "--int8"], 2, "give --data"),
        (["{model}", "--held-out", "kept"], 2, "give --data"),
        (["{model}", "--int8", "--fp16"], 2, "exclude each other"),
        (["{model}", "--weights", "x.pt"], 2, "leave --weights out"),
        (["{model}", "--threshold", "0.1,0.2"], 2, "2 thresholds for 1 exits but the last"),
        (["{model}", "--opset", "9"], 2, "expected 13 to 20"),
        (["{model}", "--data", "nowhere"], 1, "nowhere"),
        (["--model", "x.py:f", "--input", "1x8x8"], 1, "no file x.py"),
        (["--model", f"{MODELS}/branchy.py:branchy_digits"], 2, "--input"),
        (
            ["--model", f"{MODELS}/branchy.py:branchy_digits", "--input", "1x8x8", "--normalize", "unit"],
            2,
            "give --labels",
        ),
        (
            [
                "--model",
                f"{MODELS}/digits_cnn.py:digits_cnn",
                "--input=1x8x8",
                "--normalize=unit",
                "--data=digits",
            ],
            1,
            "stages()",
        ),
    ],
)
def test_errors_say_what_is_wrong(digits, tmp_path, arguments, code, message):
    given = [str(argument).format(model=digits) for argument in arguments]
    result = run(*given, "--out", tmp_path / "b")
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert not (tmp_path / "b").exists()


def test_a_damaged_model_is_refused(digits, tmp_path):
    broken = tmp_path / "broken.pt"
    broken.write_bytes(digits.read_bytes()[:-100])
    result = run(broken, "--out", tmp_path / "b")
    assert result.exit_code == 3, result.output


def test_a_wrong_answer_is_exit_code_5(tmp_path, monkeypatch):
    static = read_network(example_network("digits_cnn", "digits_cnn").eval(), (1, 8, 8))
    save_model(model_of(static, plans.static(static.divisible.space)), tmp_path / "m.pt")
    monkeypatch.setattr("s2dnas_deploy.workshop.export.checks.verify.TOLERANCE", 1e-12)
    result = run(tmp_path / "m.pt", "--out", tmp_path / "b")
    assert result.exit_code == 5, result.output
    assert "do not answer as the network does" in result.stderr
    assert not (tmp_path / "b").exists()


def test_help_is_instant_and_needs_no_torch():
    code = (
        "import sys; from s2dnas_deploy.cli import export\n"
        "try: export(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules), 'heavy imports'"
    )
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "s2dnas-export model.pt --out bundle/" in result.stdout
    assert time.perf_counter() - start < 5
