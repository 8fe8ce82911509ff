"""Batches: the same whoever makes them, of pictures that stay on disk as of those in memory."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import TrainingError, UnreadableError
from s2dnas_deploy.images.picture_file import planes_in
from s2dnas_deploy.images.pixels import InputFormat
from s2dnas_deploy.workshop.data.augment import part_for
from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.training.batches import Batches
from s2dnas_deploy.workshop.training.first_words import waiting_words
from s2dnas_deploy.workshop.training.settings import Settings

SHAPE = (3, 24, 24)
PREPROCESSING = Preprocessing(input_shape=SHAPE, mean=(0.5,) * 3, std=(0.25,) * 3, resize="crop")
EVERYTHING = "resized-crop,colour,randaugment,flip"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of JPEGs of two classes, of several sizes."""
    root, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label in "ab":
        (root / label).mkdir()
        for number in range(12):
            size = (int(draw.integers(60, 200)), int(draw.integers(60, 200)))
            coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            coarse.resize(size, Image.Resampling.BICUBIC).save(root / label / f"{number}.jpg", quality=90)
    return root


def splits_of(root, *, on_disk=True):
    return load_images(str(root), input_shape=SHAPE, seed=0, val_fraction=0.2, resize="crop", on_disk=on_disk)


def made(images, steps, **settings):
    batches = Batches(images, PREPROCESSING, Settings(epochs=None, batch_size=5, **settings), CPU)
    try:
        return [batches.at(step) for step in steps]
    finally:
        batches.close()


def alike(ones, others):
    return all(
        torch.equal(images, other_images) and torch.equal(labels, other_labels)
        for (images, labels), (other_images, other_labels) in zip(ones, others, strict=True)
    )


@pytest.mark.parametrize("augment", ["none", "crop,flip", EVERYTHING])
@pytest.mark.parametrize("on_disk", [True, False])
def test_the_same_seed_makes_the_same_batches_whoever_makes_them(photos, augment, on_disk):
    train = splits_of(photos, on_disk=on_disk).train
    here = made(train, range(9), augment=augment, workers=0)
    for workers in (1, 3):
        assert alike(made(train, range(9), augment=augment, workers=workers), here)
    assert augment == "none" or not alike(made(train, range(9), augment=augment, workers=0, seed=1), here)


def test_a_run_that_begins_later_or_jumps_sees_the_batches_of_those_steps(photos):
    train = splits_of(photos).train
    whole = made(train, range(8), augment=EVERYTHING, workers=2)
    assert alike(made(train, range(5, 8), augment=EVERYTHING, workers=2), whole[5:])
    jumps = [0, 6, 7, 2, 3]
    assert alike(made(train, jumps, augment=EVERYTHING, workers=2), [whole[step] for step in jumps])


@pytest.mark.parametrize("augment", ["none", "crop,flip"])
def test_on_disk_they_are_what_they_are_in_memory_unless_parts_are_cut_out(photos, augment):
    on_disk, in_memory = (splits_of(photos, on_disk=each).train for each in (True, False))
    batches = [made(images, range(6), augment=augment) for images in (on_disk, in_memory)]
    assert alike(*batches)


def test_a_part_is_cut_out_of_the_whole_photo_and_not_out_of_what_the_network_would_see(photos):
    path, drawn = str(photos / "a" / "0.jpg"), np.array([0.0, 0.5, 0.0, 0.0])
    files = splits_of(photos).train.images.files
    place = next(place for place in range(24) if files.path(place) == path)
    out = np.empty((1, *SHAPE), np.uint8)
    files.decode(np.array([place]), out, [part_for(drawn)])
    (cut,) = out
    with Image.open(path) as whole:
        box = part_for(drawn)(*whole.size)
        assert box[:2] == (0, 0)
        expected = whole.resize((24, 24), Image.Resampling.BILINEAR, box)
    # A JPEG decoded smaller differs by as much as another filter would make it differ.
    assert np.abs(cut.transpose(1, 2, 0).astype(int) - np.asarray(expected).astype(int)).mean() < 4


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_part_of_a_photo_on_its_side_is_that_of_the_photo_upright(tmp_path, orientation):
    smooth = Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    smooth.resize((360, 240), Image.Resampling.BICUBIC).save(path, quality=95, exif=exif)
    wanted = InputFormat(channels=3, height=24, width=24, resize="stretch")
    part = part_for(np.array([0.2, 0.3, 0.7, 0.1]))
    upright = tmp_path / "upright.png"
    with Image.open(path) as image:
        ImageOps.exif_transpose(image).save(upright)
    ones, others = (planes_in(str(each), wanted, part).astype(int) for each in (path, upright))
    assert np.abs(ones - others).mean() < 3


def test_a_photo_that_is_cut_off_ends_the_run_with_its_name(photos, tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        for path in sorted((photos / label).iterdir()):
            (tmp_path / label / path.name).write_bytes(path.read_bytes())
    train = splits_of(tmp_path).train
    broken = Path(train.images.files.path(int(train.images.positions[3])))
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    for workers in (0, 2):
        with pytest.raises(UnreadableError) as caught:
            made(train, range(4), augment=EVERYTHING, workers=workers)
        assert [file for file, _ in caught.value.files] == [str(broken)]


def test_a_process_that_dies_is_told_and_not_waited_for(photos):
    batches = Batches(
        splits_of(photos).train, PREPROCESSING, Settings(epochs=None, batch_size=5, workers=1), CPU
    )
    try:
        batches.at(0)
        for worker in batches._crew._workers:
            worker._process.kill()
        with pytest.raises(TrainingError, match=r"ended with -9.*--workers 0 decodes without"):
            list(map(batches.at, range(1, 6)))
    finally:
        batches.close()


RUN_OF_ITS_OWN = """
import sys, torch
from s2dnas_deploy.workshop.training.batches import Batches
from s2dnas_deploy.workshop.training.settings import Settings
sys.path.insert(0, sys.argv[2])
from test_batches import PREPROCESSING, splits_of
train, settings = splits_of(sys.argv[1]).train, Settings(epochs=None, workers=2)
batches = Batches(train, PREPROCESSING, settings, torch.device("cpu"))
batches.at(0)
print(*(worker._process.pid for worker in batches._crew._workers), flush=True)
sys.stdin.read()
"""


def test_processes_end_when_the_one_that_started_them_is_killed(photos):
    run = subprocess.Popen(
        [sys.executable, "-c", RUN_OF_ITS_OWN, str(photos), str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    workers = [int(each) for each in run.stdout.readline().split()]
    assert len(workers) == 2
    run.send_signal(signal.SIGKILL)
    run.wait()
    until = time.monotonic() + 20
    while any(_is_running(worker) for worker in workers):
        assert time.monotonic() < until, "a process outlives its run"
        time.sleep(0.05)


def _is_running(pid):
    """Whether it is there and not merely unburied."""
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_processes_need_no_torch():
    code = "import sys, s2dnas_deploy.workshop.data.worker; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


def test_waiting_is_told_where_images_take_time(photos):
    splits, settings = splits_of(photos), Settings(epochs=None, batch_size=5)
    for images, augment, is_told in (
        (splits.train, "none", True),
        (splits.train.in_memory(), "flip", False),
        (splits.train.in_memory(), "colour", True),
    ):
        batches = Batches(images, PREPROCESSING, replace(settings, augment=augment, workers=0), CPU)
        assert batches.waited is None
        for step in range(3):
            batches.at(step)
        assert (batches.waited is not None) == is_told
    waited = replace(batches.waited, share=0.123, workers=2)
    assert waiting_words(waited).startswith("training waited for images 12.3% of the time; more --workers")
    assert waiting_words(replace(waited, share=0.09)) == "training waited for images 9.0% of the time"
