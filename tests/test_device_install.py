"""The device's side needs no torch: proved in an environment where it is not installed."""

import json
import os
import pkgutil
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from exports import chain_from, export_to, pixels
from PIL import Image
from small_networks import residual

import s2dnas_deploy
from s2dnas_deploy import Cascade
from s2dnas_deploy import plan as plans
from s2dnas_deploy.bundle.bundle import load_bundle

ROOT = Path(__file__).parents[1]
PYTHON = Path(os.environ.get("S2DNAS_DEVICE_PYTHON", ROOT / ".venv-device" / "bin" / "python"))

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON}; `make test` sets it up")


def run(*arguments):
    return subprocess.run([PYTHON, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_torch_is_not_there():
    assert run("-c", "import torch").returncode == 1


def test_the_bridge_and_the_device_wing_import():
    names = [m.name for m in pkgutil.walk_packages(s2dnas_deploy.__path__, "s2dnas_deploy.")]
    extra = ("http.app", "grpc.server", "ray.online", "triton.router")  # `serve`; Triton's own
    left_out = ("s2dnas_deploy.workshop", *(f"s2dnas_deploy.serve.{name}" for name in extra))
    wanted = [name for name in names if not name.startswith(left_out)]
    assert "s2dnas_deploy.runtime" in names
    result = run("-c", "import importlib\n" + "\n".join(f"importlib.import_module({n!r})" for n in wanted))
    assert result.returncode == 0, result.stderr


def test_a_command_that_needs_torch_says_how_to_get_it():
    code = "from s2dnas_deploy.cli import train; train()"
    result = run("-c", code, "--data", "digits", "--plan", "static", "--epochs", "1", "--out", "x.pt")
    assert result.returncode == 1
    assert "pip install -e '.[build]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_importing_the_cascade_imports_little():
    loaded = "import sys, s2dnas_deploy; s2dnas_deploy.Cascade; print(*sys.modules)"
    names = set(run("-c", loaded).stdout.split())
    assert "onnxruntime" in names
    assert not {"torch", "onnx", "PIL", "click", "hashlib", "tempfile"} & names


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """What a device gets: a bundle, and a folder of labelled pictures."""
    folder = tmp_path_factory.mktemp("shipped")
    static = residual()
    chain = chain_from(static, plans.from_text("uniform:0.25,0.25,0.5", static.divisible.space))
    export_to(folder / "bundle", chain)
    images = pixels(chain, 24)
    for i, image in enumerate(images):
        path = folder / "images" / f"class {i % static.graph.classes}" / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def command(name, *arguments):
    return run("-c", f"from s2dnas_deploy.cli import {name}; {name}()", *arguments)


def test_a_bundle_is_calibrated(shipped):
    bundle, images = shipped / "bundle", shipped / "images"
    macs = str(sum(load_bundle(bundle).manifest.macs[:2]))
    result = command("calibrate", images, "--bundle", bundle, "--target-macs", macs, "--provider", "cpu")
    assert result.returncode == 0, result.stderr
    manifest = load_bundle(bundle).manifest
    assert manifest.promise.images == 24
    assert all(entry.exit.calibrated for entry in manifest.stages[:-1])


def test_a_key_to_trust_is_not_passed_over_where_nothing_can_check_it(shipped, tmp_path, monkeypatch):
    signed = Path(shutil.copytree(shipped / "bundle", tmp_path / "signed"))
    (signed / "bundle.sig").write_text("{}")
    monkeypatch.setenv("S2DNAS_TRUST", "key.pub")
    result = command("run", shipped / "images", "--bundle", signed)
    assert result.returncode == 1
    assert "pip install -e '.[signing]'" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_bundle_is_run(shipped):
    bundle, images = shipped / "bundle", shipped / "images"
    paths = sorted(images.rglob("*.png"))
    pictures = np.stack([np.asarray(Image.open(path)) for path in paths])
    with Cascade.load(bundle, provider="cpu", threads=1) as cascade:
        leave = float(np.median(cascade.predict(pictures, last_stage=0).confidence))
        here = cascade.predict(pictures, thresholds=(leave, leave))
    thresholds = f"{leave!r},{leave!r}"
    result = command(
        "run", images, "--bundle", bundle, "--provider", "cpu", "--threads", "1", "--threshold", thresholds
    )
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(line["file"]) for line in lines] == paths
    assert len({line["exit"] for line in lines}) > 1
    assert [line["exit"] for line in lines] == here.exit.tolist()
    assert [line["index"] for line in lines] == here.label.tolist()
    assert np.allclose([line["confidence"] for line in lines], here.confidence, atol=1e-5)
