"""The loops of docs/examples run as written, in processes of their own, and one that is killed goes on."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from s2dnas_deploy import load_bundle, load_model  # noqa: E402

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
TORCHRUN = (
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--local-addr",
    "127.0.0.1",
    "--nproc-per-node",
    "2",
)
LOOPBACK = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
SECONDS = 240


def begin(folder, *words, **variables):
    """An example as a person starts it, in a session of its own."""
    environment = {
        **os.environ,
        **LOOPBACK,
        **variables,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def end(process):
    """What it said; it must end well."""
    try:
        said, _ = process.communicate(timeout=SECONDS)
    finally:
        kill(process)
    assert process.returncode == 0, said
    return said


def started_by(pid):
    """A process and all that it has started, by their ids."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # it has ended
        return [pid]
    return [pid, *(each for child in children for each in started_by(child))]


def kill(process):
    """As by `kill -9`: those that torchrun has started, too, which are in sessions of their own."""
    if process.poll() is None:
        began = started_by(process.pid)  # the first of them first, so that it starts no others
        for pid in began:
            os.kill(pid, signal.SIGKILL)
        process.wait()
        while any(map(is_running, began)):
            time.sleep(0.01)


def is_running(pid):
    """Whether a process is there, and not only waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def right(said):
    return float(re.search(r"right: ([\d.]+)%", said)[1]) / 100


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_a_page_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80


def test_plain_pytorch(tmp_path):
    said = end(begin(tmp_path, EXAMPLES / "own_loop.py"))
    assert right(said) > 0.85
    assert load_bundle(tmp_path / "own_loop" / "bundle").manifest.expected.images == 397
    assert load_model(tmp_path / "own_loop" / "model.pt").network.stages == 2


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["blocks:0.6", "gate:0.5,1"])
def test_plain_pytorch_with_gates(plan, tmp_path):
    assert right(end(begin(tmp_path, EXAMPLES / "own_loop.py", plan, "out"))) > 0.75


def test_accelerate(tmp_path):
    pytest.importorskip("accelerate")
    assert right(end(begin(tmp_path, EXAMPLES / "own_loop_accelerate.py"))) > 0.85
    assert (tmp_path / "own_loop_accelerate" / "checkpoint").is_dir()


def test_torchrun_goes_on_after_it_was_killed(tmp_path):
    words, checkpoint = (*TORCHRUN, EXAMPLES / "own_loop_ddp.py"), tmp_path / "own_loop_ddp" / "checkpoint.pt"
    process = begin(tmp_path, *words, EPOCHS="500")
    deadline = time.monotonic() + SECONDS
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    kill(process)
    assert checkpoint.exists(), process.communicate()[0]
    done = torch.load(checkpoint, weights_only=True)["epoch"]
    assert 1 <= done < 500

    said = end(begin(tmp_path, *words, EPOCHS=str(done + 3)))
    assert len(re.findall(rf"process [01] goes on after epoch {done}\b", said)) == 2
    assert re.findall(r"^epoch (\d+) of", said, re.MULTILINE) == [str(done + k) for k in range(1, 4)]
    assert right(said) > 0.6
    assert load_bundle(tmp_path / "own_loop_ddp" / "bundle").manifest.expected.images == 397
