"""Bundles whose files were changed, cut, exchanged, added or taken away, with sums that fit or not."""

import os
from pathlib import Path

import pytest
from forged import copy_of, resum
from hypothesis import given
from hypothesis import strategies as st
from sandbox import run as sandboxed

from s2dnas_deploy.cli import inspect, run

pytestmark = pytest.mark.fuzz
FILES = (
    "manifest.json",
    "labels.txt",
    "README.md",
    "SHA256SUMS",
    "verification.txt",
    "plan.json",
    "stage_0.onnx",
    "stage_1.onnx",
    "stage_2.onnx",
)
NAMES = st.sampled_from(FILES)
ADDED = st.sampled_from([".hidden", "more.onnx", ".x.part", "\n", "\x1b[31m"])
WAYS = ("bytes", "cut", "line", "exchange", "remove", "add", "link", "pipe", "folder", "empty")


def damage(folder: Path, way: str, data: st.DataObject) -> None:
    """One thing that happens to a file, by accident or on purpose."""
    path = folder / data.draw(NAMES)
    if path.is_symlink() or not path.is_file():
        return
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content)))
    if way == "bytes":
        piece, dropped = data.draw(st.binary(max_size=16)), data.draw(st.integers(0, 16))
        path.write_bytes(content[:place] + piece + content[place + dropped :])
    elif way == "cut":
        path.write_bytes(content[:place])
    elif way == "line":
        lines = content.splitlines(keepends=True)
        number = data.draw(st.integers(0, max(len(lines) - 1, 0)))
        del lines[number : number + 1]
        path.write_bytes(b"".join(lines))
    elif way == "exchange":
        other = folder / data.draw(NAMES)
        path.write_bytes(other.read_bytes() if other.is_file() else b"")
    elif way == "add":
        (folder / data.draw(ADDED)).write_bytes(b"x")
    else:
        path.unlink()
        _put(path, way)


def _put(path: Path, way: str) -> None:
    if way == "link":
        path.symlink_to(path.parent.with_name("images.npy"))  # outside the bundle, and a test's own
    elif way == "pipe":
        os.mkfifo(path)
    elif way == "folder":
        path.mkdir()
    elif way == "empty":
        path.touch()


@given(st.lists(st.sampled_from(WAYS), min_size=1, max_size=3), st.booleans(), st.data())
def test_damaged_files_are_refused_or_do_no_harm(bundle, ways, fits, data):
    folder = copy_of(bundle, bundle.with_name("damaged"))
    for way in ways:
        damage(folder, way, data)
    if fits:
        resum(folder)
    assert not sandboxed(inspect, folder, "--verify").wrong((0, 3))
    images = bundle.with_name("images.npy")
    outcome = sandboxed(run, "--bundle", folder, "--provider", "cpu", "--threads", 1, images)
    assert not outcome.wrong((0, 3))
