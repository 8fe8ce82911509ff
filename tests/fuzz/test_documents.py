"""Manifests and measurements, damaged in several places, by grammar or byte by byte, through the commands."""

import json
from pathlib import Path
from typing import Any

import pytest
from forged import copy_of, resum
from hypothesis import given
from hypothesis import strategies as st
from made_up_report import made_up_report
from mutations import Path as Place
from mutations import at, put, replaced, with_other_items, with_other_keys
from sandbox import run as sandboxed

from s2dnas_deploy.cli import bench, run

pytestmark = pytest.mark.fuzz


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """A document with a change of values that JSON has, then one of text, or some bytes changed."""
    document = json.loads(text)
    for _ in range(draw(st.integers(0, 2))):
        path = draw(places(document, least=1))
        document = put(document, path, draw(_VALUES))
    if draw(st.booleans()):
        path = draw(places(document))
        value = at(document, path)
        damages = [replaced]
        damages += [with_other_keys] if isinstance(value, dict) else []
        damages += [with_other_items] if isinstance(value, list) and value else []
        variants = list(draw(st.sampled_from(damages))(document, path))
        return draw(st.sampled_from(variants)).text
    text = json.dumps(document)
    place, dropped = draw(st.integers(0, len(text))), draw(st.integers(0, 4))
    return text[:place] + draw(st.text(max_size=6)) + text[place + dropped :]


@st.composite
def places(draw: st.DrawFn, document: Any, least: int = 0) -> Place:
    """Where a value is, some steps in: only what is on the way there is looked at."""
    path: Place = ()
    value = document
    while isinstance(value, dict | list) and value and (len(path) < least or draw(st.integers(0, 3))):
        steps = list(value) if isinstance(value, dict) else range(len(value))
        path = (*path, draw(st.sampled_from(steps)))
        value = value[path[-1]]
    return path


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def written(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))


@given(st.data())
def test_damaged_manifests_are_refused_or_answer(bundle, data):
    folder = copy_of(bundle, bundle.with_name("forged"))
    written(folder / "manifest.json", data.draw(damaged((bundle / "manifest.json").read_text())))
    resum(folder)
    images = bundle.with_name("images.npy")
    assert not sandboxed(run, "--bundle", folder, "--threads", 1, images).wrong((0, 3))


@given(st.sampled_from(["widths", "in-turn", "gate", "blocks"]), st.data())
def test_damaged_manifests_of_other_systems_are_refused_or_answer(others, system, data):
    folder = copy_of(others / system, others.with_name("forged"))
    written(folder / "manifest.json", data.draw(damaged((folder / "manifest.json").read_text())))
    resum(folder)
    images = others.with_name("images.npy")
    assert not sandboxed(run, "--bundle", folder, "--threads", 1, images).wrong((0, 3))


@given(st.data())
def test_damaged_measurements_are_refused_or_compared(bundle, data):
    report = made_up_report(processes=2, blocks=3).to_json()
    before, after = bundle.with_name("before.json"), bundle.with_name("after.json")
    written(before, report)
    written(after, data.draw(damaged(report)))
    # 0 and 1 are verdicts, 2 is of measurements that cannot be compared
    assert not sandboxed(bench, "compare", before, after).wrong((0, 1, 2, 3))
