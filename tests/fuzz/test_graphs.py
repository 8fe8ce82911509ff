"""Bundles with graphs that somebody has changed, by fields or bytes, and whose sums were made to fit."""

from pathlib import Path

import pytest
import wire
from forged import copy_of, replace_graph
from hypothesis import given
from hypothesis import strategies as st
from sandbox import Outcome
from sandbox import run as sandboxed

from s2dnas_deploy.cli import inspect, run

pytestmark = pytest.mark.fuzz
STAGES = st.sampled_from(["stage_0.onnx", "stage_1.onnx", "stage_2.onnx"])
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 7, 11, 16, 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1]),
    st.integers(0, 2**64 - 1),
)


def changed(tree: wire.Tree, data: st.DataObject) -> None:
    """One field of one message, at any depth: gone, doubled, moved, renumbered or with other content."""
    messages = [each for each in wire.messages_in(tree) if each]
    message = messages[data.draw(st.integers(0, len(messages) - 1))]
    at = data.draw(st.integers(0, len(message) - 1))
    number, kind, value = message[at]
    way = data.draw(st.sampled_from(["drop", "double", "move", "renumber", "number", "content", "insert"]))
    if way == "drop":
        del message[at]
    elif way == "double":
        message.insert(at, message[at])
    elif way == "move":
        message.insert(data.draw(st.integers(0, len(message) - 1)), message.pop(at))
    elif way == "renumber":
        message[at] = (data.draw(st.integers(1, 30)), kind, value)
    elif way == "insert":
        message.insert(at, (data.draw(st.integers(1, 30)), 0, data.draw(NUMBERS)))
    elif isinstance(value, int):
        message[at] = (number, kind, data.draw(NUMBERS))
    elif isinstance(value, bytes):
        message[at] = (number, kind, _bytes(value, data) if kind == 2 else value)


def _bytes(value: bytes, data: st.DataObject) -> bytes:
    if not value or data.draw(st.booleans()):
        return data.draw(st.binary(max_size=64))
    place = data.draw(st.integers(0, len(value) - 1))
    return value[:place] + data.draw(st.binary(min_size=1, max_size=8)) + value[place + 1 :]


def answered(folder: Path) -> Outcome:
    """What `s2dnas-run` makes of it."""
    images = folder.with_name("images.npy")
    return sandboxed(run, "--bundle", folder, "--provider", "cpu", "--threads", 1, images)


@given(STAGES, st.integers(1, 3), st.data())
def test_a_changed_graph_is_refused_or_answers(bundle, name, changes, data):
    tree = wire.decoded((bundle / name).read_bytes())
    for _ in range(changes):
        changed(tree, data)
    folder = copy_of(bundle, bundle.with_name("changed"))
    replace_graph(folder, name, wire.encoded(tree))
    assert not answered(folder).wrong((0, 3))


@given(st.sampled_from(["gate", "blocks"]), st.integers(1, 3), st.data())
def test_a_changed_graph_of_another_system_is_refused_or_answers(others, system, changes, data):
    folder = copy_of(others / system, others.with_name("changed"))
    name = data.draw(st.sampled_from(sorted(path.name for path in folder.glob("*.onnx"))))
    tree = wire.decoded((folder / name).read_bytes())
    for _ in range(changes):
        changed(tree, data)
    replace_graph(folder, name, wire.encoded(tree))
    assert not answered(folder).wrong((0, 3))


@given(STAGES, st.data())
def test_changed_bytes_of_a_graph_are_refused_or_answer(bundle, name, data):
    content = (bundle / name).read_bytes()
    for _ in range(data.draw(st.integers(1, 4))):
        place, dropped = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 3))
        content = content[:place] + data.draw(st.binary(max_size=8)) + content[place + dropped :]
    folder = copy_of(bundle, bundle.with_name("changed"))
    replace_graph(folder, name, content)
    assert not sandboxed(inspect, folder, "--verify").wrong((0, 3))
    assert not answered(folder).wrong((0, 3))
