"""Exit scores that are damaged or of something else are refused in a line, whatever they are."""

import io
import zipfile

import numpy as np
import pytest

from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.errors import RecordError

SHA = "0123456789abcdef" * 4
WHOLE = {
    "label": np.array([[0, 1, 2], [0, 0, 2]]),
    "confidence": np.full((2, 3), 0.5, np.float32),
    "truth": np.array([0, 1, 2]),
    "graphs": np.array([SHA, SHA]),
    "images": np.array(SHA),
}


def refused(path, message: str = "expected") -> None:
    with pytest.raises(RecordError, match=message) as told:
        ExitScores.load(path)
    assert told.value.exit_code == 3
    assert str(told.value).startswith(f"{path}: expected exit scores that --scores has kept")
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 1000


def test_whole_ones_are_read(tmp_path):
    np.savez(tmp_path / "s.npz", **WHOLE)
    scores = ExitScores.load(tmp_path / "s.npz")
    assert (scores.exits, len(scores), scores.graphs, scores.images) == (2, 3, (SHA, SHA), SHA)
    np.savez(tmp_path / "s.npz", label=WHOLE["label"], confidence=WHOLE["confidence"])
    assert ExitScores.load(tmp_path / "s.npz").truth is None


def test_any_confidence_is_a_confidence():
    """What a graph may say when it runs is no damage here: `decide.rules` says what it means."""
    odd = np.float32([[np.nan, np.inf, -np.inf], [-3, 1.0000001, 7]])
    assert ExitScores(label=WHOLE["label"], confidence=odd).confidence is odd


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": np.zeros((0, 3), np.int64), "confidence": np.zeros((0, 3), np.float32)}, "one exit and"),
        ({"label": np.zeros((2, 0), np.int64), "confidence": np.zeros((2, 0), np.float32)}, "one image or"),
        (
            {"label": np.zeros(3, np.int64)},
            r"labels \[exits, N\] of one exit and one image or more, got int64",
        ),
        ({"label": np.array(5)}, "one image or more"),
        ({"label": WHOLE["label"].astype(np.float64)}, r"labels int64 \[2, 3\], got float64 \[2, 3\]"),
        ({"label": WHOLE["label"].astype(complex)}, "got complex128"),
        ({"label": WHOLE["label"].astype(str)}, "got <U21"),
        ({"label": WHOLE["label"].astype(bool)}, "got bool"),
        ({"label": WHOLE["label"] - 1}, "expected labels of 0 or more, got -1"),
        (
            {"confidence": np.full((2, 2), 0.5, np.float32)},
            r"confidences float32 \[2, 3\], got float32 \[2, 2",
        ),
        ({"confidence": np.full((2, 3), 0.5)}, "got float64"),
        ({"confidence": np.full((2, 3), 0.5j)}, "got complex128"),
        ({"confidence": np.full((2, 3), "sure")}, "got <U4"),
        ({"truth": np.array([0, 1])}, r"true classes int64 \[3\], got int64 \[2\]"),
        ({"truth": np.array([0, 1, -1])}, "true classes of 0 or more, got -1"),
        ({"truth": np.array([0, 1, np.nan])}, "got float64"),
        ({"truth": np.array(["a", "b", "c"])}, "got <U1"),
        ({"graphs": np.array([SHA])}, "the sha256 of 2 graphs, got 1"),
        ({"graphs": np.array([1, 2])}, "graphs as sha256 sums in text, got int64"),
        ({"graphs": np.array(["x" * 64, SHA])}, "graphs as sha256 sums"),
        ({"images": np.array([SHA, SHA])}, "one sha256 of all images, got 2"),
        ({"images": np.array(7.0)}, "images as sha256 sums in text, got float64"),
        ({"static": np.array([0, 1, 2])}, "the first two at least, got"),
        ({f"key {i}": np.array(0) for i in range(500)}, "the first two at least, got"),
        ({"label": np.zeros((100_000, 1), np.int64)}, r"confidences float32 \[100000, 1\]"),
        ({"label": np.zeros((1,) * 30, np.int64)}, "one image or more"),
        ({"label": np.zeros((2, 3), [(f"field {i}", "i8") for i in range(99)])}, "got"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, change, message):
    np.savez(tmp_path / "s.npz", **{**WHOLE, **change})
    refused(tmp_path / "s.npz", message)


def test_what_is_no_archive_of_plain_arrays_is_refused(tmp_path):
    path = tmp_path / "s.npz"
    for content in (b"", b"no archive", b"PK\x03\x04" + bytes(100), b"\x93NUMPY\x01\x00"):
        path.write_bytes(content)
        refused(path)
    stream = io.BytesIO()
    np.savez(stream, **WHOLE)
    whole = stream.getvalue()
    for at in range(0, len(whole), 97):
        path.write_bytes(whole[:at])
        refused(path)
    np.savez(path, **{**WHOLE, "truth": np.array([0, None, object], object)})
    refused(path)
    np.savez(path, confidence=WHOLE["confidence"])
    refused(path, "the first two at least, got .'confidence'")
    with path.open("wb") as file:
        np.save(file, WHOLE["label"])
    refused(path, "a single array")
    refused(tmp_path / "none.npz", "kept, got no such file")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("label.npy", "no array")
        archive.writestr("confidence.npy", "none either")
    refused(path)


def test_flipped_bytes_are_found_or_change_nothing(tmp_path):
    stream = io.BytesIO()
    np.savez_compressed(stream, **WHOLE)
    whole = stream.getvalue()
    np.savez(tmp_path / "s.npz", **WHOLE)
    for at in range(0, len(whole), 13):
        flipped = bytearray(whole)
        flipped[at] ^= 0x10
        (tmp_path / "s.npz").write_bytes(flipped)
        try:
            scores = ExitScores.load(tmp_path / "s.npz")
        except RecordError:
            continue
        np.testing.assert_array_equal(scores.label, WHOLE["label"])
        np.testing.assert_array_equal(scores.confidence, WHOLE["confidence"])


@pytest.mark.parametrize("name", ["label", "truth", "static"])
def test_classes_that_are_not_the_bundles_are_refused(name):
    arrays = {"label": WHOLE["label"], "truth": WHOLE["truth"], "static": WHOLE["truth"]}
    scores = ExitScores(confidence=WHOLE["confidence"], **{**arrays, name: arrays[name] + 1})
    scores.check_classes(4)
    with pytest.raises(RecordError, match=r"expected .* from 0 to 2, got 3"):
        scores.check_classes(3)
