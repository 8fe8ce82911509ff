"""`s2dnas-inspect` from the command line: what it prints, what it writes, and how it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch")

from s2dnas_deploy import plan as plans  # noqa: E402
from s2dnas_deploy.bundle.preprocessing import Preprocessing  # noqa: E402
from s2dnas_deploy.cli import inspect  # noqa: E402
from s2dnas_deploy.cli.text.inspection import human, human_bytes, percent, table  # noqa: E402
from s2dnas_deploy.errors import CheckpointError  # noqa: E402
from s2dnas_deploy.workshop.network import model_file  # noqa: E402
from s2dnas_deploy.workshop.network.model_file import Model, save_model  # noqa: E402
from s2dnas_deploy.workshop.network.network import carry_over  # noqa: E402
from s2dnas_deploy.workshop.reading.read import read_network  # noqa: E402
from s2dnas_deploy.workshop.reading.source import build_network  # noqa: E402

MODELS = Path(__file__).resolve().parents[2] / "models"
DIGITS = ("--model", f"{MODELS}/digits_cnn.py:digits_cnn", "--input", "1x8x8")
PROVENANCE = {
    "tool": "s2dnas_deploy 0.1.0",
    "network": "digits",
    "data": {"source": "digits", "train": 100, "val": 10, "test": None},
    "static_accuracy": {"val": 0.875},
    "val_accuracy": [0.5, 0.75],
    "test_accuracy": None,
    "epochs_trained": 3,
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(inspect, [str(argument) for argument in arguments])


def write_model(path: Path, plan: str, **provenance: object) -> Path:
    static = read_network(build_network(DIGITS[1]), (1, 8, 8))
    model = Model(
        network=carry_over(static, plans.from_text(plan, static.divisible.space)),
        class_names=tuple(f"digit {number}" for number in range(10)),
        preprocessing=Preprocessing(input_shape=(1, 8, 8), mean=(0.5,), std=(0.25,)),
        provenance={**PROVENANCE, **provenance},
    )
    save_model(model, path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "two.pt", "uniform:0.5,0.5")


@pytest.fixture(scope="module")
def one_stage(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "one.pt", "static", val_accuracy=[0.9])


# --- what it shows ----------------------------------------------------------------------------------------


def test_static_network_in_words():
    result = run(*DIGITS)
    assert result.exit_code == 0, result.output
    assert "digits_cnn: a static network" in result.stdout
    assert "1x8x8, 10 classes" in result.stdout
    assert "linear on flatten (640 MACs)" in result.stdout
    assert "Channel groups: what a plan divides, 4 in all" in result.stdout
    assert "  conv2.0  conv      64x8x8  1.18 M" in result.stdout  # 64·64·288
    assert "Possible exits: " in result.stdout


def test_a_plan_in_words():
    result = run(*DIGITS, "--plan", "uniform:0.25,0.25,0.5")
    assert result.exit_code == 0, result.output
    assert "digits_cnn: a multi-stage network of 3 stages" in result.stdout
    assert "  conv2.0        64       16       16       32" in result.stdout
    assert "layers without reuse: none" in result.stdout
    assert "stage0/conv1.2   8x8x8  2.05 KB" in result.stdout


def test_a_model_in_words(model):
    result = run(model)
    assert result.exit_code == 0, result.output
    assert "two.pt: a multi-stage network of 2 stages" in result.stdout
    assert "10: digit 0, digit 1" in result.stdout
    assert "digits (100 train, 10 val images)" in result.stdout
    assert "  static    87.50%     -" in result.stdout
    assert "  exit 1    75.00%     -" in result.stdout


def test_a_model_of_one_stage_is_shown_as_a_static_network(one_stage):
    result = run(one_stage)
    assert "one.pt: a static network" in result.stdout
    assert "Channel groups" in result.stdout
    assert "  exit 0    90.00%     -" in result.stdout


def test_json_is_all_there_is_on_stdout(model, tmp_path):
    result = run(model, "--json", "--picture", tmp_path / "who.svg")
    document = json.loads(result.stdout)
    assert document["format"] == "s2dnas-inspection"
    assert document["kind"] == "multi-stage"
    assert document["model"]["provenance"] == PROVENANCE
    assert [stage["channels"] for stage in document["stages"]] == [112, 112]
    assert f"wrote {tmp_path / 'who.svg'}" in result.stderr


def test_a_picture(model, tmp_path):
    for name, start in (("who.svg", b"<?xml"), ("who.png", b"\x89PNG")):
        assert run(model, "--picture", tmp_path / name).exit_code == 0
        assert (tmp_path / name).read_bytes().startswith(start)


def test_odd_provenance_does_no_harm(tmp_path):
    odd = {"network": "\x1b[31mred", "tool": [7], "extra": {"a": None}, "val_accuracy": [0.5]}
    result = run(write_model(tmp_path / "odd.pt", "static", **{"val_accuracy": [0.5], **odd}))
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout
    assert "\\x1b[31mred" in result.stdout


@pytest.mark.parametrize(
    ("odd", "where"),
    [
        ({"data": 7}, "data: expected an object, got 7"),
        ({"data": {"train": 0, "val": 0}}, "data: expected images to train on"),
        ({"data": {"val_fraction": "a"}}, "data.val_fraction: expected a number, got 'a'"),
        ({"val_accuracy": "high"}, "val_accuracy: expected a list, got 'high'"),
        ({"val_accuracy": [0.5] * 3}, "3 accuracies for 1 exits"),
        ({"static_accuracy": []}, "static_accuracy: expected an object, got a list of 0"),
        ({"settings": {"seed": "x"}}, "settings.seed: expected a whole number, got 'x'"),
        ({"settings": {"seed": -1}}, "settings.seed: expected a whole number from 0 to"),
        ({"run": "a", "val_accuracy": None}, "expected the accuracy that a training came to"),
    ],
)
def test_provenance_of_another_kind_is_refused(tmp_path, odd, where):
    with pytest.raises(CheckpointError, match="the provenance"):
        write_model(tmp_path / "odd.pt", "static", **{"val_accuracy": [0.5], **odd})
    whole = torch.load(write_model(tmp_path / "whole.pt", "static", val_accuracy=[0.5]), weights_only=True)
    about = json.loads(whole["about"])
    about["provenance"] = {**PROVENANCE, "val_accuracy": [0.5], **odd}
    whole["about"] = json.dumps(about)
    forged = {**whole, "digest": model_file._digest(whole["about"], whole["weights"])}
    torch.save(forged, tmp_path / "forged.pt")
    result = run(tmp_path / "forged.pt")
    assert result.exit_code == 3, result.output
    assert f"the provenance: {where}" in result.stderr


# --- plans ------------------------------------------------------------------------------------------------


def test_a_written_plan_can_be_edited_and_inspected(tmp_path):
    path = tmp_path / "plan.json"
    assert run(*DIGITS, "--plan", "uniform:0.5,0.5", "--write-plan", path).exit_code == 0
    document = json.loads(path.read_text())
    assert document["channels"]["conv1.0"] == [16, 16]
    document["channels"]["conv1.0"] = [24, 8]
    path.write_text(json.dumps(document))
    shown = json.loads(run(path, *DIGITS, "--json").stdout)
    assert shown["plan"]["channels"]["conv1.0"] == [24, 8]
    assert shown == json.loads(run(*DIGITS, "--plan", path, "--json").stdout)


def test_a_random_plan_hangs_on_the_seed():
    def plan(seed):
        return json.loads(run(*DIGITS, "--plan", "random:3", "--seed", seed, "--json").stdout)["plan"]

    assert plan(1) == plan(1)
    assert plan(1) != plan(2)


def test_align_rounds_a_plan():
    shown = run(*DIGITS, "--plan", "uniform:0.3,0.7", "--align", "8", "--json")
    assert json.loads(shown.stdout)["plan"]["channels"]["conv2.0"] == [16, 48]  # 0.3·64 = 19.2


def test_a_model_of_one_stage_can_be_divided(one_stage):
    by_path = run(one_stage, "--plan", "uniform:0.5,0.5", "--json")
    by_weights = run("--weights", one_stage, "--plan", "uniform:0.5,0.5", "--json")
    assert by_path.exit_code == by_weights.exit_code == 0
    assert json.loads(by_path.stdout) == json.loads(by_weights.stdout)
    assert json.loads(by_path.stdout)["kind"] == "multi-stage"


# --- refusals ---------------------------------------------------------------------------------------------


def test_a_damaged_model_is_refused(model, tmp_path):
    path = tmp_path / "damaged.pt"
    path.write_bytes(model.read_bytes()[:-400])
    result = run(path)
    assert result.exit_code == 3
    assert str(path) in result.stderr


def test_an_edited_model_is_refused(model, tmp_path):
    document = torch.load(model, weights_only=True)
    document["weights"]["conv1.0.weight"] += 1
    torch.save(document, tmp_path / "edited.pt")
    result = run(tmp_path / "edited.pt")
    assert result.exit_code == 3
    assert "digest" in result.stderr


def test_an_illegal_plan_is_refused_and_nothing_is_written(tmp_path):
    path = tmp_path / "plan.json"
    run(*DIGITS, "--plan", "uniform:0.5,0.5", "--write-plan", path)
    path.write_text(path.read_text().replace("[16, 16]", "[16, 17]"))
    result = run(path, *DIGITS, "--picture", tmp_path / "x.svg", "--write-plan", tmp_path / "y.json")
    assert result.exit_code == 2
    assert "sums to 33; the group has 32 channels" in result.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


def test_a_file_that_is_neither_is_refused_with_what_was_expected(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    result = run(path)
    assert result.exit_code == 2
    assert "a model.pt (s2dnas-train) or a plan as JSON" in result.stderr
    result = run(tmp_path)
    assert result.exit_code == 3
    assert "no bundle" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to inspect"),
        (("--plan", "static"), "a plan says nothing without its network"),
        (("--model", "x.py:f"), "give --input"),
        (("nowhere.pt",), "does not exist"),
        ((*DIGITS, "--picture", "x.pdf"), "neither .svg nor .png"),
        ((*DIGITS, "--plan", "thirds"), "cannot read the plan"),
        ((*DIGITS, "--plan", "random:2", "--seed", "-1"), "--seed"),
        ((*DIGITS, "--plan", "random:2", "--align", "0"), "--align"),
    ],
)
def test_usage(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_missing_weights_are_told_as_in_training():
    result = run("--weights", "nowhere.pt")
    assert result.exit_code == 3
    assert "no weights file nowhere.pt" in result.stderr


def test_options_that_contradict_the_path_are_refused(model, tmp_path):
    plan = tmp_path / "plan.json"
    run(*DIGITS, "--write-plan", plan)
    for arguments, message in (
        ((model, *DIGITS), "leave --model out"),
        ((model, "--plan", "static"), "holds its own plan"),
        ((plan, *DIGITS, "--plan", "static"), "two plans were given"),
        ((plan,), "a plan says nothing without its network"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert message in " ".join(result.stderr.split())


def test_help_imports_no_torch():
    code = (
        "import sys\nfrom s2dnas_deploy.cli import inspect\n"
        "try:\n    inspect(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'matplotlib', 'onnx'} & set(sys.modules)\nassert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "s2dnas-inspect model.pt" in result.stdout


# --- words ------------------------------------------------------------------------------------------------


def test_numbers_for_people():
    assert [human(n) for n in (0, 640, 999, 1000, 40_551_040, 1_234_567_890)] == [
        *("0", "640", "999", "1.00 k", "40.6 M", "1.23 G")
    ]
    assert human(999_999) == "1.00 M"
    assert [human_bytes(n) for n in (64, 2048, 1_084_392)] == ["64 B", "2.05 KB", "1.08 MB"]
    assert percent(0.064548) == "6.5%"


def test_a_table_is_aligned():
    assert table(["a", "size"], [["long name", "1"], ["b", "20"]]).splitlines() == [
        "  a          size",
        "  long name     1",
        "  b            20",
    ]


# --- what a plan can gain ---------------------------------------------------------------------------------


def test_a_forecast_by_macs_needs_no_clock_and_no_images():
    result = run(*DIGITS, "--forecast", "--cost", "macs")
    assert result.exit_code == 0, result.output
    assert "by MACs, which tell less than a clock does" in result.stdout
    assert "of the MACs of the static network" in result.stdout
    assert "times is the best that is possible" in result.stdout
    given = run(*DIGITS, "--forecast", "--cost", "macs", "--plan", "uniform:0.25,0.75", "--json")
    document = json.loads(given.stdout)
    whole = sum(stage["macs"] for stage in document["stages"])
    assert document["forecast"]["plan"]["channels"]["conv2.0"] == [16, 48]
    assert sum(document["forecast"]["stages"]) < 1
    assert whole > 0


def test_a_forecast_by_the_clock_times_the_stages():
    result = run(*DIGITS, "--forecast", "--plan", "uniform:0.25,0.75", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)["forecast"]
    assert told["static_ms"] > 0
    assert len(told["stages"]) == 2
    assert told["times_as_fast"]["best"] == pytest.approx(1 / told["stages"][0])


def test_auto_is_a_plan_that_can_be_shown_and_written(tmp_path):
    plan = tmp_path / "plan.json"
    result = run(*DIGITS, "--plan", "auto", "--cost", "macs", "--write-plan", plan)
    assert result.exit_code == 0, result.output
    assert "a multi-stage network of" in result.stdout
    assert json.loads(plan.read_text())["stages"] > 1


def test_what_is_divided_already_has_no_forecast(model):
    result = run(model, "--forecast")
    assert result.exit_code == 2
    assert "static.pt in the folder of its run" in result.stderr
    assert run(*DIGITS, "--forecast", "--cost", "nonsense").exit_code == 2
