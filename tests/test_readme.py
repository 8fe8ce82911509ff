"""Every command and every snippet of the README and of docs/ runs, as written.

A line of each command is typed into a shell, and so is what only a shell understands. The others run in this
process: a fresh one would import torch first, which takes longer than what most of them do.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from small_networks import Residual

from s2dnas_deploy import cli
from s2dnas_deploy.cli.console import Console
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.workshop.demo.folder import write_folder

ROOT = Path(__file__).parents[1]
ORDER = (
    "README",
    *(f"docs/{name}" for name in ("start", "own-network", "plans", "widths", "int8", "running", "bundle")),
    *(f"docs/{name}" for name in ("own-exits", "measuring", "own-loop", "how-it-works")),
)
"""The pages that are run here, in the order of a reader."""
PAGES = {name: (ROOT / f"{name}.md").read_text(encoding="utf-8") for name in ORDER}
README = PAGES["README"]
# Commands and snippets that other tests run: test_trust, test_plain_onnxruntime, test_export_routes.
ELSEWHERE = {"docs/trust"}
SNIPPETS_ELSEWHERE = {"docs/bundle", "docs/own-exits"}
NOT_OURS = {
    "python3 -m venv .venv",
    ".venv/bin/pip install -c constraints.txt -e '.[build]'",
    ". .venv/bin/activate",
    "make demo",
    "python docs/examples/own_loop.py in-turn:0.5,1",
    "torchrun --nproc-per-node 2 docs/examples/own_loop_ddp.py",
    "accelerate launch docs/examples/own_loop_accelerate.py",
}
"""Lines of a shell that set things up, or that tests/test_examples.py runs."""
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
SCRIPTS = dict(re.findall(r'^(s2dnas-\w+) = "s2dnas_deploy\.cli:(\w+)"', PROJECT, re.MULTILINE))
# What a clock decides: on a busy machine it may say so, by exit code 1.
BY_CLOCK = ("s2dnas-bench compare", "s2dnas-bench load")
# What the demo leaves, by a division that needs no search and little training.
SHORT_DEMO = (
    "s2dnas-train --model demo/net.py:make_net --input 1x16x16 --data demo/images --normalize data "
    "--plan static --static-epochs 1 --epochs 0 --limit 120 --out demo/static.pt",
    "s2dnas-train --weights demo/static.pt --data demo/images --plan uniform:0.25,0.25,0.5 --epochs 1 "
    "--limit 120 --out demo/model.pt",
)
SHORTER = {
    "s2dnas-train --model net.py": " --epochs 2",
    "s2dnas-search --model net.py": " --cost macs --target 0.6 --shared-epochs 1 --epochs 1 --finalists 0",
    "s2dnas-bench load": " --seconds 0.2",
    "s2dnas-bench demo/bundle": " --seconds 0.3 --processes 2",
    "s2dnas-bench bundle/": " --seconds 0.3 --processes 1",
    "s2dnas-search": " --static-epochs 2 --shared-epochs 2 --epochs 2 --finalists 2",
}


def blocks(language, text):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands():
    """The lines of a shell that call our commands, in the order of a reader."""
    lines = (line for page in PAGES.values() for line in lines_of(page) if "s2dnas-" in line)
    return list(dict.fromkeys(lines))  # what two pages say need not run twice


def lines_of(page):
    """What is typed into a shell, each command in a line."""
    return "\n".join(blocks("sh", page)).replace("\\\n", " ").splitlines()


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
    torch.save(trained(Residual(2)).state_dict(), folder / "net.pth")
    generator = np.random.default_rng(0)
    for part, count in (("train", 300), ("val", 200), ("test", 50)):  # 400 images prove a drop of 1%
        for name, darkest in (("dark", 0), ("light", 100)):
            place = folder / "images" / part / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(textured(generator, darkest)).save(place / f"{i}.png")
    write_folder(folder / "demo", Console(quiet=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in SHORT_DEMO:
            run_here(command)
    return folder


def textured(generator, darkest):
    """Noise on patches, [32, 32, 3]: of noise alone s2dnas-bench would have nothing."""
    patches = generator.integers(0, 78, (4, 4, 3)).repeat(8, axis=0).repeat(8, axis=1)
    return (darkest + patches + generator.integers(0, 78, (32, 32, 3))).astype(np.uint8)


def trained(network):
    """The network after it was taught to tell dark noise from light noise, both normalised."""
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    labels = torch.arange(2).repeat(16)
    for _ in range(40):
        images = torch.where(labels[:, None, None, None] == 0, -0.7, 1.0) + 0.8 * torch.randn(32, 3, 12, 12)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network


def run(command, may_end_with=(0,)):
    """Run a line of a shell in which our commands are on the path, as an installation has them."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", command], check=False, env={**os.environ, "PATH": path})
    assert done.returncode in may_end_with


def run_here(command, may_end_with=(0,)):
    """Run one of our commands, of words that mean the same to a shell."""
    name, *words = command.split()
    done = CliRunner().invoke(getattr(cli, SCRIPTS[name]), words)
    assert done.exit_code in may_end_with, done.output


def is_plain(command):
    """Whether a shell would but call one of our commands, with each word as it stands."""
    words = command.split()
    return words[0] in SCRIPTS and shlex.join(words).split() == words


def marked(command):
    """Searches take their time, and probes are timed for half a minute: these go together."""
    is_slow = any(word in command for word in ("probes", "device.json", "s2dnas-search"))
    return pytest.param(command, marks=pytest.mark.slow) if is_slow else command


def firsts():
    """The first line of each command, but the first one that needs no torch where there is a choice."""
    quick = [each for each in commands() if not each.startswith("s2dnas-inspect") or "bundle" in each]
    return {command.split()[0]: command for command in reversed(quick)}.values()


@pytest.mark.parametrize("command", [marked(command) for command in commands()])
def test_the_commands_in_a_readers_order(folder, command, monkeypatch):
    monkeypatch.chdir(folder)
    short = next((more for begin, more in SHORTER.items() if command.strip().startswith(begin)), "")
    if "--epochs 0" in command:  # short as it is
        short = ""
    how = run_here if is_plain(command) and command not in firsts() else run
    how(command + short, may_end_with=(0, 1) if command.startswith(BY_CLOCK) else (0,))


def test_there_is_a_command_of_each_kind():
    elsewhere = {"s2dnas-demo", "s2dnas-serve"}  # takes minutes; serves until it is told to end
    assert set(SCRIPTS) == {*re.findall(r"s2dnas-\w+", "\n".join(commands())), *elsewhere}


@pytest.mark.parametrize(
    "snippet",
    [
        each
        for name, page in PAGES.items()
        if name not in SNIPPETS_ELSEWHERE
        for each in blocks("python", page)
    ],
    ids=lambda text: text[:40],
)
def test_the_python_snippets(folder, snippet, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    exec(compile(snippet, "snippet", "exec"), {"__name__": "__main__"})  # noqa: S102 - our own documents


def test_the_plan_document_is_one():
    (document,) = blocks("json", PAGES["docs/plans"])
    assert Plan.from_json(document).stages == json.loads(document)["stages"]


def test_make_targets_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    told = {name for page in PAGES.values() for name in re.findall(r"`make ([\w-]+)[^`\n]*`", page)}
    assert told <= set(targets)
    assert {"demo", "test", "docs"} <= told


def test_there_is_no_command_or_snippet_that_no_test_runs():
    for path in sorted((ROOT / "docs").glob("*.md")):
        name, page = f"docs/{path.stem}", path.read_text(encoding="utf-8")
        assert name in PAGES or name in ELSEWHERE or not (blocks("sh", page) or blocks("python", page)), name
        if name not in ELSEWHERE:
            others = {each for each in lines_of(page) if each and "s2dnas-" not in each}
            assert others <= NOT_OURS, name
