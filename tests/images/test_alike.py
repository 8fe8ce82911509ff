"""Training, running, calibrating and measuring see the same images, in one order, of the same classes."""

import hashlib
import json
from pathlib import Path

import numpy as np
import odd_images
import pytest
from PIL import Image

pytest.importorskip("torch")

import torch
from click.testing import CliRunner
from exports import QUIET, chain_from, export_to
from small_networks import residual

from s2dnas_deploy import plan as plans
from s2dnas_deploy.bench.answers import answer
from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.cli import calibrate, run
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.images.archive import CALIBRATED_ON
from s2dnas_deploy.runtime.answers.inputs import announced, find_items
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.runtime.pictures import Reader
from s2dnas_deploy.workshop.data.labelled import LabelledImages
from s2dnas_deploy.workshop.data.load import load_images
from s2dnas_deploy.workshop.training.batches import normalised

WIDTH, HEIGHT = odd_images.SIZE
SHAPE = (3, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alike") / "bundle"
    static = residual(shape=SHAPE)
    export_to(folder, chain_from(static, plans.from_text("uniform:0.5,0.5", static.divisible.space)))
    return folder


def seen_by_training(part: LabelledImages) -> tuple[str, list[int]]:
    """A digest of all pixels in their order, and the classes."""
    as_graphs_take_them = part.images.permute(0, 2, 3, 1).contiguous().numpy()
    return hashlib.sha256(as_graphs_take_them.data).hexdigest(), part.labels.tolist()


def seen_by_run(bundle: Path, place: Path) -> tuple[str, list[int]]:
    """By the command, whose output names the files; archives have no files."""
    result = CliRunner().invoke(run, ["--bundle", str(bundle), str(place)])
    assert result.exit_code == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    with Cascade.load(bundle) as cascade:
        sources = {item.name: item.source for item in find_items([str(place)], cascade.labels).images}
        images = cascade.reader.batch([sources[record["file"]] for record in records])
        truth = [cascade.labels.index(record["truth"]) for record in records]
    return hashlib.sha256(np.ascontiguousarray(images).data).hexdigest(), truth


def seen_by_calibrate(bundle: Path, place: Path, scores: Path) -> tuple[str, list[int]]:
    words = [
        "--bundle",
        str(bundle),
        str(place),
        "--scores",
        str(scores),
        "--target-macs",
        "1000G",
        "--dry-run",
    ]
    result = CliRunner().invoke(calibrate, words)
    assert scores.exists(), result.output
    kept = ExitScores.load(scores)
    return kept.images, kept.truth.tolist()


def seen_by_bench(bundle: Path, place: Path) -> tuple[str, list[int]]:
    with Cascade.load(bundle) as cascade:
        items = announced(find_items([str(place)], cascade.labels), QUIET)
        scores = answer(cascade, items, QUIET).scores
    return scores.images, scores.truth.tolist()


def save(path: Path, seed: int, form: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(odd_images.saved(odd_images.picture(seed), form))


def odd_tree(root: Path, beside: Path) -> None:
    """Every odd name that a folder of classes may have."""
    first = root / "class 0"
    for seed, name in enumerate(
        ("plain.png", "UPPER.JPG", "Mixed.JpEg", "no ending", "ümläut 猫.JPEG", "zz.bmp")
    ):
        save(first / name, seed, "JPEG" if name.lower().endswith(("jpg", "jpeg")) else "PNG")
    save(first / "nested" / "deep" / "a.png", 10)
    save(first / "nested" / "b.png", 11)
    save(first / "class 1" / "of class 0 all the same.png", 12)
    for seed, name in enumerate((".hidden.png", "._UPPER.JPG", ".cache/x.png", "@eaDir/UPPER.JPG/thumb.jpg")):
        save(first / name, 20 + seed)
    for name in ("notes.txt", "Thumbs.db", ".DS_Store", "desktop.ini", "image.heic"):
        (first / name).write_bytes(b"\xd0\xcf\x11\xe0 no picture")
    save(beside / "linked" / "c.png", 30)
    save(beside / "linked" / "b" / "d.png", 31)
    (root / "class 1").symlink_to(beside / "linked")
    (beside / "linked" / "circle").symlink_to(root)
    save(root / "class 2" / "e.png", 40)
    save(beside / "other.png", 41)
    (root / "class 2" / "f.png").symlink_to(beside / "other.png")
    (root / "class 2" / "again").symlink_to(beside / "linked")
    for k in (3, 4):
        save(root / f"class {k}" / "g.png", 50 + k)
    save(root / "__MACOSX" / "class 0" / "plain.png", 60)
    save(root / ".thumbnails" / "plain.png", 61)


EXPECTED = [
    "class 0/Mixed.JpEg",
    "class 0/UPPER.JPG",
    "class 0/no ending",
    "class 0/plain.png",
    "class 0/zz.bmp",
    "class 0/ümläut 猫.JPEG",
    "class 0/class 1/of class 0 all the same.png",
    "class 0/nested/b.png",
    "class 0/nested/deep/a.png",
    "class 1/c.png",
    "class 1/b/d.png",
    "class 2/e.png",
    "class 2/f.png",
    "class 3/g.png",
    "class 4/g.png",
]


def test_a_folder_of_odd_names_is_the_same_to_all_commands(bundle, tmp_path):
    train = tmp_path / "data" / "train"
    odd_tree(train, tmp_path / "beside")
    for k in range(5):
        save(tmp_path / "data" / "val" / f"class {k}" / "x.png", 70 + k)
    expected = seen_by_training(load_images(str(tmp_path / "data"), input_shape=SHAPE, seed=0).train)
    assert expected[1] == [int(name[len("class ")]) for name in EXPECTED]
    items = find_items([str(train)], [f"class {k}" for k in range(5)])
    assert [item.name for item in items.images] == [f"{train}/{name}" for name in EXPECTED]
    assert items.notes == ("files that are no images, passed over: 7",)
    assert seen_by_run(bundle, train) == expected
    assert seen_by_calibrate(bundle, train, tmp_path / "scores.npz") == expected
    assert seen_by_bench(bundle, train) == expected


def test_the_folder_of_a_part_is_no_class_and_the_first_folder_below_is(tmp_path):
    classes = ["cat", "dog", "train"]
    for path in (
        "train/cat/dog/a.png",
        "train/dog/b.png",
        "train/c.png",
        "dog/train/d.png",
        "other/cat/e.png",
    ):
        save(tmp_path / path, 0)
    truth = {Path(item.name).name: item.truth for item in find_items([str(tmp_path)], classes).images}
    assert truth == {"a.png": "cat", "b.png": "dog", "c.png": "train", "d.png": "dog", "e.png": "cat"}
    (alone,) = find_items([str(tmp_path / "train" / "cat" / "dog" / "a.png")], classes).images
    assert alone.truth == "dog"
    inside = find_items([str(tmp_path / "train" / "cat")], ["cat"]).images
    assert [item.truth for item in inside] == ["cat"]


def arrays_of(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8), np.arange(count) % 5


@pytest.mark.parametrize("keys", ["x_{0} y_{0}", "{0}_images {0}_labels"])
@pytest.mark.parametrize(
    "layout",
    [lambda x: x, lambda x: x.transpose(0, 3, 1, 2), lambda x: x[..., 0], lambda x: x[..., :1]],
    ids=["channels last", "channels first", "grey", "grey of one channel"],
)
def test_an_archive_is_the_same_to_all_commands(bundle, tmp_path, keys, layout):
    arrays = {}
    for seed, part in enumerate(("train", "val", "test")):
        images, labels = arrays_of(10, seed)
        arrays |= dict(zip(keys.format(part).split(), (layout(images), labels[:, None]), strict=True))
    path = tmp_path / "data.npz"
    np.savez(path, class_names=[f"class {k}" for k in range(5)], **arrays)
    splits = load_images(str(path), input_shape=SHAPE, seed=0)
    for place, part in (
        (path, splits.test),
        (Path(f"{path}:val"), splits.val),
        (Path(f"{path}:TRAIN"), splits.train),
    ):
        assert seen_by_run(bundle, place) == seen_by_training(part)
    assert seen_by_calibrate(bundle, path, tmp_path / "scores.npz") == seen_by_training(splits.val)
    assert seen_by_bench(bundle, path) == seen_by_training(splits.test)


@pytest.mark.parametrize("resize", ["crop", "crop:0.875:bicubic"])
def test_large_turned_photos_are_the_same_bytes_in_training_and_on_a_device(tmp_path, resize):
    preprocessing = Preprocessing(
        input_shape=(3, 20, 24), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=resize
    )
    for k in range(2):
        for orientation in (1, 6):
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = tmp_path / f"class {k}" / f"{orientation}.jpg"
            path.parent.mkdir(exist_ok=True)
            odd_images.picture(k).resize((405, 303)).save(path, exif=exif)
    wanted = {"input_shape": preprocessing.input_shape, "seed": 0, "resize": resize}
    splits = load_images(str(tmp_path), val_fraction=0.5, **wanted)
    trained_on = torch.cat([splits.train.images, splits.val.images])
    files = [item.source for item in find_items([str(tmp_path)], ()).images]

    class Wanted:
        image_type, image_shape = "uint8", (20, 24, 3)

    Wanted.preprocessing = preprocessing
    read = Reader(Wanted).batch(files).transpose(0, 3, 1, 2)
    assert {image.tobytes() for image in trained_on.numpy()} == {image.tobytes() for image in read}
    Wanted.image_type, Wanted.image_shape = "float32", (3, 20, 24)
    floats = normalised(torch.from_numpy(np.ascontiguousarray(read)), preprocessing, torch.device("cpu"))
    np.testing.assert_array_equal(Reader(Wanted).batch(files), floats.numpy())


def test_the_part_that_is_taken_of_an_archive_is_said(tmp_path):
    images, labels = arrays_of(5, 0)
    path, classes = tmp_path / "data.npz", [str(k) for k in range(5)]
    np.savez(path, x_train=images, y_train=labels, x_test=images[:2], y_test=labels[:2])
    found = find_items([str(path)], classes)
    assert found.notes == (f"{path}: its test images are taken; the others are {path}:train",)
    assert [item.name for item in found.images] == [f"{path}[0]", f"{path}[1]"]
    asked = find_items([f"{path}:train"], classes)
    assert (len(asked.images), asked.images[4].name, asked.notes) == (5, f"{path}:train[4]", ())
    (missing,) = find_items([f"{path}:val"], classes).images
    assert str(missing.source) == f"{path}: expected a part 'val', got only train, test"
    np.savez(path, x=images, y=labels, x_val=images[:3], y_val=labels[:3])
    assert len(find_items([str(path)], classes).images) == 3


def test_thresholds_are_chosen_on_validation_images_and_judged_on_others(tmp_path):
    images, labels = arrays_of(5, 0)
    path, classes = tmp_path / "data.npz", [str(k) for k in range(5)]
    parts = {"x_train": images, "x_val": images[:3], "x_test": images[:2]}
    truths = {"y_train": labels, "y_val": labels[:3], "y_test": labels[:2]}
    np.savez(path, **parts, **truths)
    assert len(find_items([str(path)], classes).images) == 2
    assert len(find_items([str(path)], classes, parts=CALIBRATED_ON).images) == 3


def test_classes_that_an_archive_names_go_by_name(tmp_path):
    images, labels = arrays_of(2, 0)
    path = str(tmp_path / "data.npz")
    np.savez(path, images=images, labels=labels, class_names=["dog", "cat"])
    assert [item.truth for item in find_items([path], ["cat", "dog", "owl"]).images] == ["dog", "cat"]
    (refused,) = find_items([path], ["cat", "owl"]).images
    assert "expected classes that the bundle knows, got ['dog']" in str(refused.source)
