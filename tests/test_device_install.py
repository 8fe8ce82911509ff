"""The device's side needs no torch: proved in an environment where it is not installed."""

import os
import pkgutil
import subprocess
from pathlib import Path

import pytest

import s2dnas_deploy

ROOT = Path(__file__).parents[1]
PYTHON = Path(os.environ.get("S2DNAS_DEVICE_PYTHON", ROOT / ".venv-device" / "bin" / "python"))

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON}; `make test` sets it up")


def run(*arguments):
    return subprocess.run([PYTHON, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_torch_is_not_there():
    assert run("-c", "import torch").returncode == 1


def test_the_bridge_and_the_device_wing_import():
    names = [m.name for m in pkgutil.walk_packages(s2dnas_deploy.__path__, "s2dnas_deploy.")]
    wanted = [name for name in names if not name.startswith("s2dnas_deploy.build")]
    assert "s2dnas_deploy.run" in names
    result = run("-c", "import importlib\n" + "\n".join(f"importlib.import_module({n!r})" for n in wanted))
    assert result.returncode == 0, result.stderr


def test_a_command_that_needs_torch_says_how_to_get_it():
    code = "from s2dnas_deploy.cli import train; train()"
    result = run("-c", code, "--data", "digits", "--plan", "static", "--epochs", "1", "--out", "x.pt")
    assert result.returncode == 1
    assert "pip install 's2dnas-deploy[build]'" in result.stderr
    assert "Traceback" not in result.stderr
