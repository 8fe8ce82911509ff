"""The demo, as on a fresh machine: no network, a home that is read-only, spaces in the path, no terminal."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from s2dnas_deploy.bundle.bundle import load_bundle
from s2dnas_deploy.cli.console import Console
from s2dnas_deploy.errors import DataError
from s2dnas_deploy.workshop.demo.folder import write_folder

BIN = Path(sys.executable).parent
CUT_OFF = ["unshare", "--user", "--map-root-user", "--net"]


def test_the_folder_has_a_network_and_real_digits(tmp_path):
    for _ in range(2):  # an earlier demo's folder is as good as none
        write_folder(tmp_path, Console(quiet=True))
    assert "def make_net" in (tmp_path / "net.py").read_text()
    parts = {part: list((tmp_path / "images" / part).glob("*/*.png")) for part in ("train", "val", "test")}
    assert {part: len(found) for part, found in parts.items()} == {"train": 1079, "val": 359, "test": 359}
    assert {path.parent.name for path in parts["test"]} == set("0123456789")


def test_what_you_changed_in_the_network_stays(tmp_path):
    write_folder(tmp_path, Console(quiet=True))
    (tmp_path / "net.py").write_text("mine = 1\n")
    write_folder(tmp_path, Console(quiet=True))
    assert (tmp_path / "net.py").read_text() == "mine = 1\n"


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "bundle").mkdir()
    with pytest.raises(DataError, match="--out"):
        write_folder(tmp_path, Console(quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_somebody_elses_readme_is_left_alone(tmp_path):
    (tmp_path / "README.txt").write_text("mine")
    with pytest.raises(DataError, match="--out"):
        write_folder(tmp_path, Console(quiet=True))
    assert (tmp_path / "README.txt").read_text() == "mine"


@pytest.mark.slow
def test_everything_on_a_machine_cut_off_from_the_world(tmp_path):
    if shutil.which("unshare") is None or subprocess.run([*CUT_OFF, "true"], check=False).returncode:
        pytest.skip("the network cannot be taken away here")
    folder = tmp_path / "my first demo"
    folder.mkdir()
    first, again = (demo_in(folder), demo_in(folder))
    assert "times as fast" in first
    assert "times as fast" in again  # what was trained is still there, what is quick is done again
    out = folder / "the demo"
    told = [line for line in first.splitlines() if line.startswith("  the demo/")]
    assert len(told) == 6
    for line in told:
        assert (folder / line[2:].split("  ")[0].strip()).exists(), line
    assert len(load_bundle(out / "bundle").graphs) == 3
    with (out / "predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 359
    report = json.loads((out / "bench.json").read_text())
    assert report["answers"]["cascade_accuracy"] > report["answers"]["static_accuracy"] - 0.05


def demo_in(folder) -> str:
    """What the demo prints where there is no network, no terminal, and a home that not even root can use."""
    done = subprocess.run(
        [*CUT_OFF, BIN / "s2dnas-demo", "--out", "the demo"],
        cwd=folder,
        env={**os.environ, "HOME": "/proc/no home"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout
