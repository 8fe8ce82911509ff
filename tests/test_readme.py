"""Every command and every snippet of the README runs, as written, and the commands of docs/ too."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_networks import Residual

from s2dnas_deploy.plan import Plan

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BUNDLES = (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8")


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(name):
    joined = "\n".join([*blocks("sh"), *blocks("sh", BUNDLES)]).replace("\\\n", " ")
    return [shlex.split(line) for line in joined.splitlines() if line.startswith(name)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder: his network, weights and images, the models of this project, and the demo's result."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "models").symlink_to(ROOT / "models")
    source = (ROOT / "tests" / "small_networks.py").read_text(encoding="utf-8")
    network = source[source.index("class Residual") : source.index("def residual")]
    (folder / "net.py").write_text(
        f"import torch\nfrom torch import nn\n\n\n{network}\ndef make_net():\n    return Residual(2)\n"
    )
    torch.manual_seed(0)
    torch.save(Residual(2).state_dict(), folder / "net.pth")
    for name, colour in (("dark", 20), ("light", 230)):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (32, 32), (colour + i, colour, colour)).save(folder / f"images/{name}/{i}.png")
    demo = [line for line in (ROOT / "Makefile").read_text().splitlines() if "s2dnas-train --recipe" in line]
    assert len(demo) == 1
    run(
        [*shlex.split(demo[0].strip().removeprefix("$(BIN)/")), "--static-epochs", "2", "--epochs", "2"],
        folder,
    )
    return folder


def run(command, folder):
    """Run one of our commands from its entry point, in a process of its own."""
    name = command[0].removeprefix("s2dnas-")
    code = f"from s2dnas_deploy.cli import {name}; {name}()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, *command[1:]], cwd=folder, check=True, env=environment)


def test_the_train_command(folder):
    (command,) = commands("s2dnas-train")
    run(command, folder)
    assert (folder / "model.pt").exists()


@pytest.mark.parametrize("command", commands("s2dnas-export"), ids=" ".join)
def test_the_export_commands(folder, command):
    run(command, folder)


@pytest.mark.parametrize("command", commands("s2dnas-inspect"), ids=" ".join)
def test_the_inspect_commands(folder, command):
    run(command, folder)


def test_there_are_inspect_commands():
    assert len(commands("s2dnas-inspect")) >= 4


def test_the_python_snippet(folder):
    (snippet,) = blocks("python")
    subprocess.run([sys.executable, "-c", snippet], cwd=folder, check=True)


def test_the_plan_document_is_one():
    (document,) = blocks("json")
    assert Plan.from_json(document).stages == json.loads(document)["stages"]


def test_make_targets_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`?make ([\w-]+)`?", README)) <= set(targets)
