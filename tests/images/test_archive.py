"""Under which keys an archive holds its images, and what is said of one that is not clear."""

import numpy as np
import pytest

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.images.archive import ImageArchive

IMAGES, LABELS = np.zeros((3, 4, 5), np.uint8), np.array([2, 0, 1])


def archive(path, **arrays):
    np.savez(path / "x.npz", **arrays)
    return ImageArchive(str(path / "x.npz"))


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        (("images", "labels"), "train"),
        (("x", "y"), "train"),
        (("x_train", "y_train"), "train"),
        (("train_images", "train_labels"), "train"),
        (("x_val", "y_val"), "val"),
        (("val_images", "val_labels"), "val"),
        (("x_test", "y_test"), "test"),
        (("test_images", "test_labels"), "test"),
    ],
)
@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], LABELS.astype(np.uint8), None])
def test_a_part_is_found_by_its_keys(tmp_path, keys, part, labels):
    found = archive(tmp_path, **{keys[0]: IMAGES} | ({} if labels is None else {keys[1]: labels}))
    assert found.parts == (part,)
    read = found.part(part)
    assert read.images.shape == IMAGES.shape
    assert (None if read.labels is None else read.labels.tolist()) == (None if labels is None else [2, 0, 1])
    assert read.where == f"{tmp_path}/x.npz, {keys[0]!r}"


def test_all_parts_are_found_and_an_array_is_one(tmp_path):
    train, val, test = ({f"x_{part}": IMAGES} for part in ("train", "val", "test"))
    assert archive(tmp_path, **test, **val, **train).parts == ("train", "val", "test")
    np.save(tmp_path / "x.npy", IMAGES)
    alone = ImageArchive(str(tmp_path / "x.npy"))
    assert (alone.parts, alone.part("train").labels) == (("train",), None)


def test_a_part_that_nobody_asks_for_may_be_as_it_likes(tmp_path):
    found = archive(tmp_path, x_test=IMAGES, x_train=np.array([None]), y_val=LABELS)
    assert found.part("test").images.shape == IMAGES.shape
    with pytest.raises(DataError, match="plain arrays, got: its member 'x_train"):
        found.part("train")
    with pytest.raises(DataError, match="expected the keys 'x_val' and 'y_val' together, got no 'x_val'"):
        found.part("val")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            ("x", "images"),
            "one of x_train/y_train, train_images/train_labels, images/labels, x/y, got the keys",
        ),
        (
            ("x_test", "test_labels"),
            "one of x_test/y_test, test_images/test_labels, got the keys x_test, test_l",
        ),
        (("pictures",), "one of x_train/y_train, .*got the keys pictures"),
        ((), r"got the keys \(none\)"),
        (("x" * 500,), "got the keys 'x{50,}"),
    ],
)
def test_keys_that_are_not_clear_are_told(tmp_path, keys, message):
    with pytest.raises(DataError, match=message) as caught:
        archive(tmp_path, **dict.fromkeys(keys, IMAGES))
    assert len(str(caught.value)) < 1000
