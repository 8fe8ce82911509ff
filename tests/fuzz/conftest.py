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


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    """A bundle, exported by another process, so that this one stays small."""
    folder = tmp_path_factory.mktemp("fuzz")
    subprocess.run(
        [sys.executable, "-c", EXPORT, folder / "bundle", Path(__file__).parents[1]],
        check=True,
        capture_output=True,
        timeout=300,
    )
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    return folder / "bundle"
