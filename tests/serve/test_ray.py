"""Answers from a cluster: those of one machine, whatever becomes of another."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray_service
from click.testing import CliRunner
from on_a_cluster import in_own_network, run_on_a_cluster
from served import IMAGES

from s2dnas_deploy.cli import run
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.runtime.cascade import Cascade

MANY = 20_000


@pytest.fixture(scope="module")
def archive(tmp_path_factory, bundle):
    """Many images in one file."""
    shape = Cascade.load(bundle, provider="cpu").manifest.image_shape
    images = np.random.default_rng(5).integers(0, 256, (MANY, *shape), dtype=np.uint8)
    path = tmp_path_factory.mktemp("many") / "images.npy"
    np.save(path, images)
    return path


@pytest.mark.slow
def test_a_cluster_writes_what_one_machine_does_though_a_node_is_killed(bundle, archive, tmp_path):
    here, spread = tmp_path / "here.jsonl", tmp_path / "spread.jsonl"
    asked = ["--bundle", str(bundle), str(archive), "--threads", "1", "--batch", "8", "--provider", "cpu"]
    told = run_on_a_cluster("run", spread, 100, *asked, "--out", str(spread))
    assert told.returncode == 0, told.stderr
    assert "windows of images are answered, 2 at a time" in told.stderr
    assert 0 < json.loads(told.stdout.splitlines()[-1])["killed_after"] < MANY
    command = [sys.executable, "-c", "from s2dnas_deploy.cli import run; run()"]
    subprocess.run([*command, *asked, "--out", str(here)], check=True)
    assert here.read_bytes() == spread.read_bytes()


@pytest.mark.slow
def test_of_a_replica_that_is_killed_only_what_it_held_is_lost_and_clients_are_told(
    bundle, cascade, tmp_path
):
    np.save(tmp_path / "images.npy", IMAGES)
    script = Path(ray_service.__file__)
    told = in_own_network(str(script), str(bundle), str(tmp_path / "images.npy"))
    assert told.returncode == 0, told.stderr
    said = json.loads(told.stdout.splitlines()[-1])
    assert set(said["statuses"]) <= {"200", "500", "503"}, "nobody waits in vain"
    assert said["statuses"]["200"] > 100
    assert sum(said["statuses"].values()) - said["statuses"]["200"] <= 8, (
        "what one replica held, of 8 callers"
    )
    wanted = cascade.predict(IMAGES).label.tolist()
    assert said["labels"] == {str(at): wanted[at] for at in range(len(IMAGES))}


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--ray=nowhere"], 2, "expected HOST:PORT"),
        (["--ray=127.0.0.1:1"], 2, "no Ray cluster answers there"),
        (["--ray=ray://127.0.0.1:1"], 2, "log in to one of its machines"),
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


def test_an_application_says_what_it_takes(bundle):
    pytest.importorskip("ray.serve")
    from s2dnas_deploy.serve.ray.online import app

    here = {"bundle": f"net={bundle}"}
    for args, message in (
        ({}, "expected bundle=FOLDER, got none"),
        ({**here, "thread": "4"}, "'thread' is no argument; expected bundle=FOLDER and perhaps others of"),
        ({**here, "threads": "x"}, "threads: expected a number, got 'x'"),
        ({**here, "audit": "one%"}, "audit: expected a number, got 'one%'"),
        ({**here, "replicas": "0"}, "replicas: expected a number above 0 or auto, got '0'"),
        ({"bundle": str(bundle / "none")}, "No such file or directory"),
    ):
        with pytest.raises(OptionError, match=re.escape(message)):
            app(args)
