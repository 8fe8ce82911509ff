"""Answers from a cluster: those of one machine, whatever becomes of another."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from on_a_cluster import run_on_a_cluster

from s2dnas_deploy.cli import run
from s2dnas_deploy.runtime.cascade import Cascade

IMAGES = 20_000


@pytest.fixture(scope="module")
def archive(tmp_path_factory, bundle):
    """Many images in one file."""
    shape = Cascade.load(bundle, provider="cpu").manifest.image_shape
    images = np.random.default_rng(5).integers(0, 256, (IMAGES, *shape), dtype=np.uint8)
    path = tmp_path_factory.mktemp("many") / "images.npy"
    np.save(path, images)
    return path


@pytest.mark.slow
def test_a_cluster_writes_what_one_machine_does_though_a_node_is_killed(bundle, archive, tmp_path):
    here, spread = tmp_path / "here.jsonl", tmp_path / "spread.jsonl"
    asked = ["--bundle", str(bundle), str(archive), "--threads", "1", "--batch", "2", "--provider", "cpu"]
    told = run_on_a_cluster("run", spread, 100, *asked, "--out", str(spread))
    assert told.returncode == 0, told.stderr
    assert "2 windows of images are answered at a time" in told.stderr
    assert 0 < json.loads(told.stdout.splitlines()[-1])["killed_after"] < IMAGES
    command = [sys.executable, "-c", "from s2dnas_deploy.cli import run; run()"]
    subprocess.run([*command, *asked, "--out", str(here)], check=True)
    assert here.read_bytes() == spread.read_bytes()


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--ray=nowhere"], 2, "expected HOST:PORT"),
        (["--ray=127.0.0.1:1"], 2, "no Ray cluster answers there"),
        (["--ray=auto", "--budget-ms=3"], 2, "name the --setting for a cluster"),
        (["--ray=auto", "--allow-fallback"], 2, "name the --provider that all have"),
    ],
)
def test_what_no_cluster_can_do_is_refused(bundle, tmp_path, more, code, message):
    pytest.importorskip("ray.data")
    np.save(tmp_path / "one.npy", np.zeros((1, 8, 8, 3), np.uint8))
    result = CliRunner().invoke(run, ["--bundle", str(bundle), str(tmp_path / "one.npy"), *more])
    assert result.exit_code == code, result.output
    assert message in result.stderr
