"""A bundle to damage, and copies of it that were: shared by the tests that do so."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXPORT = """
import sys
sys.path.insert(0, sys.argv[2])
from dataclasses import replace
from pathlib import Path
from exports import chain_from, export_to
from small_networks import residual
from s2dnas_deploy import plan as plans
static = residual()
chain = chain_from(static, plans.from_text("uniform:0.25,0.25,0.5", static.divisible.space))
preprocessing = replace(chain.preprocessing, resize="stretch")
export_to(Path(sys.argv[1]), replace(chain, preprocessing=preprocessing))
"""
EXPORT_OTHERS = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from exports import export_to
from other_systems import SYSTEMS
for name, make in SYSTEMS.items():
    export_to(Path(sys.argv[1]) / name, make())
"""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    """A bundle, exported by another process, so that this one stays small."""
    folder = tmp_path_factory.mktemp("fuzz")
    _made(EXPORT, folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="session")
def others(tmp_path_factory) -> Path:
    """Bundles of the systems that are no chain of stages, each in a folder of its name."""
    folder = tmp_path_factory.mktemp("fuzz others")
    _made(EXPORT_OTHERS, folder / "systems")
    return folder / "systems"


def _made(script: str, folder: Path) -> None:
    """What a script exports into a folder, with images beside it."""
    command = [sys.executable, "-c", script, folder, Path(__file__).parents[1]]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.save(folder.with_name("images.npy"), images)
