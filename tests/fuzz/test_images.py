"""Pictures and archives whose bytes were changed, through `s2dnas-run`: an answer or a reason for each."""

import json

import hostile_files
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox import run as sandboxed

from s2dnas_deploy.cli import run

pytestmark = pytest.mark.fuzz
SEEDS = {**hostile_files.sound_images(), **hostile_files.sound_archives()}
SUFFIXES = (".png", ".jpg", ".npz", ".npy")


@given(st.sampled_from(sorted(SEEDS)), st.integers(0, 10**9), st.sampled_from(SUFFIXES))
def test_changed_images_are_answered_or_told(bundle, name, number, suffix):
    path = bundle.with_name(f"changed{suffix}")
    path.write_bytes(hostile_files.mutated(SEEDS[name], number))
    outcome = sandboxed(run, "--bundle", bundle, "--threads", 1, "--workers", 1, path)
    assert not outcome.wrong((0, 1, 6))
    for line in outcome.stdout.splitlines():
        record = json.loads(line)
        assert ("label" in record) != ("error" in record)
