"""Large arrays stay in their file: the same images as from memory, and nothing that has changed meanwhile."""

import pickle

import numpy as np
import pytest

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.files import numpy_file
from s2dnas_deploy.files.numpy_file import ArrayFileError, StoredRows, arrays_in, rows_in
from s2dnas_deploy.images.archive import StoredImage
from s2dnas_deploy.runtime.answers.inputs import find_items
from s2dnas_deploy.workshop.data.load import load_images

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """An archive whose images are large, as far as this process is concerned."""
    monkeypatch.setattr(numpy_file, "MOST_IN_MEMORY_BYTES", 500)
    np.savez(tmp_path / "data.npz", comment=np.array("as others may have it"), x_train=IMAGES, y_train=LABELS)
    return tmp_path / "data.npz"


def test_rows_are_read_as_an_array_would_give_them(archive):
    rows = rows_in(archive)["x_train"]
    assert isinstance(rows, StoredRows)
    assert (rows.shape, rows.dtype, rows.ndim, rows.size, len(rows)) == (IMAGES.shape, np.uint8, 4, 720, 12)
    assert np.array_equal(rows[7], IMAGES[7])
    assert np.array_equal(rows[2:9:3], IMAGES[2:9:3])
    assert np.array_equal(rows[np.array([5, 0, 5])], IMAGES[[5, 0, 5]])
    assert np.array_equal(pickle.loads(pickle.dumps(rows))[-3:], IMAGES[-3:])  # noqa: S301 - our own
    assert isinstance(arrays_in(archive)["x_train"], np.ndarray)


@pytest.mark.parametrize("kind", ["npy", "big-endian", "floats"])
def test_files_of_one_array_and_other_numbers_too(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(numpy_file, "MOST_IN_MEMORY_BYTES", 100)
    array = {"npy": IMAGES, "big-endian": IMAGES.astype(">i4"), "floats": IMAGES / 3}[kind]
    np.save(tmp_path / "x.npy", array)
    rows = rows_in(tmp_path / "x.npy")
    assert isinstance(rows, StoredRows)
    assert np.array_equal(rows[3:5], array[3:5])


@pytest.mark.parametrize("kind", ["small", "packed", "fortran", "text"])
def test_what_is_small_packed_or_of_another_order_is_read(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(numpy_file, "MOST_IN_MEMORY_BYTES", 10**6 if kind == "small" else 10)
    array = {"fortran": np.asfortranarray(IMAGES), "text": np.array(["cat", "dog"])}.get(kind, IMAGES)
    (np.savez_compressed if kind == "packed" else np.savez)(tmp_path / "x.npz", x=array)
    found = rows_in(tmp_path / "x.npz")["x"]
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, array)


def test_a_damaged_byte_is_told_when_the_archive_is_opened(archive):
    content = bytearray(archive.read_bytes())
    content[content.index(IMAGES.tobytes()[:32]) + 300] ^= 1
    archive.write_bytes(content)
    with pytest.raises(ArrayFileError, match="damaged"):
        rows_in(archive)


def test_a_file_that_was_changed_is_not_read_on(archive):
    rows = rows_in(archive)["x_train"]
    np.savez(archive, x_train=IMAGES[::-1].copy(), y_train=LABELS, more=np.zeros(3))
    with pytest.raises(ArrayFileError, match="changed since it was opened"):
        rows[0]
    items = find_items([str(archive)], ("a", "b", "c")).images
    archive.unlink()
    assert isinstance(items[3].source, StoredImage)
    with pytest.raises((DataError, FileNotFoundError)):
        items[3].source.read()


def test_commands_and_training_see_the_same_images(archive):
    items = find_items([str(archive)], ("a", "b", "c")).images
    assert [item.truth for item in items] == [("a", "b", "c")[label] for label in LABELS]
    assert all(np.array_equal(item.source.read(), image) for item, image in zip(items, IMAGES, strict=True))
    splits = load_images(str(archive), input_shape=(3, 5, 4), seed=0, val_fraction=0.25)
    seen = np.concatenate([splits.train.images.numpy(), splits.val.images.numpy()])
    assert sorted(map(bytes, seen)) == sorted(bytes(image.transpose(2, 0, 1).copy()) for image in IMAGES)
