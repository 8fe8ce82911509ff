"""Training under torchrun: several processes come to what one comes to, and go on after being killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from residual_net import NET

from s2dnas_deploy.workshop.network.model_file import load_model

MODELS = Path(__file__).parents[2] / "models"
QUICK = ["--precision", "float32", "--normalize", "data", "--cost", "macs", "--start", "ranked", "--quiet"]
DIGITS = ["--model", f"{MODELS}/digits_cnn.py:digits_cnn", "--input", "1x8x8", "--data", "digits", *QUICK]
WIDTHS = ["--plan", "in-turn:0.5,1", "--static-epochs", "1", "--epochs", "1", "--limit", "200"]
SEARCH = "--data digits --normalize data --cost macs --quiet --precision float32 --shared-epochs 1 --epochs 0"
SEARCH = [*SEARCH.split(), "--evaluations", "4", "--finalists", "1"]
GATES = ["--plan", "blocks:0.7", "--static-epochs", "1", "--epochs", "1", "--limit", "200"]


def command(name, *options):
    return [sys.executable, "-c", f"from s2dnas_deploy.cli import {name}; {name}()", *map(str, options)]


def together(processes, *line):
    """The same as torchrun does it, with a port of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = ["--nproc-per-node", str(processes), "--master-addr", "127.0.0.1", "--master-port", str(port)]
    return [sys.executable, "-m", "torch.distributed.run", *told, "--no-python", "--", *line]


def run(line, folder):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, check=False, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def weights(path):
    return load_model(path).network.weights()


def largest_difference(ones, others):
    assert ones.keys() == others.keys()
    return max((ones[key].double() - others[key].double()).abs().max().item() for key in ones)


@pytest.mark.slow
@pytest.mark.parametrize("options", [WIDTHS, GATES], ids=["widths", "gates"])
def test_two_processes_come_to_what_one_comes_to(tmp_path, options):
    alone, both = tmp_path / "alone.pt", tmp_path / "both.pt"
    (tmp_path / "net.py").write_text(NET)
    options = ["--model", "net.py:make_net", *DIGITS[2:], *options]
    told = run(command("train", *options, "--out", alone), tmp_path)
    told_by_both = run(together(2, *command("train", *options, "--out", both)), tmp_path)
    assert largest_difference(weights(alone), weights(both)) < 1e-2
    assert (
        told_by_both.stdout.replace("both.pt", "alone.pt").count("model:") == told.stdout.count("model:") == 1
    )
    shares = [load_model(path).provenance["val_accuracy"] for path in (alone, both)]
    assert shares[0] == pytest.approx(shares[1], abs=0.03)


@pytest.mark.slow
def test_killed_midway_they_go_on_to_the_same_weights(tmp_path):
    options = [*DIGITS, "--plan", "uniform:0.5,0.5", "--epochs", "6", "--checkpoint-seconds", "0"]
    whole, killed = tmp_path / "whole.pt", tmp_path / "killed.pt"
    run(together(2, *command("train", *options, "--out", whole)), tmp_path)
    line = together(2, *command("train", *options, "--out", killed))
    started = subprocess.Popen(
        line, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True
    )
    checkpoint, metrics = (tmp_path / "killed.run" / name for name in ("checkpoint.pt", "metrics.jsonl"))
    until = time.monotonic() + 120
    while not (checkpoint.exists() and metrics.exists()):
        assert started.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.02)
    os.killpg(
        started.pid, signal.SIGKILL
    )  # a group of its own: torchrun, which then was alone to know the others
    started.wait()
    assert not killed.exists()
    _wait_for_others(killed)
    run(line, tmp_path)
    assert largest_difference(weights(whole), weights(killed)) == 0


def _wait_for_others(out):
    """Those that torchrun started are in groups of their own; they end when the one they speak to is gone."""
    until = time.monotonic() + 60
    for process in Path("/proc").iterdir():
        while process.name.isdigit() and str(out) in _line_of(process):
            os.kill(int(process.name), signal.SIGKILL)
            assert time.monotonic() < until
            time.sleep(0.05)


def _line_of(process):
    try:
        state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
        return "" if state == "Z" else (process / "cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.slow
def test_shared_weights_of_a_search_are_trained_by_both(tmp_path):
    static = tmp_path / "static.pt"
    run(command("train", *DIGITS, "--plan", "static", "--epochs", "2", "--out", static), tmp_path)
    found = []
    for name, beside in (("alone", ()), ("both", (2,))):
        line = command("search", *SEARCH, "--weights", static, "--out", tmp_path / f"{name}.pt")
        run(together(*beside, *line) if beside else line, tmp_path)
        found.append(
            torch.load(tmp_path / f"{name}.run" / "shared.checkpoint.pt", weights_only=True)["average"]
        )
    assert largest_difference(*found) < 1e-2  # of weights of about 0.2, by rounding alone
