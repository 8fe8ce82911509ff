"""On an emulated 64-bit ARM device a bundle gives the answers it gives here."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("torch")

from exports import chain_from, export_to, pixels
from other_systems import SYSTEMS
from small_networks import example_network, residual

from s2dnas_deploy import plan as plans
from s2dnas_deploy.bench.report import Report
from s2dnas_deploy.cli import bench
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.sessions.every_stage import StageSession, run_chain
from s2dnas_deploy.workshop.reading.read import read_network

ROOT = Path(__file__).parents[2]
ARM = Path(os.environ.get("S2DNAS_ARM_PYTHON", ROOT / ".venv-arm" / "python"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ARM.exists(), reason=f"no {ARM}; `make test-arm` sets it up"),
]
NETWORKS = {
    "residual": residual,
    "resnet20": lambda: read_network(example_network("cifar_resnet", "resnet20"), (3, 32, 32)),
    "digits": lambda: read_network(example_network("digits_cnn", "digits_cnn"), (1, 8, 8)),
}


def run(python: Path | str, *arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [str(python), *(str(argument) for argument in arguments)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def halfway(confidence: np.ndarray) -> float:
    """A threshold that half of them reach, between two of them, so that none is at it."""
    middle = len(confidence) // 2
    return float(np.sort(confidence)[middle - 1 : middle + 1].mean())


@pytest.mark.parametrize("gather", [False, True], ids=["compact", "gather"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_answers_are_those_of_this_machine(tmp_path, network, gather):
    static = NETWORKS[network]()
    chain = chain_from(static, plans.from_text("uniform:0.25,0.25,0.5", static.divisible.space))
    images = pixels(chain, 24)
    first = export_to(tmp_path / "bundle", chain)
    answers = run_chain([StageSession(graph) for graph in first.graphs], images)
    first, second = answers[0].confidence, answers[1].confidence
    leave = halfway(first)
    thresholds = (leave, halfway(second[first < leave]))
    export_to(tmp_path / "bundle", chain, thresholds=thresholds, gather=gather)
    assert answered_alike(tmp_path, images) == {0, 1, 2}


EXITS = {"widths": {2}, "in-turn": {0, 1}, "gate": {1, 2, 3}, "blocks": {0}}


@pytest.mark.parametrize("system", SYSTEMS)
def test_other_systems_answer_there_as_here(tmp_path, system):
    network = SYSTEMS[system]()
    images, thresholds = pixels(network, 24), {}
    bundle = export_to(tmp_path / "bundle", network)
    if bundle.manifest.flow.early:
        with Cascade(bundle, provider="cpu", threads=1) as cascade:
            thresholds = {"thresholds": (halfway(cascade.all_exits(images).confidence[0]),)}
        export_to(tmp_path / "bundle", network, **thresholds)
    assert answered_alike(tmp_path, images) == EXITS[system]


def answered_alike(folder: Path, images: np.ndarray) -> set[int]:
    """The bundle's answers here and there are equal, however they are asked for; where images exit."""
    np.save(folder / "images.npy", images)
    (folder / "pictures").mkdir()
    for i, image in enumerate(images):
        name = f"{i:02}.{('png', 'bmp')[i % 2]}"
        Image.fromarray(image.squeeze()).save(folder / "pictures" / name)
    where = (ROOT / "tests/arm/answer.py", folder / "bundle", folder / "pictures", folder / "images.npy")
    here, there = (json.loads(run(python, *where)) for python in (sys.executable, ARM))
    assert there["machine"] == "aarch64"
    assert there["answers"].keys() == here["answers"].keys()
    np.testing.assert_allclose(
        there["answers"].pop("probabilities"), here["answers"].pop("probabilities"), atol=1e-4
    )
    for way, expected in here["answers"].items():
        got = there["answers"][way]
        assert got["label"] == expected["label"], way
        assert got["exit"] == expected["exit"], way
        np.testing.assert_allclose(got["confidence"], expected["confidence"], atol=1e-4)
    return set(here["answers"]["stream of files"]["exit"])


def test_the_command_runs_there_and_says_what_it_has(tmp_path):
    static = residual()
    chain = chain_from(static, plans.from_text("uniform:0.5,0.5", static.divisible.space))
    export_to(tmp_path / "bundle", chain)
    Image.fromarray(pixels(chain, 1)[0]).save(tmp_path / "x.png")
    (tmp_path / "bad.png").write_bytes(b"")
    code = "from s2dnas_deploy.cli import run; run()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [str(ARM), "-c", code, "--bundle", str(tmp_path / "bundle"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    bad, good, *_ = (json.loads(line) for line in done.stdout.splitlines())
    assert bad["error"] == "the file is empty"
    assert good["label"] in chain.class_names
    refused = subprocess.run(
        [*command, "--provider", "xnnpack"], env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 4
    assert "has cpu only" in refused.stderr


def test_a_kit_runs_there_from_zip_to_results(tmp_path):
    """With all packages inside, and no pip: what is unpacked on the board is all there is."""
    static = residual()
    chain = chain_from(static, plans.from_text("uniform:0.5,0.5", static.divisible.space))
    export_to(tmp_path / "bundle", chain)
    np.savez(tmp_path / "images.npz", images=pixels(chain, 40))
    version = run(ARM, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    data, out = tmp_path / "images.npz", tmp_path / "kit.zip"
    board_is = f"--platform linux-aarch64 --python {version}"
    words = f"pack {tmp_path}/bundle --data {data} --out {out} --noise {board_is}"
    packed = CliRunner().invoke(bench, words.split())
    assert packed.exit_code == 0, packed.output
    board = tmp_path / "board"
    with zipfile.ZipFile(tmp_path / "kit.zip") as archive:
        archive.extractall(board)
    # The device's own packages must not help.
    bare = tmp_path / "python"
    bare.write_text(re.sub(r'^PYTHONPATH="[^"]*" ', "", ARM.read_text(), flags=re.MULTILINE))
    bare.chmod(0o755)
    options = ("--noise", "--seconds", "1", "--processes", "2", "--threads", "1")
    done = subprocess.run(
        ["sh", board / "kit" / "run.sh", *options],
        env={**os.environ, "PYTHON": str(bare)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(board / "kit" / "results.zip") as archive:
        archive.extractall(tmp_path / "back")
    report = Report.load(next((tmp_path / "back").rglob("bench.json")))
    assert report.environment.machine.architecture == "aarch64"
    assert "asimd" in report.environment.machine.flags
    assert report.answers.images == 40
    assert set(report.runs[0].subjects) == {"cascade", "exit 0", "exit 1", "arithmetic", "memory"}
