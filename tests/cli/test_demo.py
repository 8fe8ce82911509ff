"""The demo, as on a fresh machine: no network, a home that is read-only, spaces in the path, no terminal."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from s2dnas_deploy.build.demo.folder import write_folder
from s2dnas_deploy.bundle.bundle import load_bundle
from s2dnas_deploy.cli.console import Console
from s2dnas_deploy.errors import DataError

BIN = Path(sys.executable).parent


def test_the_folder_has_a_network_and_real_digits(tmp_path):
    for _ in range(2):  # an earlier demo's folder is as good as none
        write_folder(tmp_path, Console(quiet=True))
    assert "def make_net" in (tmp_path / "net.py").read_text()
    parts = {part: list((tmp_path / "images" / part).glob("*/*.png")) for part in ("train", "val", "test")}
    assert {part: len(found) for part, found in parts.items()} == {"train": 1079, "val": 359, "test": 359}
    assert {path.parent.name for path in parts["test"]} == set("0123456789")


@pytest.mark.parametrize("name", ["net.py", "images"])
def test_another_folder_is_left_alone(tmp_path, name):
    if name == "images":
        (tmp_path / name / "train").mkdir(parents=True)
    else:
        (tmp_path / name).write_text("mine = 1\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="--out"):
        write_folder(tmp_path, Console(quiet=True))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare to take the network away")
def test_everything_on_a_machine_cut_off_from_the_world(tmp_path):
    folder = tmp_path / "my first demo"
    folder.mkdir()
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", BIN / "s2dnas-demo", "--out", "the demo"],
        cwd=folder,
        env={**os.environ, "HOME": "/proc/no home"},  # where not even root can write
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    out = folder / "the demo"
    told = [line for line in done.stdout.splitlines() if line.startswith("  the demo/")]
    for line in told:
        assert (folder / line[2:].split("  ")[0].strip()).exists(), line
    assert len(told) == 6
    assert len(load_bundle(out / "bundle").graphs) == 3
    with (out / "predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 359
    report = json.loads((out / "bench.json").read_text())
    assert report["answers"]["cascade_accuracy"] > report["answers"]["static_accuracy"] - 0.05
    assert "times as fast" in done.stdout
