"""Labelled images: what is read from each kind of source, how it is divided, and what is refused."""

import pickle
import pickletools
import re
import shutil
import warnings
from functools import partial
from pathlib import Path

import hostile_files
import numpy as np
import pytest
import torch
from PIL import Image

from s2dnas_deploy.errors import DataError, UnreadableError
from s2dnas_deploy.images.picture_file import planes_in
from s2dnas_deploy.images.pixels import SUFFIXES, InputFormat, fitted, in_colour, planes_of, resized
from s2dnas_deploy.workshop.data import load
from s2dnas_deploy.workshop.data.folder import Names
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.data.shape import shape_of_images
from s2dnas_deploy.workshop.data.splits import hold_out
from s2dnas_deploy.workshop.training.first_words import cautions

RGB = (3, 4, 5)


def save_image(path, value, *, size=(5, 4)):
    """Write an RGB picture whose red pixels are all `value`, which tells it from the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 0)).save(path)


def fill_folder(root, counts, *, first=0):
    """Write PNGs for each class; return the red value of each class's images."""
    values = {}
    for name, count in counts.items():
        values[name] = list(range(first, first + count))
        first += count
        for value in values[name]:
            save_image(root / name / f"{value:03}.png", value)
    return values


def reds(part):
    return part.images[:, 0, 0, 0].tolist()


def load_from(source, *, input_shape=RGB, seed=0, **options):
    return load_images(str(source), input_shape=input_shape, seed=seed, **options)


def labels_by_red(part):
    return dict(zip(reds(part), part.labels.tolist(), strict=True))


# The folder of classes


def test_a_folder_of_classes_is_read_and_divided_by_class(tmp_path):
    values = fill_folder(tmp_path, {"cat": 20, "ant": 10, "bee": 2})
    splits = load_from(tmp_path, val_fraction=0.2)
    assert splits.class_names == ("ant", "bee", "cat")
    assert splits.test is None
    assert splits.train.images.dtype == torch.uint8
    assert splits.train.labels.dtype == torch.int64
    assert splits.train.images.shape == (8 + 1 + 16, *RGB)
    assert splits.train.labels.bincount().tolist() == [8, 1, 16]
    assert splits.val.labels.bincount().tolist() == [2, 1, 4]
    truth = {value: k for k, name in enumerate(splits.class_names) for value in values[name]}
    assert labels_by_red(splits.train) | labels_by_red(splits.val) == truth
    assert not set(reds(splits.train)) & set(reds(splits.val))


def test_the_seed_decides_what_is_split_off_and_nothing_else_does(tmp_path):
    fill_folder(tmp_path, {"a": 30, "b": 30})
    one, same, other = (load_from(tmp_path, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.val.images, same.val.images)
    assert torch.equal(one.train.labels, same.train.labels)
    assert one.digest == same.digest
    assert reds(other.val) != reds(one.val)
    assert other.digest != one.digest


def test_given_parts_are_taken_as_they_are_under_any_usual_name(tmp_path):
    train = fill_folder(tmp_path / "Train", {"a": 3, "b": 2})
    val = fill_folder(tmp_path / "valid", {"b": 2}, first=50)
    test = fill_folder(tmp_path / "test", {"a": 1, "b": 1}, first=100)
    splits = load_from(tmp_path)
    assert labels_by_red(splits.train) == {v: k for k, n in enumerate("ab") for v in train[n]}
    assert labels_by_red(splits.val) == dict.fromkeys(val["b"], 1)
    assert labels_by_red(splits.test) == {test["a"][0]: 0, test["b"][0]: 1}


def test_a_test_folder_without_val_leaves_val_to_be_split_off_train(tmp_path):
    fill_folder(tmp_path / "train", {"a": 10, "b": 10})
    fill_folder(tmp_path / "test", {"a": 3, "b": 3}, first=100)
    splits = load_from(tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (18, 2, 6)
    assert min(reds(splits.test)) == 100


def test_images_below_subfolders_count_and_strays_do_not(tmp_path):
    fill_folder(tmp_path, {"a": 2, "b": 2})
    save_image(tmp_path / "a" / "more" / "deep.BMP", 90)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "a" / "._000.png").write_bytes(b"left by a file manager")
    (tmp_path / ".cache").mkdir()
    save_image(tmp_path / "overview.png", 200)
    splits = load_from(tmp_path, val_fraction=0.1)
    assert splits.class_names == ("a", "b")
    assert sorted(reds(splits.train) + reds(splits.val)) == [0, 1, 2, 3, 90]


def test_a_class_named_train_is_a_class(tmp_path):
    fill_folder(tmp_path, {"bus": 2, "train": 3})
    splits = load_from(tmp_path)
    assert splits.class_names == ("bus", "train")
    assert len(splits.train) + len(splits.val) == 5


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "bmp", "webp", "ppm", "gif", "tif", "tiff"])
def test_every_named_kind_of_file_is_read(tmp_path, suffix):
    for name in "ab":
        for number in range(2):
            save_image(tmp_path / name / f"{number}.{suffix}", 200)
    splits = load_from(tmp_path)
    assert reds(splits.train) == pytest.approx([200, 200], abs=2)


def test_progress_runs_to_the_number_of_images_over_all_parts(tmp_path):
    fill_folder(tmp_path, {"a": 100, "b": 100})
    seen = []
    splits = load_from(tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert labels_by_red(splits.train) | labels_by_red(splits.val) == {n: n // 100 for n in range(200)}
    assert seen[-1] == (200, 200)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def saved_archive(path, count=10):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, *RGB), np.uint8)
    np.savez(path, x_train=images, y_train=np.arange(count) % 2)
    return path


def test_of_an_archive_more_than_memory_should_hold_goes_to_a_file_without_a_name(tmp_path, monkeypatch):
    archive = saved_archive(tmp_path / "data.npz")
    in_memory = load_from(archive)
    monkeypatch.setattr(load, "LARGEST_IN_MEMORY_BYTES", 10 * 60 - 1)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(load.tempfile, "tempdir", str(scratch))
    blanks = []
    make_blank = load._blank_on_disk
    monkeypatch.setattr(load, "_blank_on_disk", lambda shape: blanks.append(shape) or make_blank(shape))
    on_disk = load_from(archive)
    assert sorted(blanks, reverse=True) == [(8, *RGB), (2, *RGB)]
    assert torch.equal(on_disk.train.images, in_memory.train.images)
    assert on_disk.digest == in_memory.digest
    assert list(scratch.iterdir()) == []


def test_a_full_disk_is_said_and_not_died_of(tmp_path, monkeypatch):
    archive = saved_archive(tmp_path / "data.npz")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(load, "LARGEST_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(load.os, "posix_fallocate", no_space)
    with pytest.raises(DataError, match=r"0\.0 GiB of decoded images, got: No space left.*TMPDIR"):
        load_from(archive)


# Pictures that stay on disk


def test_many_pictures_stay_on_disk_and_are_what_they_would_be_in_memory(tmp_path, monkeypatch):
    fill_folder(tmp_path, {"a": 5, "b": 5})
    in_memory = load_from(tmp_path)
    monkeypatch.setattr(load, "LARGEST_IN_MEMORY_BYTES", 10 * 60 - 1)
    seen = []
    on_disk = load_from(tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert on_disk.are_on_disk
    assert not in_memory.are_on_disk
    assert seen[-1] == (10, 10)
    for one, other in ((on_disk.train, in_memory.train), (on_disk.val, in_memory.val)):
        assert one.image_shape == RGB
        assert torch.equal(one.read(), other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.in_memory().images, other.images)
    rows = torch.tensor([6, 0, 3])
    chosen = on_disk.train.select(rows)
    assert torch.equal(chosen.read(), in_memory.train.images[rows])
    assert torch.equal(chosen.read(torch.tensor([2])), in_memory.train.images[3:4])
    assert torch.equal(on_disk.train.evenly(3).read(slice(1, None)), in_memory.train.evenly(3).images[1:])


def test_they_are_told_from_others_by_their_names_below_the_folder_and_their_sizes(tmp_path):
    fill_folder(tmp_path / "one", {"a": 5, "b": 5})
    digest = load_from(tmp_path / "one", on_disk=True).digest
    shutil.copytree(tmp_path / "one", tmp_path / "moved")
    assert load_from(tmp_path / "moved", on_disk=True).digest == digest
    assert load_from(tmp_path / "moved", on_disk=False).digest != digest
    grown = tmp_path / "moved" / "a" / "000.png"
    grown.write_bytes(grown.read_bytes() + b"more")
    assert load_from(tmp_path / "moved", on_disk=True).digest != digest
    shutil.copytree(tmp_path / "one", tmp_path / "renamed")
    (tmp_path / "renamed" / "a" / "000.png").rename(tmp_path / "renamed" / "a" / "0000.png")
    assert load_from(tmp_path / "renamed", on_disk=True).digest != digest


def test_what_their_files_say_is_looked_at_before_any_is_decoded(tmp_path):
    fill_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "empty.png").write_bytes(b"")
    (tmp_path / "b" / "page.jpg").write_bytes(b"<html>not found</html>")
    with pytest.raises(UnreadableError) as caught:
        load_from(tmp_path, on_disk=True)
    assert sorted(Path(file).name for file, _ in caught.value.files) == ["empty.png", "page.jpg"]
    assert "the file is empty" in str(caught.value)
    (tmp_path / "a" / "empty.png").unlink()
    (tmp_path / "b" / "page.jpg").unlink()
    save_image(tmp_path / "a" / "large.png", 9, size=(50, 40))
    with pytest.raises(DataError, match=r"large.png: expected 4x5 pixels .* got 40x50 .*--resize crop"):
        load_from(tmp_path, on_disk=True)


def test_a_file_that_vanishes_or_is_cut_off_later_is_named_when_it_is_read(tmp_path):
    fill_folder(tmp_path, {"a": 5, "b": 5})
    splits = load_from(tmp_path, on_disk=True)
    gone, cut = tmp_path / "a" / "000.png", tmp_path / "b" / "005.png"
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(UnreadableError) as caught:
        torch.cat([splits.train.read(), splits.val.read()])
    assert {Path(file).name for file, _ in caught.value.files} <= {"000.png", "005.png"}


def test_names_take_no_object_each():
    paths = [f"/x/ä/{number}.jpg" for number in range(3)]
    names = Names.of(paths, below="/x")
    assert [names[place] for place in range(3)] == ["ä/0.jpg", "ä/1.jpg", "ä/2.jpg"]


# What is wrong with a folder


def test_a_missing_source_is_told_what_a_source_can_be(tmp_path):
    with pytest.raises(
        DataError, match=r"nowhere: expected a folder of classes.*`digits`; got nothing there"
    ):
        load_from(tmp_path / "nowhere")
    packed = tmp_path / "cifar.tar.gz"
    packed.write_bytes(b"packed")
    with pytest.raises(DataError, match=r"cifar\.tar\.gz: .*unpack it first"):
        load_from(packed)


def test_images_without_class_folders_are_refused(tmp_path):
    save_image(tmp_path / "one.png", 1)
    save_image(tmp_path / "two.png", 2)
    message = "expected one folder per class.*got 2 images directly in it and no class folders. Sort"
    with pytest.raises(DataError, match=message):
        load_from(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected one folder per class.*got no folders in it"):
        load_from(tmp_path)


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "Testing"), ("val", "test")])
def test_parts_are_not_mistaken_for_classes(tmp_path, names):
    for name in names:
        save_image(tmp_path / name / "image.png", 1)
    with pytest.raises(DataError, match=r"expected class folders, or a folder `train`.*train/CLASS/"):
        load_from(tmp_path)


def test_empty_classes_are_all_named(tmp_path):
    fill_folder(tmp_path, {"a": 2, "c": 2})
    (tmp_path / "b").mkdir()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "image.heic").write_bytes(b"")
    with pytest.raises(DataError, match=r"at least one image \(\.bmp, .*got none in 'b', 'd'\. Add"):
        load_from(tmp_path)


def test_classes_of_one_image_are_all_named_when_val_is_split_off(tmp_path):
    fill_folder(tmp_path / "train", {"a": 1, "b": 2, "c": 1})
    with pytest.raises(DataError, match="takes at least 2 of each class; got 1 for 'a', 'c'"):
        load_from(tmp_path)
    fill_folder(tmp_path / "val", {"b": 1})
    assert load_from(tmp_path).train.labels.tolist() == [0, 1, 1, 2]


def test_fewer_than_two_classes_are_refused(tmp_path):
    fill_folder(tmp_path, {"only": 5})
    with pytest.raises(DataError, match=r"expected at least 2 classes, got 1 \(only\)"):
        load_from(tmp_path)


def test_an_unknown_class_in_val_or_test_is_refused(tmp_path):
    fill_folder(tmp_path / "train", {"a": 2, "b": 2})
    fill_folder(tmp_path / "test", {"b": 1, "z": 1})
    with pytest.raises(DataError, match=r"test: expected only classes that .*train has, got 'z' as well"):
        load_from(tmp_path)


def test_a_part_there_twice_or_without_images_is_refused(tmp_path):
    fill_folder(tmp_path / "train", {"a": 2, "b": 2})
    (tmp_path / "val" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="val: expected images in class folders, got none"):
        load_from(tmp_path)
    (tmp_path / "valid").mkdir()
    with pytest.raises(DataError, match="expected one folder of val images, got 'val', 'valid'"):
        load_from(tmp_path)


def test_a_folder_that_cannot_be_listed_is_no_empty_folder(tmp_path, monkeypatch):
    fill_folder(tmp_path, {"a": 2, "b": 2})

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("s2dnas_deploy.images.listing.os.scandir", refuse)
    with pytest.raises(DataError, match=r"expected a folder that can be listed, got: Permission denied"):
        load_from(tmp_path)


def test_an_image_of_another_size_is_named_with_what_to_do(tmp_path):
    fill_folder(tmp_path, {"a": 3, "b": 3})
    save_image(tmp_path / "b" / "003.png", 3, size=(7, 6))
    save_image(tmp_path / "b" / "004.png", 4, size=(8, 8))
    message = (
        r"b/003\.png: expected 4x5 pixels \(height x width\), got 6x7 \(2 of 6 images looked at .*"
        r"`--resize crop` or `--resize stretch`.*`--input`"
    )
    with pytest.raises(DataError, match=message):
        load_from(_with_val(tmp_path))


def _with_val(tmp_path):
    """Move the classes below train, so that no split decides which images are looked at."""
    root = tmp_path / "divided"
    for name in "ab":
        shutil.move(tmp_path / name, root / "train" / name)
    fill_folder(root / "val", {"a": 1})
    return root


def test_unreadable_files_of_all_parts_are_counted_and_the_first_twenty_named(tmp_path):
    fill_folder(tmp_path, {"a": 29, "b": 2})
    root = _with_val(tmp_path)
    for number in range(20):
        (root / "train" / "a" / f"{number:03}.png").write_bytes(b"not a picture")
    whole = (root / "train" / "a" / "020.png").read_bytes()
    (root / "train" / "a" / "020.png").write_bytes(whole[: len(whole) // 2])
    (root / "val" / "a" / "000.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        load_from(root)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("expected image files that can be read, got 22 that cannot.")
    named = [re.search(r"(\d+)\.png: no image that can be read", line)[1] for line in lines[1:21]]
    assert named == [f"{number:03}" for number in range(20)]
    assert lines[21:] == ["  and 2 more"]
    for number in range(20):
        (root / "train" / "a" / f"{number:03}.png").unlink()
    with pytest.raises(DataError, match=r"(?s)got 2 that cannot.*020\.png: .*000\.png: the file is empty"):
        load_from(root)


@pytest.mark.filterwarnings("ignore")
def test_hostile_files_are_all_named_in_one_message_of_bounded_length(tmp_path):
    fill_folder(tmp_path, {"a": 2, "b": 2})
    hostile = {name: content for name, content in hostile_files.images().items() if len(content) < 10_000}
    for name, content in hostile.items():
        if name.endswith(SUFFIXES):
            (tmp_path / "a" / name).write_bytes(content)
    hostile_files.no_files(tmp_path / "b" / "more")
    (tmp_path / "b" / "two\nlines.png").write_bytes(b"")
    with pytest.raises(UnreadableError) as caught:
        load_from(tmp_path, resize="stretch")
    bad = {path for folder in "ab" for path in (tmp_path / folder).rglob("*.*") if not path.stem.isdigit()}
    bad -= {path for path in bad if path.is_dir() or not path.name.endswith(SUFFIXES)}
    assert {path for path, _ in caught.value.files} == {str(path) for path in bad}
    assert len(bad) > 20
    lines = str(caught.value).split("\n")
    assert len(lines) == 1 + 20 + 1
    assert max(map(len, lines)) < 700


@pytest.mark.parametrize("name", ["claims 0.npy", "bomb.npz", "of objects.npy", "twice.npz", "size lies.npz"])
def test_hostile_archives_are_refused_in_a_line(tmp_path, name):
    path = tmp_path / "x.npz"
    path.write_bytes(hostile_files.archives()[name])
    with pytest.raises(DataError, match=r"x\.npz: expected a NumPy archive of plain arrays") as caught:
        load_from(path)
    assert len(str(caught.value)) < 800
    assert "\n" not in str(caught.value)


def test_messages_about_many_classes_stay_short(tmp_path):
    names = np.array([f"class {number}" for number in range(5000)])
    path = write_archive(tmp_path / "x.npz", **GOOD, class_names=names)
    with pytest.raises(DataError, match="none found for 'class 2', 'class 3'") as caught:
        load_from(path, input_shape=(1, 4, 5))
    assert len(str(caught.value)) < 1000
    write_archive(path, **{f"key {number}": np.zeros(1) for number in range(900)})
    with pytest.raises(DataError, match="got the keys") as caught:
        load_from(path, input_shape=(1, 4, 5))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif", "bmp"])
def test_a_truncated_file_is_unreadable_and_not_half_black(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for name in "ab":
        for number in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(noise).save(tmp_path / name / f"{number}.{suffix}")
    path = tmp_path / "a" / f"0.{suffix}"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"got 1 that cannot(.|\n)*a/0\.{suffix}: "):
        load_from(tmp_path, input_shape=(3, 40, 50))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 1.0}, "expected a val fraction between 0 and 1, got 1.0"),
        ({"seed": -1}, "expected a seed of 0 or more, got -1"),
        ({"resize": "squash"}, "expected resize to be stretch, crop or crop:SHARE .* got 'squash'"),
        ({"input_shape": (3, 0, 5)}, r"three positive numbers .*got \(3, 0, 5\)"),
        ({"input_shape": (4, 4, 5)}, r"expected a network that takes 3 channels .*got one that takes 4"),
        ({"limit": 1}, "expected a limit that leaves an image for each of the 2 classes, got 1"),
    ],
)
def test_impossible_wishes_are_refused(tmp_path, options, message):
    fill_folder(tmp_path, {"a": 2, "b": 2})
    with pytest.raises(DataError, match=message):
        load_from(tmp_path, **options)


# Limits


def test_a_limit_keeps_the_proportions_and_every_class(tmp_path):
    fill_folder(tmp_path / "train", {"a": 40, "b": 20, "c": 2})
    fill_folder(tmp_path / "test", {"a": 4}, first=100)
    splits = load_from(tmp_path, limit=13)
    assert splits.train.labels.bincount().tolist() == [8, 4, 1]
    assert len(splits.val) == 4 + 2 + 1
    assert len(splits.test) == 4


def test_a_limit_is_by_seed_and_decodes_only_what_it_keeps(tmp_path):
    fill_folder(tmp_path, {"a": 60, "b": 60})
    totals = set()
    one, same, other = (
        load_from(tmp_path, seed=seed, limit=10, on_progress=lambda _, total: totals.add(total))
        for seed in (1, 1, 2)
    )
    assert (len(one.train), len(one.val)) == (10, 10)
    assert totals == {20}
    assert one.digest == same.digest
    assert reds(one.train) != reds(other.train)
    assert set(reds(one.train)) <= set(reds(load_from(tmp_path, seed=1).train))


def test_hold_out_leaves_at_least_one_of_each_class_in_both():
    labels = np.array([0, 1, 1, 0, 2, 2, 2, 2])
    for fraction, held in ((0.01, [1, 1, 1]), (0.5, [1, 1, 2]), (0.99, [1, 1, 3])):
        kept, held_out = hold_out(labels, fraction=fraction, seed=3)
        assert np.bincount(labels[held_out]).tolist() == held
        assert sorted([*kept, *held_out]) == list(range(8))


# Pixels


def test_stretch_takes_all_of_the_picture_and_crop_its_middle():
    halves = np.zeros((8, 16), np.uint8)
    halves[:, 8:] = 255
    image = Image.fromarray(halves)
    for resize, expected in (("stretch", [0, 0, 255, 255]), ("crop", [0, 0, 255, 255])):
        square = InputFormat(channels=1, height=4, width=4, resize=resize)
        got = planes_of(resized(image, square))
        assert got.shape == (1, 4, 4)
        assert got[0, 0, [0, 3]].tolist() == [expected[0], expected[3]]
    marked = np.zeros((4, 8), np.uint8)
    marked[:, :2] = 255
    crop, stretch = (
        planes_of(resized(Image.fromarray(marked), InputFormat(channels=1, height=4, width=4, resize=way)))
        for way in ("crop", "stretch")
    )
    assert not crop.any()
    assert stretch[0, 0, 0] > 200


@pytest.mark.parametrize("size", [(37, 11), (11, 37), (3, 3), (1, 50), (32, 32), (9, 31)])
@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_resizing_ends_at_the_wanted_size_whatever_it_began_with(size, resize):
    wanted = InputFormat(channels=3, height=9, width=13, resize=resize)
    assert planes_of(resized(Image.new("RGB", size, (7, 8, 9)), wanted)).shape == (3, 9, 13)
    assert set(planes_of(resized(Image.new("L", size, 7), wanted)).flat) == {7}


def test_files_and_arrays_of_the_same_picture_become_the_same_pixels():
    noise = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 30), dtype=np.uint8)
    for channels in (1, 3):
        for resize in ("stretch", "crop"):
            wanted = InputFormat(channels=channels, height=8, width=8, resize=resize)
            from_files = [
                planes_of(resized(in_colour(Image.fromarray(picture), channels), wanted))
                for picture in noise.transpose(0, 2, 3, 1)
            ]
            assert np.array_equal(fitted(noise, wanted), np.stack(from_files))


def test_grey_becomes_colour_by_repeating_it():
    grey = np.arange(12, dtype=np.uint8).reshape(1, 1, 3, 4)
    wanted = InputFormat(channels=3, height=3, width=4, resize=None)
    assert np.array_equal(fitted(grey, wanted), np.repeat(grey, 3, axis=1))


def test_orientation_is_applied_before_the_size_is_looked_at(tmp_path):
    upright = np.arange(20, dtype=np.uint8).reshape(4, 5)
    exif = Image.Exif()
    exif[0x0112] = 6  # Stored turned a quarter to the left.
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(np.rot90(upright)).save(tmp_path / name / f"{number}.png", exif=exif)
    splits = load_from(tmp_path, input_shape=(1, 4, 5))
    assert np.array_equal(splits.train.images[0, 0].numpy(), upright)


# The shape of images, where nobody says


def test_pictures_of_one_size_tell_their_shape_and_are_not_decoded(tmp_path, monkeypatch):
    fill_folder(tmp_path / "train", {"cat": 3, "dog": 2})
    save_image(tmp_path / "val" / "cat" / "0.png", 0, size=(9, 9))  # what is not trained on is checked later
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert shape_of_images(str(tmp_path)) == RGB


def test_grey_pictures_have_one_channel_unless_some_are_in_colour(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (5, 4)).save(tmp_path / name / "0.png")
    assert shape_of_images(str(tmp_path)) == (1, 4, 5)
    save_image(tmp_path / "b" / "1.png", 0)
    assert shape_of_images(str(tmp_path)) == RGB


def test_the_shape_is_that_of_pictures_that_are_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("png", "jpg"):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("L", (4, 5)).save(tmp_path / "a" / f"0.{suffix}", exif=exif)
    assert shape_of_images(str(tmp_path)) == (1, 4, 5)


def test_pictures_of_several_sizes_are_refused_with_the_sizes_and_what_to_give(tmp_path):
    fill_folder(tmp_path, {"cat": 3, "dog": 2})
    save_image(tmp_path / "dog" / "x.png", 0, size=(7, 6))
    with pytest.raises(DataError) as problem:
        shape_of_images(str(tmp_path))
    assert "are of 2 sizes: 4x5 (5), 6x7 (1) of 6 looked at; give the network's own" in str(problem.value)
    assert "--resize crop" in str(problem.value)


def test_pictures_that_cannot_be_read_tell_no_shape(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="no picture that tells it: give the network's own"):
        shape_of_images(str(tmp_path))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 5), (1, 4, 5)),
        ((4, 5, 3), (3, 4, 5)),
        ((3, 4, 5), (3, 4, 5)),
        ((3, 4, 3), None),
        ((4, 5, 6), None),
    ],
)
def test_an_archive_tells_its_shape_where_only_one_number_can_be_channels(tmp_path, shape, expected):
    path = tmp_path / "images.npz"
    np.savez(path, images=np.zeros((4, *shape), np.uint8), labels=np.arange(4) % 2)
    if expected is not None:
        assert shape_of_images(str(path)) == expected
        return
    with pytest.raises(DataError, match="do not tell which of these are channels: give the network's own"):
        shape_of_images(str(path))


def test_cifar_and_digits_have_the_shape_that_they_have(tmp_path):
    (tmp_path / "batches.meta").touch()
    assert shape_of_images(str(tmp_path)) == (3, 32, 32)
    assert shape_of_images("digits") == (1, 8, 8)
    with pytest.raises(DataError, match="expected a folder of classes"):
        shape_of_images(str(tmp_path / "missing"))


def palette_with_a_hole():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 200, 0, 250, 0, 0])
    image.putpixel((1, 0), 1)
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("image", "colour", "grey"),
    [
        (Image.new("1", (2, 1), 1), (255, 255, 255), 255),
        (Image.new("L", (2, 1), 90), (90, 90, 90), 90),
        (Image.new("LA", (2, 1), (200, 51)), (200, 200, 200), 200),
        (Image.new("RGBA", (2, 1), (100, 200, 50, 0)), (100, 200, 50), 153),
        (Image.new("RGBA", (2, 1), (100, 100, 100, 255)), (100, 100, 100), 100),
        (Image.new("CMYK", (2, 1), (0, 255, 255, 0)), (255, 0, 0), 76),
        (Image.new("YCbCr", (2, 1), (60, 128, 128)), (60, 60, 60), 60),
        (Image.new("I;16", (2, 1), 65535), (255, 255, 255), 255),
        (Image.new("I;16", (2, 1), 257 * 9 + 100), (9, 9, 9), 9),
        (palette_with_a_hole(), (0, 200, 0), 117),
    ],
)
def test_any_mode_is_turned_into_what_the_network_takes(image, colour, grey):
    assert in_colour(image.copy(), 3).getpixel((0, 0)) == colour
    assert in_colour(image.copy(), 1).getpixel((0, 0)) == grey


def with_alpha(mode):
    """A picture of a mode whose alpha goes from nothing to all."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    picture.putalpha(Image.linear_gradient("L").resize((16, 16)))
    return picture.convert("RGB").quantize(200) if mode == "P" else picture.convert(mode)


@pytest.mark.parametrize(
    ("mode", "form", "told"),
    [
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("P", "PNG", {"transparency": bytes(range(200))}),
        ("RGB", "PNG", {"transparency": (1, 2, 3)}),
        ("L", "PNG", {"transparency": 7}),
        ("1", "PNG", {"transparency": 1}),
        ("P", "GIF", {"transparency": 3}),
        ("RGBA", "WEBP", {"lossless": True, "exact": True}),
        ("RGBA", "TIFF", {}),
        ("LA", "TIFF", {}),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_has_alpha_is_read_as_image_folders_of_torchvision_read_it(tmp_path, mode, form, told):
    """Which is by pillow's `convert("RGB")`; and grey ones as of that."""
    path = tmp_path / "picture"
    with_alpha(mode).save(path, form, **told)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pillow's, about the alpha that it drops
        with Image.open(path) as image:
            expected = image.convert("RGB")
    for channels, like in ((3, expected), (1, expected.convert("L"))):
        wanted = InputFormat(channels=channels, height=16, width=16, resize=None)
        np.testing.assert_array_equal(planes_in(str(path), wanted), planes_of(like))


@pytest.mark.parametrize("on_disk", [False, True])
def test_pictures_with_alpha_are_told_of_once(tmp_path, on_disk):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(3):
            with_alpha("RGB").save(tmp_path / name / f"{number}.png")
    read = partial(load_from, tmp_path, input_shape=(3, 16, 16), limit=3, on_disk=on_disk)
    assert not read().have_alpha
    for number in range(3):
        with_alpha("LA").save(tmp_path / "b" / f"{number}.png")
    assert read().have_alpha
    said = cautions(
        read(), normalize_guessed=False, weights_may_know_val=False, to_be_divided=False, limited=True
    )
    assert any("an alpha channel: it is dropped" in words for words in said)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_deep_grey_files_are_scaled_and_not_clipped(tmp_path, suffix):
    deep = np.array([[0, 257 * 100, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / f"deep.{suffix}")
    with Image.open(tmp_path / f"deep.{suffix}") as image:
        assert planes_of(in_colour(image, 1)).tolist() == [[[0, 100, 255]]]


def test_pixels_of_unknown_scale_are_refused(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(np.ones((4, 5), np.float32)).save(tmp_path / name / f"{number}.tif")
    with pytest.raises(DataError, match=r"/\d\.tif: its pixels are floats: save it with 8 bits"):
        load_from(tmp_path)


# CIFAR


def cifar_batch(count, *, classes, first, labels_key):
    """One file's content, its images told apart by their first red pixel."""
    data = np.zeros((count, 3072), np.uint8)
    data[:, 0] = np.arange(first, first + count)
    data[:, 1024] = 11
    return {b"data": data, labels_key: [(first + i) % classes for i in range(count)], b"batch_label": b"x"}


def write_cifar10(folder, *, protocol=2, label_names=(b"cat", b"dog")):
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        f"data_batch_{n}": cifar_batch(4, classes=2, first=4 * n, labels_key=b"labels") for n in range(1, 6)
    }
    files["test_batch"] = cifar_batch(3, classes=2, first=100, labels_key=b"labels")
    files["batches.meta"] = {b"label_names": list(label_names), b"num_vis": 3072}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


CIFAR_SHAPE = (3, 32, 32)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("below", ["", "cifar-10-batches-py"])
def test_cifar10_is_read_where_it_is_or_one_folder_below(tmp_path, protocol, below):
    write_cifar10(tmp_path / below, protocol=protocol)
    splits = load_from(tmp_path, input_shape=CIFAR_SHAPE)
    assert splits.class_names == ("cat", "dog")
    assert (len(splits.train), len(splits.val)) == (18, 2)
    assert labels_by_red(splits.train) | labels_by_red(splits.val) == {n: n % 2 for n in range(4, 24)}
    assert labels_by_red(splits.test) == {100: 0, 101: 1, 102: 0}
    assert splits.test.images[0, :, 0, 0].tolist() == [100, 11, 0]


def test_cifar_as_an_old_numpy_wrote_it_is_read(tmp_path):
    folder = write_cifar10(tmp_path)
    for path in folder.iterdir():
        content = path.read_bytes()
        path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    names = {
        arg for op, arg, _ in pickletools.genops((folder / "test_batch").read_bytes()) if op.name == "GLOBAL"
    }
    assert "numpy.core.multiarray _reconstruct" in names
    assert len(load_from(tmp_path, input_shape=CIFAR_SHAPE).test) == 3


def as_python2_wrote_it(pixels, labels):
    """The opcodes of the published files: protocol 2, all text as byte strings."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K" + bytes([len(labels)]) + b"M\x00\x0c\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + len(pixels).to_bytes(4, "little") + pixels + b"tb"
    )
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels](" + numbers + b"eu."


def test_cifar_as_python_2_wrote_it_is_read(tmp_path):
    folder = write_cifar10(tmp_path)
    content = as_python2_wrote_it(bytes(range(256)) * 24, [1, 0])
    trusted = pickle.loads(content, encoding="bytes")  # noqa: S301 - written two lines above
    assert np.array_equal(trusted[b"data"].ravel(), np.arange(6144) % 256)
    (folder / "test_batch").write_bytes(content)
    splits = load_from(tmp_path, input_shape=CIFAR_SHAPE)
    assert splits.test.labels.tolist() == [1, 0]
    assert splits.test.images.flatten().tolist() == list(range(256)) * 24


def test_cifar100_is_read_by_its_fine_labels(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    contents = {
        "train": cifar_batch(12, classes=3, first=0, labels_key=b"fine_labels")
        | {b"coarse_labels": [0] * 12},
        "test": cifar_batch(3, classes=3, first=50, labels_key=b"fine_labels"),
        "meta": {b"fine_label_names": [b"ant", b"bee", b"cow"], b"coarse_label_names": [b"any"]},
    }
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    splits = load_from(tmp_path, input_shape=CIFAR_SHAPE)
    assert splits.class_names == ("ant", "bee", "cow")
    assert labels_by_red(splits.test) == {50: 2, 51: 0, 52: 1}


class Touch:
    """A pickle of this creates a file when it is loaded by an unpickler that trusts it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_hostile_pickle_is_refused_and_never_run(tmp_path):
    folder, trace = write_cifar10(tmp_path / "data"), tmp_path / "trace"
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": Touch(trace)}, protocol=2))
    with pytest.raises(DataError, match=r"batches\.meta: .*asks for '_?io\.open': .*nothing in it was run"):
        load_from(folder, input_shape=CIFAR_SHAPE)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"c_codecs\ndecode\n(S'x'\ntR.",
        b"c_codecs\nencode\n(Vx\nVzlib\ntR.",
        b"cnumpy\ndtype\n(VO8\ntR.",
        # An array whose state says that its bytes are pointers to objects.
        b"cnumpy.core.multiarray\n_reconstruct\n(tR(I1\n(I1\ntVO\nI00\nVAAAAAAAA\ntb.",
        # A try to give the stand-in class another `__setstate__`.
        b"cnumpy\nndarray\n(N(Vpixels\nI1\ndtb.",
        b"c_codecs\nencode\n(N(V__new__\nI1\ndtb.",
        b"\x80\x02]q\x00.",
        # A memo of 32 GB; a key that cannot be hashed without an end; a number of 20,000 digits as a key.
        b"]r\xff\xff\xff\xff.",
        b"})" + b"\x85" * 300_000 + b"Ns.",
        b"}\x8b" + (8000).to_bytes(4, "little") + b"\x7f" * 8000 + b"Ns.",
        b"no pickle",
        b"",
    ],
)
def test_no_pickle_but_plain_values_and_uint8_arrays_passes(tmp_path, content):
    folder = write_cifar10(tmp_path)
    (folder / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_3: .*Unpack the archive"):
        load_from(folder, input_shape=CIFAR_SHAPE)
    write_cifar10(tmp_path)
    assert len(load_from(folder, input_shape=CIFAR_SHAPE).train) == 18


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": np.zeros((4, 10), np.uint8)}, r"expected 'data' as uint8 \[N, 3072\]"),
        ({b"data": np.zeros((4, 3072), np.float32)}, "expected an array of uint8"),
        ({b"labels": [0, 1]}, "expected 'labels' as 4 numbers from 0 to 1"),
        ({b"labels": [0, 1, 0, 7]}, "expected 'labels' as 4 numbers from 0 to 1"),
    ],
)
def test_cifar_files_of_other_content_are_refused(tmp_path, change, message):
    folder = write_cifar10(tmp_path)
    content = cifar_batch(4, classes=2, first=0, labels_key=b"labels") | change
    (folder / "data_batch_2").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=rf"data_batch_2: {message}"):
        load_from(folder, input_shape=CIFAR_SHAPE)


def test_an_incomplete_or_doubled_cifar_folder_is_refused(tmp_path):
    folder = write_cifar10(tmp_path / "one")
    (folder / "data_batch_4").unlink()
    (folder / "test_batch").unlink()
    with pytest.raises(
        DataError, match="expected a complete CIFAR folder, got none of data_batch_4, test_batch"
    ):
        load_from(folder, input_shape=CIFAR_SHAPE)
    both = write_cifar10(tmp_path / "two")
    write_cifar10(both / "cifar-10-batches-py")
    with pytest.raises(DataError, match="expected one CIFAR data set, got "):
        load_from(both, input_shape=CIFAR_SHAPE)


def test_cifar_is_resized_only_if_asked(tmp_path):
    write_cifar10(tmp_path)
    with pytest.raises(DataError, match=r"expected 16x16 pixels .*got 32x32 \(all 20 images\).*--resize"):
        load_from(tmp_path, input_shape=(3, 16, 16))
    assert load_from(tmp_path, input_shape=(3, 16, 16), resize="stretch").train.images.shape == (
        18,
        3,
        16,
        16,
    )
    assert load_from(tmp_path, input_shape=(1, 32, 32)).train.images.shape == (18, 1, 32, 32)


# The NumPy archive


def numbered(*shape):
    """Images [N, H, W] that differ."""
    return np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)


def write_archive(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("keys", [("images", "labels"), ("x", "y"), ("x_train", "y_train")])
def test_an_archive_of_one_part_has_val_split_off(tmp_path, keys):
    images, labels = numbered(20, 4, 5), np.arange(20, dtype=np.uint8) % 2
    path = write_archive(tmp_path / "data.npz", **dict(zip(keys, (images, labels), strict=True)))
    splits = load_from(path, input_shape=(1, 4, 5))
    assert splits.class_names == ("0", "1")
    assert (len(splits.train), len(splits.val), splits.test) == (18, 2, None)
    truth = dict(zip(images[:, 0, 0].tolist(), labels.tolist(), strict=True))
    assert labels_by_red(splits.train) | labels_by_red(splits.val) == truth


def test_an_archive_of_all_parts_is_taken_as_it_is(tmp_path):
    images = numbered(6, 4, 5)
    path = write_archive(
        tmp_path / "data.npz",
        x_train=images[:3],
        y_train=np.array([[0], [1], [1]]),
        x_val=images[3:4],
        y_val=[1],
        x_test=images[4:],
        y_test=[0, 1],
        class_names=np.array(["no", "yes"]),
    )
    splits = load_from(path, input_shape=(1, 4, 5))
    assert splits.class_names == ("no", "yes")
    assert splits.train.labels.tolist() == [0, 1, 1]
    assert torch.equal(splits.val.images[:, 0], torch.from_numpy(images[3:4]))
    assert torch.equal(splits.test.images[:, 0], torch.from_numpy(images[4:]))


@pytest.mark.parametrize(
    ("input_shape", "resize"), [((3, 4, 5), None), ((3, 8, 8), "stretch"), ((1, 4, 5), None)]
)
def test_channels_are_found_first_or_last(tmp_path, input_shape, resize):
    first = np.random.default_rng(0).integers(0, 256, (4, 3, 4, 5), dtype=np.uint8)
    labels = np.array([0, 0, 1, 1])
    one, other = (
        load_from(write_archive(tmp_path / name, x=x, y=labels), input_shape=input_shape, resize=resize)
        for name, x in (("first.npz", first), ("last.npz", first.transpose(0, 2, 3, 1)))
    )
    assert one.train.images.shape == (2, *input_shape)
    assert one.digest == other.digest


def test_the_input_shape_settles_what_channels_alone_cannot(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 3), dtype=np.uint8)
    path = write_archive(tmp_path / "data.npz", x=images, y=[0, 0, 1, 1])
    first, last = (load_from(path, input_shape=shape) for shape in ((3, 5, 3), (3, 3, 5)))
    assert first.train.images.shape[1:] == (3, 5, 3)
    assert last.train.images.shape[1:] == (3, 3, 5)
    with pytest.raises(DataError, match=r"got \[N, 3, 5, 3\], which can be read either way"):
        load_from(path, input_shape=(3, 8, 8), resize="crop")


GOOD = {"x": numbered(4, 4, 5), "y": np.array([0, 0, 1, 1])}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (GOOD | {"x": GOOD["x"] / 255}, r"'x': expected uint8 .*got float64 \[4, 4, 5\]\. Save uint8"),
        (GOOD | {"x": GOOD["x"].astype(int)}, "got int64.*Save uint8"),
        (GOOD | {"x": GOOD["x"].reshape(4, 20)}, r"'x': expected images as \[N, H, W\].*got uint8 \[4, 20\]"),
        (
            GOOD | {"y": np.array([0.0, 0, 1, 1])},
            r"'y': expected labels as integers \[N\].*got float64 \[4\]",
        ),
        (GOOD | {"y": np.eye(4, dtype=int)}, r"'y': expected labels as integers \[N\].*got int64 \[4, 4\]"),
        (GOOD | {"y": np.array([0, 1, 1])}, "expected one label for each image, got 4 images, 3 labels"),
        (GOOD | {"y": np.array([-1, 0, 1, 1])}, "'y': expected labels from 0, got -1 at image 0"),
        (GOOD | {"y": np.array([0, 0, 2, 2])}, "at least one image to train on, none found for '1'"),
        (GOOD | {"y": np.array([0, 1, 1, 10**12])}, "got the label 1000000000000 among 4 images"),
        (GOOD | {"class_names": np.array(["a"])}, "'y': expected labels 0 to 0, .*got 0 to 1"),
        (GOOD | {"class_names": np.array(["a", "b", "c"])}, "none found for 'c'"),
        (GOOD | {"class_names": np.array(["a", "a"])}, r"class names that differ, got \['a', 'a'\]"),
        (GOOD | {"class_names": np.array([1, 2])}, r"'class_names': expected text \[K\], got int64 \[2\]"),
        (GOOD | {"class_names": np.array(["a", 2], object)}, r"plain arrays, .*'class_names\.npy'"),
        (GOOD | {"x_test": GOOD["x"]}, "'y_test': expected the number of each image's class, got none"),
        (GOOD | {"x_test": GOOD["x"], "y_test": [0, 0, 1, 2]}, "'y_test': expected labels 0 to 1"),
        (GOOD | {"x_test": numbered(2, 5, 5), "y_test": [0, 1]}, r"'x_test': expected 4x5 .*got 5x5 \(all 2"),
        (
            GOOD | {"images": GOOD["x"]},
            "under one of x_train/y_train, .*, images/labels, x/y, got the keys x, y, im",
        ),
        ({"pictures": GOOD["x"]}, "got the keys pictures"),
        ({"y": GOOD["y"]}, "expected the keys 'x' and 'y' together, got no 'x'"),
        ({"x_test": GOOD["x"], "y_test": GOOD["y"]}, "expected images to train on, got only those of test"),
        (GOOD | {"x": numbered(4, 4, 5, 2)}, r"expected images of 1 channel\(s\), got 2"),
    ],
)
def test_archives_of_other_content_are_refused(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load_from(write_archive(tmp_path / "data.npz", **arrays), input_shape=(1, 4, 5))


def test_what_stands_beside_images_and_labels_in_an_archive_may_be_of_any_kind(tmp_path):
    beside = {"taken": np.array(["2026-01-01"], "M8[D]"), "notes": np.array([{}], object)}
    splits = load_from(write_archive(tmp_path / "data.npz", **GOOD, **beside), input_shape=(1, 4, 5))
    assert splits.class_names == ("0", "1")


def test_a_damaged_archive_is_refused(tmp_path):
    path = write_archive(tmp_path / "data.npz", **GOOD)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"data\.npz: expected a NumPy archive of plain arrays"):
        load_from(path, input_shape=(1, 4, 5))
    np.save(tmp_path / "array.npy", GOOD["x"])
    with pytest.raises(DataError, match=r"array\.npy: expected the number of each image's class, got none"):
        load_from(tmp_path / "array.npy", input_shape=(1, 4, 5))


# The digits


def test_the_digits_are_the_real_ones_and_their_test_set_is_everyones():
    one, other = (load_from("digits", input_shape=(1, 8, 8), seed=seed) for seed in (0, 1))
    assert one.class_names == tuple("0123456789")
    assert len(one.train) + len(one.val) + len(one.test) == 1797
    assert len(one.test) == 359
    assert min(one.test.labels.bincount().tolist()) >= 34
    assert torch.equal(one.test.images, other.test.images)
    assert not torch.equal(one.val.images, other.val.images)
    assert set(one.train.images.unique().tolist()) == {round(v * 255 / 16) for v in range(17)}


def test_the_digits_can_be_coloured_and_resized():
    splits = load_from("digits", input_shape=(3, 16, 16), resize="stretch", limit=30)
    assert splits.train.images.shape == (30, 3, 16, 16)
    assert torch.equal(splits.train.images[:, 0], splits.train.images[:, 2])
    with pytest.raises(DataError, match=r"digits: expected 28x28 pixels .*got 8x8 \(all 1,797 images\)"):
        load_from("digits", input_shape=(1, 28, 28))


# What is handed over


def part(count=4, *, size=2, top=1):
    labels = torch.arange(count) % (top + 1)
    return LabelledImages(
        images=torch.arange(count * size**2).reshape(-1, 1, size, size).byte(), labels=labels
    )


def test_labelled_images_can_be_counted_and_selected():
    images = part(4)
    chosen = images.select(torch.tensor([3, 0]))
    assert len(chosen) == 2
    assert chosen.labels.tolist() == [1, 0]
    assert torch.equal(chosen.images, images.images[[3, 0]])


def test_labelled_images_are_read_row_by_row():
    images = part(4)
    assert images.image_shape == tuple(images.images.shape[1:])
    assert torch.equal(images.read(torch.tensor([2, 0, 2])), images.images[[2, 0, 2]])
    assert images.read(torch.tensor([], dtype=torch.long)).shape == (0, *images.image_shape)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            torch.zeros(2, 1, 2, 2),
            torch.zeros(2).long(),
            r"expected images as uint8 .*got float32 \[2, 1, 2, 2\]",
        ),
        (torch.zeros(2, 2, 2).byte(), torch.zeros(2).long(), r"got uint8 \[2, 2, 2\]"),
        (
            torch.zeros(2, 1, 2, 2).byte(),
            torch.zeros(2),
            r"expected labels as int64 \[N\], got float32 \[2\]",
        ),
        (torch.zeros(2, 1, 2, 2).byte(), torch.zeros(3).long(), "got 2 images and 3 labels"),
    ],
)
def test_labelled_images_of_other_types_are_refused(images, labels, message):
    with pytest.raises(DataError, match=message):
        LabelledImages(images=images, labels=labels)


def test_splits_that_do_not_fit_together_are_refused():
    with pytest.raises(DataError, match=r"every image to be \[1, 2, 2\] .*got \[1, 3, 3\]"):
        ImageSplits(train=part(), val=part(size=3), test=None, class_names=("a", "b"), digest="")
    with pytest.raises(DataError, match=r"expected labels 0 to 1, .*got 0 to 2"):
        ImageSplits(train=part(), val=part(top=2), test=None, class_names=("a", "b"), digest="")


def test_the_digest_tells_images_labels_and_names_apart(tmp_path):
    def digest(**changes):
        arrays = GOOD | {"x_test": GOOD["x"], "y_test": GOOD["y"], "class_names": np.array(["a", "b"])}
        path = write_archive(tmp_path / "data.npz", **(arrays | changes))
        return load_from(path, input_shape=(1, 4, 5)).digest

    digests = {
        digest(),
        digest(x_test=GOOD["x"] + 1),
        digest(y_test=1 - GOOD["y"]),
        digest(class_names=np.array(["a", "c"])),
        digest(x_test=GOOD["x"][:3], y_test=GOOD["y"][:3]),
    }
    assert len(digests) == 5
    assert digest() in digests
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in digests)


def test_a_class_with_a_name_that_steers_a_terminal_is_told_before_any_training(tmp_path):
    for name in ("cat", "a\tb"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{number}.png")
    with pytest.raises(DataError, match="rename their folders"):
        load_images(tmp_path, input_shape=(3, 8, 8), seed=0, val_fraction=0.3)
