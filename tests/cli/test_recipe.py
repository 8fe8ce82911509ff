"""Recipes from anyone's hands, and numbers that no run can work with: a line and a code, before any work."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from small_networks import MODELS

from s2dnas_deploy.cli import export, inspect, search, train
from s2dnas_deploy.workshop.network.model_file import load_model

RECIPE = """
model = "digits_cnn.py:digits_cnn"
input = "1x8x8"
data = "digits"
normalize = "data"
plan = "static"
epochs = 0
"""
LENIENT = """

def lenient(cap):
    return digits_cnn()
"""


@pytest.fixture
def folder(tmp_path):
    """A recipe's folder, with a network beside the recipe."""
    shutil.copy(MODELS / "digits_cnn.py", tmp_path)
    (tmp_path / "r.toml").write_text(RECIPE)
    return tmp_path


def with_recipe(folder, *arguments, command=train):
    given = ["--recipe", folder / "r.toml", "--out", folder / "m.pt", "--limit", 20, "--quiet", *arguments]
    return CliRunner().invoke(command, [str(argument) for argument in given])


def one_line(result, code):
    """What the command ends with: its code, and one line under the usage."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    line = result.output.strip().splitlines()[-1]
    assert line.lower().startswith("error: ")
    assert len(line) < 1000
    assert line.isprintable()
    return line


# --- what a recipe names ------------------------------------------------------------------------------------


def test_a_recipe_names_a_file_beside_it_or_below(folder):
    assert with_recipe(folder).exit_code == 0
    (folder / "nets").mkdir()
    (folder / "digits_cnn.py").rename(folder / "nets/digits_cnn.py")
    (folder / "r.toml").write_text(RECIPE.replace("digits_cnn.py", "nets/digits_cnn.py"))
    assert with_recipe(folder, "--restart").exit_code == 0


@pytest.mark.parametrize("file", ["../net.py", "/net.py", "link.py", "loop.py", "nets/../../net.py"])
def test_a_file_outside_the_recipes_folder_is_not_run(folder, file):
    inside = folder / "inside"
    inside.mkdir()
    (folder / "net.py").write_text("raise SystemExit(9)\n")
    (inside / "link.py").symlink_to("../net.py")
    (inside / "loop.py").symlink_to("loop.py")
    (inside / "r.toml").write_text(RECIPE.replace("digits_cnn.py", file))
    line = one_line(with_recipe(inside), 2)
    assert "names the code of '" in line
    assert f"{file.lstrip('/')}', which is not in the recipe's folder" in line
    assert f"{file.lstrip('/')}:digits_cnn' on the command line" in line


def test_a_tilde_in_a_recipe_is_nobodys_home(folder, monkeypatch):
    (folder / "net.py").write_text("raise SystemExit(9)\n")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    (folder / "r.toml").write_text(RECIPE.replace("digits_cnn.py", "~/net.py"))
    result = CliRunner().invoke(train, ["--recipe", "r.toml", "--out", "m.pt"])
    assert result.exit_code == 2, result.output
    assert "is not in the recipe's folder" in result.stderr


@pytest.mark.parametrize(
    "model",
    [
        "os:system",
        "subprocess:run",
        "builtins:exec",
        "antigravity:fly_id",
        "pip.__main__:main",
        "torch:load",
        "torch.hub:load",
        "torch.utils.cpp_extension:load",
        "small_networks:example_network",
    ],
)
@pytest.mark.parametrize("command", [train, search])
def test_a_function_of_a_package_is_not_called_from_a_recipe(folder, model, command):
    touch = f'touch "{folder}/touched"'
    arguments = f"model_args = {{ command = '{touch}' }}"
    (folder / "r.toml").write_text(f"{RECIPE.replace('digits_cnn.py:digits_cnn', model)}\n{arguments}\n")
    line = one_line(with_recipe(folder, command=command), 2)
    assert f"the recipe's model '{model}' is no class of torch modules, so it was not called" in line
    assert f"give --model {model} on the command line" in line
    assert not (folder / "touched").exists()


def test_a_class_of_networks_of_a_package_may_be_named(folder):
    network = RECIPE.replace("digits_cnn.py:digits_cnn", "small_networks:Residual").replace("1x8", "3x8")
    (folder / "r.toml").write_text(network)
    # It was built, and does not suit the digits.
    assert "the data has 10 classes and the network 5 outputs" in one_line(with_recipe(folder), 1)


def test_arguments_that_a_model_could_not_keep_are_refused_before_the_training(folder):
    (folder / "digits_cnn.py").write_text((folder / "digits_cnn.py").read_text() + LENIENT)
    given = ["--model", f"{folder}/digits_cnn.py:lenient", "--epochs", 1]
    fits, deep = (f'{{"cap": {"[" * n}{"]" * n}}}' for n in (61, 63))
    line = one_line(with_recipe(folder, *given, "--model-args", deep), 2)
    assert "such a model could not be read again: the description: expected at most 64 lists" in line
    assert not (folder / "m.run/checkpoint.pt").exists()
    assert with_recipe(folder, *given[:2], "--model-args", fits).exit_code == 0
    load_model(folder / "m.pt")


def test_a_function_that_the_command_line_names_is_called(folder):
    (folder / "r.toml").write_text(
        RECIPE.replace("digits_cnn.py:digits_cnn", "os:system")
        + 'model_args = { file = "digits_cnn", factory = "digits_cnn" }\n'
    )
    assert with_recipe(folder, "--model", "small_networks:example_network").exit_code == 0


def test_modules_in_the_folder_of_the_call_are_not_imported_from_a_recipe(folder, monkeypatch):
    (folder / "nearby.py").write_text("raise SystemExit(9)\n")
    (folder / "r.toml").write_text(RECIPE.replace("digits_cnn.py:digits_cnn", "nearby:Net"))
    monkeypatch.chdir(folder)
    assert "cannot import nearby" in one_line(with_recipe(folder), 1)


@pytest.mark.parametrize("line", ['out = "x.pt"', "restart = true", 'ray = "host:1"', 'write_probes = "x"'])
def test_where_results_go_and_what_is_discarded_is_for_the_command_line(folder, line):
    (folder / "r.toml").write_text(RECIPE.replace('plan = "static"\n', "") + line)
    key = line.split(" = ")[0]
    assert f"has the key {key}, which is for the command line: give --" in one_line(
        with_recipe(folder, command=search), 2
    )


# --- what a recipe is made of -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = [1]", "has epochs = [1]; expected a whole number"),
        ("epochs = 1.5", "has epochs = 1.5; expected a whole number"),
        ("epochs = true", "has epochs = True; expected a whole number"),
        ("epochs = 2020-01-01", "expected a whole number"),
        (f"epochs = {'9' * 400}", "expected a whole number"),
        (f"epochs = {'9' * 5000}", "is not TOML"),
        (f"epochs = 0x{'f' * 5000}", "has epochs = a int; expected a whole number"),
        (f"epochs = '{'9' * 400}'", "expected one line of text, of at most 40 characters"),
        ("lr = nan", "learning rate: expected a finite number above 0, got nan"),
        ("lr = inf", "learning rate: expected a finite number above 0, got inf"),
        ("lr = false", "has lr = False; expected a number"),
        ("lr = [0.1]", "has lr = [0.1]; expected a number"),
        ("data = { a = 1 }", "has data = {'a': 1}; expected text"),
        ("data = 7", "has data = 7; expected text"),
        ('data = "a\\u0000b"', "has data = 'a\\x00b'; expected one line of text"),
        (f"data = '{'x' * 5000}'", "expected one line of text, of at most 400 characters"),
        (f"optimizer = '{'x' * 300}'", "expected one line of text, of at most 40 characters"),
        (f"augment = '{'x' * 300}'", "augment: expected none, or some of crop, flip"),
        ("model = ['a']", "has model = ['a']; expected text"),
        ("quiet = 'yes'", "has quiet = 'yes'; expected true or false"),
        ("exit_weights = [1, 'a']", "expected a list of numbers"),
        ("model_args = [1]", "expected a table of numbers, text and lists"),
        ("model_args = { day = 2020-01-01 }", "expected a table of numbers, text and lists"),
        ("model_args = { x = nan }", "expected a table of numbers, text and lists"),
        (f"model_args = {{ x = {2**63} }}", "expected a table of numbers, text and lists"),
        (f"model_args = {{ x = {'[' * 64}{']' * 64} }}", "expected a table of numbers, text and lists"),
        ("[a.b.c]\nd = 1", "has unknown keys 'a'"),
        ('"\\u001b[2J" = 1', "has unknown keys '\\x1b[2J'"),
        (f"{'x' * 100_000} = 1", "has unknown keys 'xxx"),
        ("recipe = 'r.toml'", "has unknown keys 'recipe'"),
        ("lr = 1\nlr = 2", "is not TOML"),
        (f"data = {'[' * 100_000}", "is not TOML"),
        ("\x00", "is not TOML"),
        ("x" * 2**20 + "\n", "expected at most 1,048,576 bytes, got"),
    ],
)
def test_a_recipe_of_odd_values_is_a_usage_error(folder, text, message):
    key = text.split(" = ")[0]
    others = "".join(line + "\n" for line in RECIPE.splitlines() if not line.startswith(f"{key} "))
    (folder / "r.toml").write_text(others + text)
    assert message in one_line(with_recipe(folder), 2)


def test_a_recipe_is_a_file_of_text(folder):
    recipe = folder / "r.toml"
    recipe.write_bytes(b"\xff\xfe")
    assert "is not TOML" in one_line(with_recipe(folder), 2)
    recipe.unlink()
    os.mkfifo(recipe)
    assert "expected a file, got a pipe" in one_line(with_recipe(folder), 2)
    recipe.unlink()
    recipe.mkdir()
    assert "is a directory" in one_line(with_recipe(folder), 2)


def test_a_device_needs_no_parser_of_recipes():
    code = "import sys; sys.modules.update(tomllib=None, tomli=None); import s2dnas_deploy.cli"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_parser_that_is_not_there_is_told_in_a_line(folder, monkeypatch):
    for name in ("tomllib", "tomli"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "which the extra [build] of s2dnas-deploy installs" in one_line(with_recipe(folder), 2)


# --- numbers ------------------------------------------------------------------------------------------------


NETWORK = ["--model", f"{MODELS}/digits_cnn.py:digits_cnn"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--lr", "nan", "learning rate: expected a finite number above 0"),
        ("--lr", "inf", "learning rate: expected a finite number above 0"),
        ("--static-lr", "nan", "--static-lr: expected a finite number above 0"),
        ("--epochs", 10**20, "epochs: expected 0 to 1000000"),
        ("--epochs", -1, "epochs: expected 0 to 1000000"),
        ("--static-epochs", 10**20, "--static-epochs: expected 0 to 1000000"),
        ("--batch", 2**62, "batch size: expected 2 to 1048576"),
        ("--weight-decay", "nan", "weight decay: expected a finite number, 0 or more"),
        ("--warmup", "nan", "warm-up: expected a part of the run"),
        ("--distill-temperature", "inf", "distill temperature: expected a finite number above 0"),
        ("--distill-temperature", "nan", "distill temperature: expected a finite number above 0"),
        ("--exit-weights", "nan", "exit weights: expected finite numbers, 0 or more"),
        ("--exit-weights", "0", "exit weights: expected finite numbers, 0 or more, and one above 0"),
        ("--crop-padding", 2**40, "crop padding: expected 0 to 512"),
        ("--seed", -1, "seed: expected 0 to 9223372036854775807"),
        ("--seed", 2**70, "seed: expected 0 to 9223372036854775807"),
        ("--val-fraction", "nan", "--val-fraction: expected above 0 and below 1"),
        ("--checkpoint-seconds", "nan", "checkpoint seconds: expected a finite number, 0 or more"),
        ("--align", 0, "is not in the range 1<=x<=1000000"),
        ("--align", 10**30, "is not in the range 1<=x<=1000000"),
        ("--limit", 0, "is not in the range x>=1"),
        ("--normalize", "nan/1", "expected means of pixels from 0 to 1"),
        ("--normalize", "0/nan", "expected 1 means / 1 finite stds above 0"),
        ("--input", "3x99999999x99999999", "has more than 100,000,000 values an image"),
        ("--input", "1x²x8", "is not of the form"),
        ("--input", f"1x{'9' * 5000}x8", "is not of the form"),
        ("--model-args", "[" * 100_000, "is not JSON"),
        ("--model-args", '{"cap": Infinity}', "expected numbers that are finite, got Infinity"),
        ("--model-args", '{"cap": NaN}', "expected numbers that are finite, got NaN"),
        ("--model-args", '{"cap": 1e400}', "expected numbers that are finite, got '1e400'"),
        ("--model-args", f'{{"cap": {2**64}}}', "expected whole numbers of 64 bits"),
        ("--model-args", '{"cap": 1, "cap": 2}', "expected every key once, got 'cap' twice"),
        ("--model-args", f'{{"cap": {"[" * 64}{"]" * 64}}}', "expected at most 64 lists"),
    ],
)
def test_numbers_that_cannot_work_are_told_with_their_range(tmp_path, option, value, message):
    plain = {"--input": "1x8x8", "--data": "digits", "--plan": "static", "--out": tmp_path / "m.pt"}
    given = [*NETWORK, *(part for pair in {**plain, option: value}.items() for part in pair)]
    assert message in one_line(CliRunner().invoke(train, [str(part) for part in given]), 2)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (search, ["--target", "nan"], "expected a target between 0 and 1"),
        (search, ["--shared-lr", "nan"], "--shared-lr: expected a finite number above 0"),
        (search, ["--evaluations", 10**20], "is not in the range 1<=x<=1000000"),
        (search, ["--top", 10**9], "is not in the range 1<=x<=1000"),
        (search, ["--seed", 2**70], "seed: expected 0 to 9223372036854775807"),
        (inspect, ["--seed", 2**70], "is not in the range 0<=x<=9223372036854775807"),
        (inspect, ["--input", "3x99999999x99999999"], "has more than 100,000,000 values an image"),
        (export, ["--input", "3x99999999x99999999"], "has more than 100,000,000 values an image"),
        (export, ["--temperature", "inf"], "expected finite numbers above 0"),
        (export, ["--threshold", "nan"], "expected finite numbers"),
        (export, ["--opset", 10**30], "expected 13 to 20"),
    ],
)
def test_numbers_of_other_commands_too(tmp_path, command, arguments, message):
    plain = ["--input", "1x8x8"] if "--input" not in arguments else []
    needed = {search: ["--data", "digits", "--out", tmp_path / "m.pt"], export: ["--out", tmp_path / "b"]}
    given = [*NETWORK, *plain, *needed.get(command, []), *arguments]
    assert message in one_line(CliRunner().invoke(command, [str(part) for part in given]), 2)


# --- weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [train, search, inspect, export])
@pytest.mark.parametrize("content", [b"", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.", b"PK\x03\x04"])
def test_weights_that_cannot_be_used_end_every_command_alike(tmp_path, command, content):
    (tmp_path / "w.pt").write_bytes(content)
    needed = {
        train: ["--data", "digits", "--plan", "static", "--out", tmp_path / "m.pt"],
        search: ["--data", "digits", "--out", tmp_path / "m.pt"],
        export: ["--out", tmp_path / "b"],
    }
    network = ["--model", f"{MODELS}/branchy.py:BranchyNet"] if command is export else NETWORK
    given = [*network, "--input", "1x8x8", "--weights", tmp_path / "w.pt", *needed.get(command, [])]
    line = one_line(CliRunner().invoke(command, [str(part) for part in given]), 3)
    assert str(tmp_path / "w.pt") in line


@pytest.mark.parametrize("command", [inspect, export])
def test_a_model_that_cannot_be_used_ends_every_command_alike(tmp_path, command):
    path = tmp_path / "m.pt"
    for content in (b"", b"\x80\x02N.", b"PK\x03\x04"):
        path.write_bytes(content)
        needed = ["--out", str(tmp_path / "b")] if command is export else []
        assert str(path) in one_line(CliRunner().invoke(command, [str(path), *needed]), 3)
    torch.save({"format": "s2dnas-model", "version": torch.zeros(2)}, path)
    needed = ["--out", str(tmp_path / "b")] if command is export else []
    assert "has version a Tensor" in one_line(CliRunner().invoke(command, [str(path), *needed]), 3)


def test_a_model_of_the_command_line_goes_over_that_of_a_recipe(tmp_path):
    """Where somebody trusts the code, as the message says."""
    shutil.copy(MODELS / "digits_cnn.py", tmp_path / "net.py")
    (tmp_path / "recipes").mkdir()
    recipe = tmp_path / "recipes" / "outside.toml"
    recipe.write_text(RECIPE.replace("digits_cnn.py", "../net.py"))
    words = ["--recipe", recipe, "--epochs", 0, "--static-epochs", 1, "--limit", 40]
    words += ["--out", tmp_path / "m.pt"]
    refused = CliRunner().invoke(train, [str(word) for word in words])
    assert refused.exit_code == 2
    assert "is not in the recipe's folder" in refused.stderr
    words += ["--model", f"{tmp_path / 'net.py'}:digits_cnn"]
    done = CliRunner().invoke(train, [str(word) for word in words])
    assert done.exit_code == 0, done.output
