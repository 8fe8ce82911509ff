"""Options of all commands: one meaning each, former names for a while, and a `--help` in sections."""

import json
import shutil
import subprocess
import sys
from collections import defaultdict

import click
import numpy as np
import pytest
from click.testing import CliRunner
from small_networks import MODELS
from tiny_flows import tiny_bundle

from s2dnas_deploy.cli import bench, calibrate, export, main, run, search, train
from s2dnas_deploy.cli.options.sections import Option
from s2dnas_deploy.decide.flow import DONE, IMAGE, Choices, Flow, Route, Stop
from s2dnas_deploy.decide.rules import Setting

RENAMED = [
    (train, "--batch-size", "--batch"),
    (search, "--batch-size", "--batch"),
    (train, "--temperature", "--distill-temperature"),
    (search, "--temperature", "--distill-temperature"),
    (calibrate, "--confidence", "--probability"),
    (export, "--static", "--static-model"),
    (bench.commands["pack"], "--images", "--limit"),
]


ALWAYS = ["--version", "--debug", "-h,"]
WIDTHS = ("quarter", "half", "full")
BY_WIDTH = Flow(
    start=Route(to=WIDTHS, by=Setting(name="width")),
    stops=tuple(Stop(name=name, reads=(IMAGE,), gives=(), then=DONE, answers=True) for name in WIDTHS),
    settings={"width": Choices(choices=WIDTHS, default="half", macs=(1, 2, 3))},
)


def commands(group=main, name="s2dnas"):
    """Every command that is no group, by its name."""
    for word, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


def options_of(command):
    return [each for each in command.params if isinstance(each, Option)]


def parsed(command, *arguments):
    """What the command line says, without running the command."""
    needed = {train: ["--data", "d", "--plan", "static", "--out", "o"], search: ["--data", "d", "--out", "o"]}
    needed |= {export: ["--out", "o"], bench.commands["pack"]: [str(MODELS), "--data", "d"]}
    return command.make_context("command", [*needed.get(command, []), *arguments]).params


# --- former names -------------------------------------------------------------------------------------------


def test_the_options_that_were_renamed_are_these():
    found = {
        (name.split()[-1], each.formerly, max(each.opts, key=len))
        for name, command in commands()
        for each in options_of(command)
        if each.formerly is not None
    }
    assert found == {(command.name, former, now) for command, former, now in RENAMED}


@pytest.mark.parametrize(("command", "former", "now"), RENAMED)
@pytest.mark.parametrize("form", ["{} {}", "{}={}"])
def test_a_former_name_still_works_and_tells_the_new_one(command, former, now, form, capsys):
    (option,) = (each for each in options_of(command) if each.formerly == former)
    value = "static.pt" if command is export else "0.5" if option.type.name != "integer range" else "7"
    value = "32" if now == "--batch" else value
    by_the_new_name = parsed(command, now, value)
    assert capsys.readouterr().err == ""
    assert parsed(command, *form.format(former, value).split(" ")) == by_the_new_name
    note = capsys.readouterr().err
    told = f"note: {former} is now {now}: write {now}, because the next release does not know {former}\n"
    assert note == told
    assert by_the_new_name[option.name] != option.default
    with pytest.raises(click.UsageError, match=f"{now} and {former} are the same: give {now} alone"):
        parsed(command, now, value, former, value)
    assert f"{former} " not in CliRunner().invoke(command, ["--help"]).stdout


@pytest.fixture
def recipe(tmp_path):
    shutil.copy(MODELS / "digits_cnn.py", tmp_path)
    path = tmp_path / "r.toml"
    path.write_text((MODELS / "digits.toml").read_text().replace("\nbatch = 64", "\nbatch_size = 48"))
    return path


def test_a_recipes_former_keys_still_work_and_tell_the_new_ones(recipe, capsys):
    recipe.write_text(recipe.read_text() + "temperature = 2.5\n")
    said = train.make_context("train", ["--recipe", str(recipe), "--out", "m.pt"]).params
    assert (said["batch_size"], said["temperature"]) == (48, 2.5)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"note: batch_size in {recipe} is now batch: write batch, because")
    assert second.startswith(f"note: temperature in {recipe} is now distill_temperature: write")
    command_line = ["--recipe", str(recipe), "--out", "m.pt", "--batch", "16"]
    assert train.make_context("train", command_line).params["batch_size"] == 16


def test_a_recipe_with_a_key_and_its_former_name_is_refused(recipe):
    recipe.write_text(recipe.read_text() + "batch = 2\n")
    result = CliRunner().invoke(train, ["--recipe", str(recipe), "--out", "m.pt"])
    assert result.exit_code == 2
    assert "has batch and batch_size, which are the same: keep batch alone" in result.stderr


# --- help ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "command"), list(commands()))
def test_help_shows_every_option_once_in_its_section(name, command):
    text = CliRunner().invoke(command, ["--help"]).stdout
    titles = [each.section for each in options_of(command)] + ["Help"]
    places = [text.index(f"\n{title}:\n") for title in dict.fromkeys(titles)]
    assert places == sorted(places), name
    shown = [line.split()[0] for line in text[places[0] :].splitlines() if line.startswith("  -")]
    assert shown == [*(max(each.opts, key=len) for each in options_of(command)), *ALWAYS], name
    assert all(each.help for each in options_of(command)), name


def test_an_option_takes_values_of_one_kind_in_all_commands():
    """Several numbers where one is usual (as in s2dnas-bench) are the same option, a sweep of it."""
    kinds = defaultdict(set)
    for _, command in commands():
        for each in options_of(command):
            kind = "number" if each.type.name in ("integer", "integer range", "N,N,…") else each.type.name
            kind = "text" if each.type.name in ("file", "directory", "path") else kind
            kinds[max(each.opts, key=len)].add((kind, each.is_flag))
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {
        "--cost": {("choice", False), ("text", False)}  # a search takes the file of a device profile as well
    }


def test_help_waits_for_nothing_heavy():
    code = (
        "import sys\nfrom s2dnas_deploy.cli import main\n"
        "for name in main.commands:\n"
        "    try: main([name, '--help'])\n"
        "    except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'PIL', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- settings of a bundle -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def widths(tmp_path_factory):
    """A bundle whose caller chooses the width, and images for it."""
    folder = tmp_path_factory.mktemp("widths")
    tiny_bundle(folder / "bundle", BY_WIDTH)
    images = np.random.default_rng(0).integers(0, 256, (9, 1, 1, 4), np.uint8)
    np.save(folder / "images.npy", images)
    return folder


def answered(widths, *arguments):
    given = ["--bundle", widths / "bundle", widths / "images.npy", *arguments]
    return CliRunner().invoke(run, [str(each) for each in given])


@pytest.mark.parametrize(("choice", "exit_"), [("quarter", 0), ("half", 1), ("full", 2)])
def test_a_setting_chooses_the_stage(widths, choice, exit_):
    result = answered(widths, "--setting", f"width={choice}", "--quiet")
    assert result.exit_code == 0, result.output
    assert {json.loads(line)["exit"] for line in result.stdout.splitlines()} == {exit_}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["width"], "'width' is not of the form NAME=CHOICE, for example width=half"),
        (["=half"], "'=half' is not of the form NAME=CHOICE"),
        (["width="], "'width=' is not of the form NAME=CHOICE"),
        (["width=half", "width=full"], "--setting 'width' is given twice: give each setting once"),
        (["width=double"], "width: expected quarter or half or full, got 'double'"),
        (["height=full"], "expected width as a setting, got 'height'"),
    ],
)
def test_a_setting_that_cannot_be_is_told_in_a_line(widths, settings, told):
    result = answered(widths, *(word for each in settings for word in ("--setting", each)))
    assert result.exit_code == 2
    assert told in result.stderr.splitlines()[-1]


def test_a_run_is_resumed_with_its_settings_only(widths, tmp_path):
    out = ["--out", tmp_path / "out.jsonl", "--resume"]
    assert answered(widths, "--setting", "width=full", *out).exit_code == 0
    assert answered(widths, "--setting", "width=full", *out).exit_code == 0
    other = answered(widths, "--setting", "width=half", *out)
    assert other.exit_code == 2
    assert 'was begun with settings = {"width": "full"}, now it is {"width": "half"}' in other.stderr
