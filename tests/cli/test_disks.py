"""A disk that is full, or may not be written to, is told in one line: before the work, or with the way on."""

import os
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")

from exports import model_of  # noqa: E402
from full_disk import files_of_at_most  # noqa: E402
from scored_bundle import images_of, scored_bundle  # noqa: E402
from small_networks import MODELS, residual  # noqa: E402

from s2dnas_deploy import plan as plans  # noqa: E402
from s2dnas_deploy.bundle.bundle import load_bundle  # noqa: E402
from s2dnas_deploy.cli import main  # noqa: E402
from s2dnas_deploy.workshop.network.model_file import load_model, save_model  # noqa: E402

DATA = "--normalize data --data digits --augment none --limit 60"
NETWORK = f"--model {MODELS}/digits_cnn.py:digits_cnn --input 1x8x8 {DATA}"
TRAIN = f"train {NETWORK} --plan static --epochs 1 --quiet --out"
GOES_ON = "cannot be written: File too large; make room, and the same command, without --restart, goes on"


def s2dnas(words, *more):
    return CliRunner().invoke(main, [*words.split(), *map(str, more)])


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    static = residual()
    save_model(model_of(static, plans.from_text("uniform:0.5,0.5", static.divisible.space)), path)
    return path


def said_in_one_line(result, code, *parts):
    assert result.exit_code == code, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in line


# --- full --------------------------------------------------------------------------------------------------


def test_a_training_goes_on_once_there_is_room(tmp_path):
    with files_of_at_most(100_000):  # enough for the log and the plot, not for a checkpoint
        said_in_one_line(s2dnas(TRAIN, tmp_path / "m.pt"), 1, "m.run/checkpoint.pt", GOES_ON)
    assert s2dnas(TRAIN, tmp_path / "m.pt").exit_code == 0
    load_model(tmp_path / "m.pt")
    assert sorted(path.name for path in (tmp_path / "m.run").iterdir()) == ["accuracy.svg", "metrics.jsonl"]


@pytest.mark.slow
def test_a_search_goes_on_once_there_is_room(tmp_path):
    weights = tmp_path / "static.pt"
    assert s2dnas(TRAIN, weights).exit_code == 0
    words = f"search --weights {weights} {DATA} --stages 2 --target 0.5 --cost macs --evaluations 20"
    words += " --shared-epochs 0 --finalists 0 --epochs 0 --quiet --out"
    with files_of_at_most(4_000):  # enough for some plans
        said_in_one_line(s2dnas(words, tmp_path / "m.pt"), 1, "m.run/plans.jsonl", GOES_ON)
    some = (tmp_path / "m.run" / "plans.jsonl").read_bytes()
    some = some[: some.rfind(b"\n") + 1]
    assert s2dnas(words, tmp_path / "m.pt").exit_code == 0
    assert (tmp_path / "m.run" / "plans.jsonl").read_bytes().startswith(some)


def test_an_export_and_a_calibration_leave_what_was_there(model, tmp_path):
    bundle = scored_bundle(tmp_path / "bundle")
    before = {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()}
    np.savez(tmp_path / "images.npz", images=images_of(np.full((40, 3), 0.5)), labels=np.arange(40))
    again = "cannot be written: File too large; make room, and give the same command again"
    with files_of_at_most(2_000):
        result = s2dnas("export", model, "--out", tmp_path / "bundle", "--quiet")
        said_in_one_line(result, 1, f"{tmp_path}/bundle: the bundle {again}")
    words = f"calibrate --bundle {tmp_path}/bundle {tmp_path}/images.npz --max-drop 50% --quiet"
    with files_of_at_most(1_000):
        said_in_one_line(s2dnas(words), 1, "bundle/manifest.json", again)
        said_in_one_line(s2dnas(words, "--scores", tmp_path / "s.npz"), 1, "s.npz", again)
    after = {path.name: path.read_bytes() for path in (tmp_path / "bundle").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"SHA256SUMS"}  # what was to come, too
    assert load_bundle(tmp_path / "bundle") == bundle
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "images.npz"]


MAKE_ROOM = "cannot be written: File too large; make room, and give the same command again"
PASSING = f"this folder for passing files (TMPDIR names a place for others) {MAKE_ROOM}"


@pytest.mark.parametrize(
    ("words", "size_bytes", "named"),
    [
        ("export {bundle} --triton {here}/repository", 400, "/1/model.onnx: " + MAKE_ROOM),
        ("bench {bundle} --data {images} --noise --quiet", 200, f"/s2dnas-bench-*: {PASSING}"),
        (
            "bench pack {bundle} --data {images} --noise --out {here}/kit.zip",
            200,
            f"/s2dnas-kit-*: {PASSING}",
        ),
        (
            "bench pack {bundle} --data {images} --noise --out {here}/kit.zip",
            1800,
            "/kit/bundle/labels.txt: File too large; make room, and give the same command again",
        ),
        ("export {model} --int8 --data {data} --out {here}/int8", 500, f"/s2dnas-int8-*: {PASSING}"),
    ],
)
def test_what_cannot_be_written_is_named(model, tmp_path, words, size_bytes, named):
    scored_bundle(tmp_path / "bundle")
    images = {"images": images_of(np.full((40, 3), 0.5)), "labels": np.arange(40) % 5}
    np.savez(tmp_path / "images.npz", **images)
    data = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    names = np.array([f"class {k}" for k in range(5)])
    np.savez(tmp_path / "data.npz", x_train=data, y_train=np.arange(40) % 5, class_names=names)
    places = {"bundle": tmp_path / "bundle", "images": tmp_path / "images.npz", "data": tmp_path / "data.npz"}
    with files_of_at_most(size_bytes):
        result = s2dnas(words.format(model=model, here=tmp_path, **places))
    assert result.exit_code == 1, result.output
    said = result.stderr.splitlines()[-1]
    assert fnmatch(said.lower(), f"error: /*{named}".lower().replace("[", "[[]")), said


# --- not to be written to ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("export {model} --out {below}", "--out"),
        ("export {model} --out {here}/b --data digits --held-out {below}", "--held-out"),
        (f"train {NETWORK} --plan static --epochs 0 --out {{below}}.pt", "--out"),
        (f"search {NETWORK} --out {{below}}.pt", "--out"),
        (f"search {NETWORK} --out {{here}}/m.pt --write-probes {{below}}", "--write-probes"),
        ("inspect {model} --picture {below}.svg", "--picture"),
        ("inspect {model} --write-plan {below}.json", "--write-plan"),
        ("bench show {model} --html {below}.html", "--html"),
        ("bench load {here} --data {model} --log {below}", "--log"),
        ("bench pack {here} --data {model} --out {below}.zip", "--out"),
        ("demo --out {below}", "--out"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_found_before_the_work(
    model, tmp_path, monkeypatch, words, option
):
    (tmp_path / "file").write_text("")
    opened, open_ = [], os.open
    monkeypatch.setattr(
        "os.open", lambda path, *how, **more: opened.append(path) or open_(path, *how, **more)
    )
    monkeypatch.setattr(
        "sklearn.datasets.load_digits", lambda *how, **more: pytest.fail("the work had begun")
    )
    result = s2dnas(words.format(model=model, here=tmp_path, below=tmp_path / "file" / "below"))
    said_in_one_line(result, 2, f"cannot write {option} {tmp_path}/file/below")
    assert model not in map(Path, opened), "the work had begun"
