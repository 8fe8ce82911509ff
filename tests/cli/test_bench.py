"""`s2dnas-bench` from the command line: a small bundle measured, compared, packed and put under load."""

import base64
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("torch")

import onnx
from exports import chain_from, export_to, model_of, pixels
from made_up_report import made_up_report
from small_networks import residual

from s2dnas_deploy import plan as plans
from s2dnas_deploy.bench.crew import Crew
from s2dnas_deploy.bench.loadgen import Load
from s2dnas_deploy.bench.measure import MeasureRequest, exported_with
from s2dnas_deploy.bench.report import Report
from s2dnas_deploy.bench.workers.subjects import YARDSTICKS
from s2dnas_deploy.bundle.bundle import load_bundle, static_beside
from s2dnas_deploy.cli import bench, export, run
from s2dnas_deploy.cli import main as group
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.sessions.every_stage import StageSession, run_chain
from s2dnas_deploy.workshop.network.model_file import save_model

SIZE = 12
SHORT = ("--seconds", 0.4, "--processes", 2, "--threads", 1)
SHORTEST = ("--seconds", 0.1, "--processes", 1, "--threads", 1)  # where no time is looked at


def command(which, *arguments):
    return CliRunner().invoke(which, [str(argument) for argument in arguments])


def smooth(count: int, seed: int) -> np.ndarray:
    """Images whose neighbours are alike, as in photographs."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    large = [Image.fromarray(each).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for each in coarse]
    return np.stack([np.asarray(each) for each in large])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Three stages with an image leaving at every exit, and the static network beside it."""
    folder = tmp_path_factory.mktemp("measured")
    static = residual(shape=(3, SIZE, SIZE))
    chain = chain_from(static, plans.from_text("uniform:0.25,0.25,0.5", static.divisible.space))
    first = export_to(folder / "b", chain)
    answers = run_chain([StageSession(graph) for graph in first.graphs], smooth(200, 0))
    thresholds = tuple(float(np.median(answer.confidence)) for answer in answers[:2])
    whole = model_of(static, plans.static(static.divisible.space))
    save_model(whole, folder / "static.pt")
    save_model(
        model_of(static, plans.from_text("uniform:0.25,0.25,0.5", static.divisible.space)), folder / "m.pt"
    )
    threshold = ",".join(map(repr, thresholds))
    result = command(
        export,
        folder / "m.pt",
        "--out",
        folder / "b",
        "--static-model",
        folder / "static.pt",
        "--threshold",
        threshold,
    )
    assert result.exit_code == 0, result.output
    return folder / "b"


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """120 labelled pictures."""
    root = tmp_path_factory.mktemp("images")
    for i, image in enumerate(smooth(120, 1)):
        place = root / f"class {i % 5}"
        place.mkdir(exist_ok=True)
        Image.fromarray(image).save(place / f"{i:03}.png")
    return root


@pytest.fixture(scope="module")
def measured(bundle, images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    result = command(
        bench, bundle, "--data", images, *SHORT, "--batch", "1,4",
        "--out", folder / "r.json", "--html", folder / "r.html", "--csv", folder / "r.csv",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert [f"wrote {folder}/r.{form}" for form in ("json", "csv", "html")] == result.stderr.splitlines()[-3:]
    (folder / "table.txt").write_text(result.stdout)
    return folder


def test_an_interrupted_sweep_keeps_what_is_finished(bundle, images, tmp_path, monkeypatch):
    whole, asked = Crew.warm, []

    def second_is_interrupted(crew, configuration, reporter):
        asked.append(configuration)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return whole(crew, configuration, reporter)

    monkeypatch.setattr(Crew, "warm", second_is_interrupted)
    result = command(
        bench, bundle, "--data", images, *SHORTEST, "--batch", "1,4,8", "--out", tmp_path / "r.json"
    )
    assert result.exit_code == 130
    assert "batch 1" in result.stdout
    assert [run.batch for run in Report.load(tmp_path / "r.json").runs] == [1]


def test_the_record_has_every_subject_in_every_setting(measured):
    report = Report.load(measured / "r.json")
    assert [(each.provider, each.threads, each.batch) for each in report.runs] == [
        ("cpu", 1, 1),
        ("cpu", 1, 4),
    ]
    for each in report.runs:
        assert set(each.subjects) == {"cascade", "exit 0", "exit 1", "exit 2", "static", *YARDSTICKS}
        assert [len(processes) for processes in each.subjects.values()] == [2] * 7
        lengths = {name: [len(blocks) for blocks in taken] for name, taken in each.subjects.items()}
        assert len({tuple(each) for each in lengths.values()}) == 1, "subjects were timed in the same blocks"
        assert len(each.stages) == 3
        assert min(ms for taken in each.subjects.values() for p in taken for b in p for ms in b) > 0
    assert set(report.cold) == {"cascade", "static"}
    for cold in report.cold.values():
        assert min(*cold.libraries, *cold.network, *cold.first, *cold.second) > 0
        assert min(cold.peak_bytes) > 10 * 2**20
    assert report.measured.static_macs > sum(report.measured.stage_macs) / 2
    assert report.environment.versions["onnxruntime"]


def test_exits_are_shared_out_as_by_the_run_command(measured, bundle, images):
    answers = Report.load(measured / "r.json").answers
    lines = [json.loads(line) for line in command(run, "--bundle", bundle, images).stdout.splitlines()]
    assert answers.counts == tuple(sum(line["exit"] == k for line in lines) for k in range(3))
    assert answers.images == len(lines) == 120
    assert answers.cascade_accuracy == sum(line["label"] == line["truth"] for line in lines) / 120
    assert min(answers.counts) > 0


def test_the_slower_exits_take_longer(measured):
    """Not how long: that three stages take longer than one, in the same blocks."""
    first = Report.load(measured / "r.json").runs[0]
    zero, two = (
        np.median(np.concatenate([np.ravel(p) for p in first.subjects[f"exit {k}"]])) for k in (0, 2)
    )
    assert zero < two


def test_some_images_of_each_exit_are_kept_in_little_room(measured, images):
    report = Report.load(measured / "r.json")
    taken = {k for k, count in enumerate(report.answers.counts) if count}
    assert {example.exit for example in report.examples} == taken
    assert len(taken) <= len(report.examples) <= 24
    assert sum(len(example.jpeg) for example in report.examples) < 100_000
    assert {example.truth for example in report.examples} <= {f"class {k}" for k in range(5)}
    pictures = [np.asarray(Image.open(path), np.int16) for path in images.rglob("*.png")]
    for example in report.examples:
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(example.jpeg))), np.int16)
        assert (
            min(np.abs(shown - picture).mean() for picture in pictures if picture.shape == shown.shape) < 12
        )
        assert example.jpeg in (measured / "r.html").read_text()


def test_views_are_written_and_shown_again(measured, tmp_path):
    assert "</html>" in (measured / "r.html").read_text()
    with (measured / "r.csv").open() as file:
        assert {row["subject"] for row in csv.DictReader(file)} >= {"cascade", "exit 2", "static", "stage 0"}
    written = ["--html", tmp_path / "again.html", "--csv", tmp_path / "again.csv"]
    again = command(bench, "show", measured / "r.json", *written)
    assert again.exit_code == 0, again.output
    assert again.stderr == f"wrote {tmp_path}/again.csv\nwrote {tmp_path}/again.html\n"
    assert again.stdout == (measured / "table.txt").read_text()
    assert (tmp_path / "again.html").read_text() == (measured / "r.html").read_text()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_the_page_without_errors(measured, tmp_path, width):
    picture = tmp_path / "page.png"
    words = (
        f"chromium --headless --no-sandbox --disable-gpu --enable-logging=stderr --window-size={width},3000"
    )
    offline, shot = "--host-resolver-rules=MAP * ~NOTFOUND", f"--screenshot={picture}"
    command = [*words.split(), offline, shot, (measured / "r.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    pixels = np.asarray(Image.open(picture).convert("L"))
    assert pixels.shape[1] == width
    assert pixels.std() > 10, "an empty page"


def test_a_measurement_is_like_itself_and_a_slower_one_is_not(measured, tmp_path):
    same = command(bench, "compare", measured / "r.json", measured / "r.json")
    assert same.exit_code == 0, same.output
    assert "slower" not in same.stdout
    before, after = tmp_path / "before.json", tmp_path / "after.json"  # made up: no clock has a say here
    before.write_text(made_up_report(0).to_json())
    after.write_text(made_up_report(1, factors={"cascade": 1.1}).to_json())
    slow = command(bench, "compare", before, after, "--fail-above", "5%")
    assert slow.exit_code == 1
    assert "slower, by more than 5%" in slow.stdout
    assert command(bench, "compare", after, before).exit_code == 0
    assert command(bench, "compare", before, after, "--fail-above", "20%").exit_code == 0


def test_other_images_are_not_compared(measured, tmp_path):
    document = json.loads((measured / "r.json").read_text())
    document["measured"]["images_digest"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(document))
    result = command(bench, "compare", measured / "r.json", tmp_path / "other.json")
    assert result.exit_code == 2
    assert "other images" in result.stderr
    assert "--force" in result.stderr
    forced = command(bench, "compare", measured / "r.json", tmp_path / "other.json", "--force")
    assert forced.exit_code == 0, forced.output
    assert "note: other images" in forced.stdout


def test_noise_is_refused_unless_meant(bundle, tmp_path):
    static = residual(shape=(3, SIZE, SIZE))
    noise = pixels(chain_from(static, plans.static(static.divisible.space)), 40)
    np.savez(tmp_path / "noise.npz", images=noise)
    refused = command(bench, bundle, "--data", tmp_path / "noise.npz", *SHORTEST)
    assert refused.exit_code == 1
    assert "random noise" in refused.stderr
    taken = command(bench, bundle, "--data", tmp_path / "noise.npz", *SHORTEST, "--noise", "--quiet")
    assert taken.exit_code == 0, taken.output
    assert "–" in taken.stdout, "nothing is known of the classes"


@pytest.mark.slow
def test_without_a_static_network_that_is_said(bundle, images, tmp_path):
    shutil.copytree(bundle, tmp_path / "alone")
    result = command(bench, tmp_path / "alone", "--data", images, *SHORTEST)
    assert result.exit_code == 0, result.output
    assert "give --static model.onnx" in result.stderr
    assert "as fast as" not in result.stdout


def test_the_static_network_of_another_export_is_left_out(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    beside, said = static_beside(copy), []
    hear = SimpleNamespace(say=said.append)
    shutil.copy(static_beside(bundle), beside)
    manifest = load_bundle(copy).manifest
    assert exported_with(copy, manifest, hear) == beside
    beside.write_bytes(beside.read_bytes() + b" ")
    assert exported_with(copy, manifest, hear) is None
    assert "is not the static network that this bundle was exported with" in said[0]
    again = command(export, bundle.parent / "m.pt", "--out", copy)
    assert again.exit_code == 0, again.output
    assert f"{beside} is of an earlier export" in again.stderr


@pytest.mark.slow
def test_a_static_network_as_a_bundle_is_measured_too(bundle, images, tmp_path):
    assert command(export, bundle.parent / "static.pt", "--out", tmp_path / "one").exit_code == 0
    result = command(bench, tmp_path / "one", "--data", images, *SHORTEST, "--html", tmp_path / "one.html")
    assert result.exit_code == 0, result.output
    assert "100.0%" in result.stdout
    assert "</html>" in (tmp_path / "one.html").read_text()


def test_the_bundle_may_be_named_as_for_the_other_commands(bundle, images, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    nowhere = command(bench, "--data", images)
    assert "name it first, by --bundle, or in S2DNAS_BUNDLE" in nowhere.stderr
    twice = command(bench, "--bundle", bundle, images)
    assert twice.exit_code == 2
    assert f"images by --data {images}" in twice.stderr
    wrong = ("--provider", "tensorrt", "--data", images)  # told once the bundle has been read
    assert command(bench, "--bundle", bundle, *wrong).exit_code == 4
    monkeypatch.setenv("S2DNAS_BUNDLE", str(bundle))
    assert command(bench, *wrong).exit_code == 4
    monkeypatch.setenv("S2DNAS_BUNDLE", "gone")
    assert command(bench, bundle, *wrong).exit_code == 4
    monkeypatch.delenv("S2DNAS_BUNDLE")
    monkeypatch.chdir(bundle)
    assert command(bench, *wrong).exit_code == 4


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), 2, "--data images/"),
        (("--data", "nowhere"), 1, "nowhere"),
        (("--data", "IMAGES", "--static", "nowhere.onnx"), 2, "nowhere.onnx: no such file"),
        (("--data", "IMAGES", "--provider", "tensorrt"), 4, "tensorrt"),
        (("--data", "IMAGES", "--batch", "1,0"), 2, "whole numbers from 1 to 65,536"),
        (("--data", "IMAGES", "--batch", "1,65537"), 2, "whole numbers from 1 to 65,536"),
        (("--data", "IMAGES", "--batch", "²"), 2, "whole numbers from 1 to 65,536"),
        (("--data", "IMAGES", "--batch", "9" * 5000), 2, "whole numbers from 1 to 65,536"),
        (("--data", "IMAGES", "--threads", "1,5000"), 2, "whole numbers from 1 to"),
    ],
)
def test_wrong_turns_are_told(bundle, images, arguments, code, told):
    result = command(bench, bundle, *(images if each == "IMAGES" else each for each in arguments))
    assert result.exit_code == code, result.output
    assert told in result.stderr


@pytest.mark.parametrize(("option", "value"), [("--batch", "65537"), ("--threads", "2147483648")])
def test_loads_have_bounds(bundle, images, option, value):
    result = command(group, "bench", "load", bundle, "--data", images, option, value)
    assert result.exit_code == 2
    assert "is not in the range 1<=x<=" in result.stderr


@pytest.mark.parametrize("value", ["nan", "inf", "1e300"])
@pytest.mark.parametrize("words", [[], ["load"]])
def test_a_time_without_end_is_no_time(bundle, images, words, value):
    result = command(group, "bench", *words, bundle, "--data", images, "--seconds", value)
    assert result.exit_code == 2, result.output
    assert "expected a finite number from 0.001 to 86,400 as --seconds" in result.stderr


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"seconds": -1}, "--seconds"),
        ({"processes": 10**9}, "--processes"),
        ({"threads": (1, 2**30)}, "--threads"),
        ({"batches": (0,)}, "--batch"),
    ],
)
def test_a_measurement_that_cannot_work_is_refused_from_python_too(wrong, option):
    with pytest.raises(OptionError, match=f"as {option}, got"):
        MeasureRequest(bundle=Path("bundle"), places=("images",), **wrong)


@pytest.mark.parametrize(("empty", "option"), [("batches", "--batch"), ("providers", "--provider")])
def test_a_measurement_in_no_setting_is_refused_from_python_too(empty, option):
    with pytest.raises(OptionError, match=f"at least one {option} to measure with, got none"):
        MeasureRequest(bundle=Path("bundle"), places=("images",), **{empty: ()})


@pytest.mark.parametrize("words", [[], ["measure"], ["load"], ["pack"]])
def test_images_that_are_named_as_arguments_are_told_their_option(tmp_path, words):
    images = tmp_path / "images"
    images.mkdir()
    given = ["--data", images] if words in (["load"], ["pack"]) else []
    result = command(bench, *words, tmp_path, images, *given)
    assert result.exit_code == 2, result.output
    assert f"expected one bundle, got also {str(images)!r}: images are named by --data" in result.stderr
    assert f"--data {images}" in result.stderr
    assert command(bench, *words, tmp_path, "--nonsense").exit_code == 2


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"seconds": float("nan")}, "--seconds"),
        ({"batch": 2**20}, "--batch"),
        ({"queries_per_second": 0}, "--queries-per-second"),
        ({"within_ms": float("inf")}, "--within-ms"),
    ],
)
def test_a_load_that_cannot_work_is_refused_from_python_too(wrong, option):
    with pytest.raises(OptionError, match=f"as {option}, got"):
        Load(scenario="Server", **wrong)


def test_a_folder_that_is_no_bundle_is_told(tmp_path, images):
    result = command(bench, tmp_path, "--data", images)
    assert result.exit_code == 1
    assert "expected a bundle" in result.stderr


def test_help_is_the_groups(bundle):
    result = command(group, "bench", "--help")
    assert result.exit_code == 0
    assert all(word in result.stdout for word in ("compare", "measure", "pack", "load", "show"))


def test_the_static_network_must_be_one(bundle, tmp_path):
    model = bundle.parent / "m.pt"
    result = command(export, model, "--out", tmp_path / "b", "--static-model", model)
    assert result.exit_code == 2
    assert "it has 3 stages; expected the static network" in result.stderr
    assert not (tmp_path / "b").exists()


# --- the edge kit -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kit(bundle, images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("a board")
    result = command(bench, "pack", bundle, "--data", images, "--out", folder / "kit.zip", "--limit", 40)
    assert result.exit_code == 0, result.output
    with zipfile.ZipFile(folder / "kit.zip") as archive:
        assert archive.getinfo("kit/run.sh").external_attr >> 16 & 0o111, "run.sh may be executed"
        archive.extractall(folder)
    return folder / "kit"


def test_a_kit_has_all_that_a_board_needs(kit):
    there = {str(path.relative_to(kit)) for path in kit.rglob("*") if path.is_file()}
    assert {"run.sh", "README.txt", "images.npz", "bundle/manifest.json", "bundle.static.onnx"} <= there
    with np.load(kit / "images.npz") as archive:
        assert archive["images"].shape == (40, SIZE, SIZE, 3)
        assert len(set(archive["labels"].tolist())) > 1
    (wheel,) = (kit / "wheels").glob("s2dnas_deploy-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert archive.testzip() is None
    assert {"s2dnas_deploy/runtime/cascade.py", "s2dnas_deploy/bench/page.css"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]


def test_run_sh_leaves_one_file_to_bring_back(kit, tmp_path):
    """With the packages of this Python; `test_a_kit_installs_itself` begins with nothing."""
    board = shutil.copytree(kit, tmp_path / "with a space" / "kit")
    another = onnx.load(board / "bundle.static.onnx")
    another.doc_string = "the one that --static named when the kit was packed"
    onnx.save(another, board / "bundle.static.onnx")
    _run_kit(board, PYTHON=sys.executable)
    with zipfile.ZipFile(board / "results.zip") as archive:
        archive.extractall(tmp_path / "back")
    report = Report.load(next((tmp_path / "back").rglob("bench.json")))
    assert report.answers.images == 40
    assert "static" in report.runs[0].subjects


@pytest.mark.slow
@pytest.mark.parametrize("inside", [False, True], ids=["pip gets the packages", "they are inside"])
def test_a_kit_installs_itself(bundle, images, kit, tmp_path, inside):
    """A Python with nothing but pip; and one without it, where the wheels are in the kit."""
    if inside:
        version = ".".join(map(str, sys.version_info[:2]))
        out = tmp_path / "kit.zip"
        result = command(
            bench, "pack", bundle, "--data", images, "--limit", 40, "--out", out,
            "--platform", f"linux-{os.uname().machine}", "--python", version,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        with zipfile.ZipFile(out) as archive:
            archive.extractall(tmp_path)
    else:
        shutil.copytree(kit, tmp_path / "kit")
    bare = tmp_path / "bare"
    subprocess.run(
        [sys.executable, "-m", "venv", *(["--without-pip"] if inside else []), bare],
        check=True,
        capture_output=True,
    )
    _run_kit(tmp_path / "kit", PYTHON=str(bare / "bin" / "python"))
    assert (tmp_path / "kit" / "results.zip").is_file()


def _run_kit(board: Path, **environment: str) -> None:
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(
        ["sh", board / "run.sh", *map(str, SHORTEST)],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert result.returncode == 0, result.stderr
    assert "bring back" in result.stdout


def test_a_bundle_from_before_there_were_zips_is_packed(bundle, images, tmp_path):
    old = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    for path in old.iterdir():
        os.utime(path, (0, 0))
    result = command(bench, "pack", old, "--data", images, "--out", tmp_path / "kit.zip")
    assert result.exit_code == 0, result.output


def test_an_old_python_is_told(kit, tmp_path):
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = subprocess.run(
        ["sh", kit / "run.sh"],
        env={**os.environ, "PYTHON": str(old)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "Python 3.10 or newer" in result.stderr


# --- loads --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_loads_are_run_and_judged_by_loadgen(bundle, images, tmp_path):
    pytest.importorskip("mlperf_loadgen")
    result = command(
        bench, "load", bundle, "--data", images, "--seconds", 0.5, "--log", tmp_path / "log", "--threads", 1,
        *(word for name in ("SingleStream", "MultiStream", "Offline") for word in ("--scenario", name)),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["SingleStream", "MultiStream", "Offline"]
    assert all("  valid  " in line for line in lines)
    for name in ("SingleStream", "MultiStream", "Offline"):
        assert "Result is : VALID" in (tmp_path / "log" / name / "mlperf_log_summary.txt").read_text()


def test_a_load_that_cannot_be_borne_is_invalid(bundle, images, tmp_path):
    pytest.importorskip("mlperf_loadgen")
    result = command(
        bench, "load", bundle, "--data", images, "--seconds", 0.2, "--log", tmp_path / "log",
        "--scenario", "Server", "--queries-per-second", 1000, "--within-ms", 0.001,
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    assert "INVALID" in result.stdout
