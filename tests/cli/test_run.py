"""`s2dnas-run` from the command line: what it writes, and what it does with whatever it is given."""

import csv
import errno
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hostile_files
import numpy as np
import odd_images
import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("torch")

from exports import chain_from, export_to, pixels
from full_disk import files_of_at_most
from small_networks import residual

from s2dnas_deploy import plan as plans
from s2dnas_deploy.cli import run as command
from s2dnas_deploy.cli.commands.run import _Stop
from s2dnas_deploy.runtime import stages
from s2dnas_deploy.runtime.bulk import Bulk, BulkOptions
from s2dnas_deploy.runtime.cascade import Cascade
from s2dnas_deploy.sessions.every_stage import StageSession, run_chain
from s2dnas_deploy.sessions.limits import MOST_THREADS

WIDTH, HEIGHT = odd_images.SIZE
RUN = [sys.executable, "-c", "from s2dnas_deploy.cli import run; run()"]


def run(*arguments, stdin=None):
    return CliRunner().invoke(command, [str(argument) for argument in arguments], input=stdin)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Three stages with thresholds at which images exit at every exit."""
    folder = tmp_path_factory.mktemp("bundle") / "b"
    static = residual(shape=(3, HEIGHT, WIDTH))
    chain = chain_from(static, plans.from_text("uniform:0.25,0.25,0.5", static.divisible.space))
    answers = run_chain([StageSession(g) for g in export_to(folder, chain).graphs], pixels(chain, 200))
    thresholds = tuple(float(np.median(answer.confidence)) for answer in answers[:2])
    export_to(folder, chain, thresholds=thresholds)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, bundle) -> Path:
    """300 pictures in folders named after the bundle's classes."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(3)
    for i in range(300):
        place = root / f"class {i % 5}"
        place.mkdir(exist_ok=True)
        pixels = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{i:03}.png")
    return root


@pytest.fixture(scope="module")
def few(folder) -> Path:
    """60 of the pictures, all of one class."""
    return folder / "class 1"


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_image_gets_a_line_in_order(bundle, folder):
    result = run("--bundle", bundle, folder)
    assert result.exit_code == 0, result.output
    lines = records(result.stdout)
    files = sorted(str(path) for path in folder.rglob("*.png"))
    assert [line["file"] for line in lines] == files
    with Cascade.load(bundle) as cascade:
        said = cascade.predict(files)
        assert [line["index"] for line in lines] == said.label.tolist()
        assert [line["exit"] for line in lines] == said.exit.tolist()
        assert [line["label"] for line in lines] == [cascade.labels[i] for i in said.label]
    np.testing.assert_allclose([line["confidence"] for line in lines], said.confidence, atol=1e-6)
    assert {line["exit"] for line in lines} == {0, 1, 2}
    assert lines[0]["truth"] == "class 0"


def test_the_summary_counts_what_the_lines_say(bundle, folder):
    result = run("--bundle", bundle, folder)
    lines = records(result.stdout)
    for k in range(3):
        there = [line for line in lines if line["exit"] == k]
        right = sum(line["label"] == line["truth"] for line in there)
        row = next(row for row in result.stderr.splitlines() if row.split()[:1] == [str(k)])
        assert row.split()[1:4] == [
            str(len(there)),
            f"{100 * len(there) / 300:.1f}%",
            f"{100 * right / len(there):.2f}%",
        ]
    assert "every stage on every image would take" in result.stderr
    assert "300 images, 0 failed" in result.stderr


def test_good_images_are_classified_and_bad_ones_reported(bundle, tmp_path):
    for i in range(3):
        odd_images.write(tmp_path / "odd" / str(i), {**odd_images.good(), **odd_images.bad()})
    (tmp_path / "odd" / "notes.txt").write_text("no picture\n")
    (tmp_path / "odd" / ".hidden.jpg").write_bytes(b"")
    os.mkfifo(tmp_path / "odd" / "pipe.jpg")
    result = run("--bundle", bundle, tmp_path / "odd")
    assert result.exit_code == 6, result.output
    lines = {line["file"].removeprefix(f"{tmp_path}/odd/"): line for line in records(result.stdout)}
    assert len(lines) == 3 * (len(odd_images.good()) + len(odd_images.bad())) + 1
    for i in range(3):
        for name in odd_images.good():
            assert "label" in lines[f"{i}/{name}"], lines[f"{i}/{name}"]
        for name in odd_images.bad():
            assert lines[f"{i}/{name}"].keys() == {"file", "error"}
    assert lines["pipe.jpg"]["error"].startswith("expected a file, got a pipe")
    assert lines["0/empty.jpg"]["error"] == "the file is empty"
    assert f"{3 * len(odd_images.bad()) + 1} failed" in result.stderr
    assert "files that are no images, passed over: 2" in result.stderr
    assert "Traceback" not in result.stderr


def test_why_images_got_no_answer_is_told_most_frequent_first(bundle, tmp_path):
    """Reasons that differ by a number only are one, and those that few have are counted."""
    images = tmp_path / "images"
    images.mkdir()
    for side in range(20, 26):
        Image.new("RGB", (side, side)).save(images / f"{side}.png")
    for name in ("a.jpg", "b.jpg"):
        (images / name).write_bytes(b"")
    (images / "c.jpg").write_bytes(b"no picture")
    os.mkfifo(images / "d.jpg")
    result = run("--bundle", bundle, images)
    assert result.exit_code == 6
    said = result.stderr.splitlines()
    at = said.index("10 images got no answer:")
    assert said[at + 1 : at + 5] == [
        f"  6 images, as {images}/20.png: expected {HEIGHT}x{WIDTH} pixels (height x width), got 20x20; "
        "resize it, or export the bundle with --resize crop or stretch",
        f"  2 images, as {images}/a.jpg: the file is empty",
        f"  {images}/c.jpg: {records(result.stdout)[8]['error']}",
        "  and 1 for other reasons, told in the output beside each",
    ]
    assert said[at + 5].startswith("0 images, 10 failed, ")


def test_an_output_that_is_gone_on_with_tells_why_images_got_no_answer(bundle, few, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    places = (tmp_path / "a.jpg", few)
    for suffix in ("csv", "jsonl"):
        told = [
            run("--bundle", bundle, *places, "--resume", "--out", tmp_path / f"out.{suffix}").stderr
            for _ in range(2)
        ]
        assert "is complete already" in told[1]
        assert all(
            f"1 image got no answer:\n  {tmp_path}/a.jpg: the file is empty\n" in each for each in told
        )


def test_places_and_names_of_any_kind_get_a_line_and_keep_nobody_waiting(bundle, folder, tmp_path):
    places = hostile_files.no_files(tmp_path / "places")
    good = next(folder.rglob("*.png")).read_bytes()
    odd = {
        "not utf-8": os.fsdecode(b"caf\xe9.png"),
        "two lines": "one\ntwo.png",
        "escapes": "\x1b[2J.png",
        "no image": "\r.png",
    }
    for kind, name in odd.items():
        (tmp_path / "places" / name).write_bytes(b"" if kind == "no image" else good)
    hostile_files_of = {**hostile_files.images(), **hostile_files.surprising_images()}
    for name, content in hostile_files_of.items():
        if len(content) < 10_000:
            (tmp_path / "places" / name).write_bytes(content)
    command = [*RUN, "--bundle", str(bundle), str(tmp_path / "places")]
    done = subprocess.run(command, capture_output=True, timeout=100, check=False)
    assert done.returncode == 6, done.stderr
    lines = {os.fsdecode(line["file"].rpartition("/")[2]): line for line in records(done.stdout.decode())}
    for kind, path in places.items():
        assert (path.name in lines) == (kind != "folder")
        assert kind == "folder" or len(lines[path.name]["error"]) < 300
    for kind, name in odd.items():
        assert ("error" in lines[name]) == (kind == "no image"), lines[name]
    assert lines["\r.png"]["error"] == "the file is empty"
    assert "Traceback" not in done.stderr.decode()
    assert "Warning" not in done.stderr.decode()


def test_listed_names_that_cannot_be_files_are_answers_with_errors(bundle, folder):
    good = str(next(folder.rglob("*.png")))
    names = [good, "", "x" * 60_000 + ".jpg", "/dev/zero", "/dev/stdin"]
    done = run("--bundle", bundle, "-", stdin="\n".join(names))
    assert done.exit_code == 6, done.output
    lines = records(done.stdout)
    assert [line["file"] for line in lines] == [name for name in names if name]
    assert "label" in lines[0]
    assert all(len(line["error"]) < 300 for line in lines[1:])


def test_decoders_that_complain_are_not_heard(bundle, tmp_path, capfd):
    whole = hostile_files.sound_images()["photo.tif"]
    for number in range(60):
        (tmp_path / f"{number}.tif").write_bytes(hostile_files.mutated(whole, number))
    assert run("--bundle", bundle, tmp_path, "--quiet").exit_code == 6
    assert capfd.readouterr().err == ""


def test_large_pictures_share_the_memory(bundle, tmp_path):
    """Eight threads at 20 megapixels each, of which as many as fit are decoded at once."""
    resizing = tmp_path / "bundle"
    shutil.copytree(bundle, resizing)
    before = (resizing / "manifest.json").read_bytes()
    after = before.replace(b'"resize": null', b'"resize": "crop"')
    (resizing / "manifest.json").write_bytes(after)
    sums = (resizing / "SHA256SUMS").read_text()
    old, new = (hashlib.sha256(content).hexdigest() for content in (before, after))
    (resizing / "SHA256SUMS").write_text(sums.replace(old, new))
    Image.new("RGB", (5000, 4000), "red").save(tmp_path / "0.png", compress_level=1)
    for number in range(1, 8):
        os.link(tmp_path / "0.png", tmp_path / f"{number}.png")
    script = (
        "import atexit, sys; from s2dnas_deploy.bench.workers.memory import peak_bytes; "
        "atexit.register(lambda: print(peak_bytes(), file=sys.stderr)); "
        "from s2dnas_deploy.cli import run; run()"
    )
    command = [sys.executable, "-c", script, "--bundle", str(resizing), "--workers", "8", "--batch", "1"]
    places = [str(path) for path in sorted(tmp_path.glob("*.png"))]
    done = subprocess.run([*command, *places], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.split()[-1]) < 500_000_000, done.stderr


def test_files_patterns_archives_and_lists(bundle, folder, tmp_path):
    paths = sorted(folder.rglob("*.png"))
    arrays = np.stack([np.asarray(Image.open(path)) for path in paths[:6]])
    np.savez(tmp_path / "x.npz", images=arrays, labels=np.arange(6) % 5)
    np.save(tmp_path / "x.npy", arrays.transpose(0, 3, 1, 2))
    expected = [(line["index"], line["exit"]) for line in records(run("--bundle", bundle, *paths[:6]).stdout)]
    for places, stdin in (
        ([tmp_path / "x.npz"], None),
        ([tmp_path / "x.npy"], None),
        ([folder / "class 0" / "0[012]?.png"], None),
        (["-"], "".join(f"{path}\n" for path in paths[:6])),
    ):
        lines = records(run("--bundle", bundle, *places, stdin=stdin).stdout)
        assert [(line["index"], line["exit"]) for line in lines] == expected
    archive = records(run("--bundle", bundle, tmp_path / "x.npz").stdout)
    assert archive[4]["file"] == f"{tmp_path}/x.npz[4]"
    assert archive[4]["truth"] == "class 4"


def test_names_that_are_no_text(bundle, folder, tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    shutil.copy(next(folder.rglob("*.png")), odd)
    out = tmp_path / "out.parquet"
    command = [*RUN, "--bundle", str(bundle), "--quiet", "--resume", "--out", str(out), "-"]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    for _ in range(2):  # complete, there is nothing left to do
        done = subprocess.run(command, input=os.fsencode(odd), env=strict, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    (row,) = pytest.importorskip("pyarrow.parquet").read_table(out).to_pylist()
    assert row["file"].endswith("caf\\udce9.png")
    assert row["exit"] in (0, 1, 2)


def test_memory_that_runs_out_is_told(bundle, folder, monkeypatch):
    def none_left(*how, **more):
        raise MemoryError("Unable to allocate 171. PiB for an array")

    monkeypatch.setattr(stages, "Buffers", none_left)
    result = run("--bundle", bundle, folder)
    assert result.exit_code == 1
    assert "error: out of memory: " in result.stderr
    assert "Traceback" not in result.output


def test_archives_with_a_few_bytes_changed_are_answers_with_errors(bundle, tmp_path):
    generator = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", np.zeros((2, HEIGHT, WIDTH, 3), np.uint8))
    whole = (tmp_path / "x.npy").read_bytes()
    for number in range(400):
        content = bytearray(whole)
        content[int(generator.integers(0, 128))] = int(generator.integers(0, 256))
        (tmp_path / f"{number:03}.npy").write_bytes(content)
    result = run("--bundle", bundle, *sorted(tmp_path.glob("???.npy")))
    assert result.exit_code == 6, result.output
    assert len(records(result.stdout)) >= 400


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_full_disk_is_told_with_the_way_on(bundle, folder, tmp_path, form):
    whole, out = tmp_path / f"whole.{form}", tmp_path / f"out.{form}"
    assert run("--bundle", bundle, folder, "--out", whole).exit_code == 0
    with files_of_at_most(5_000):
        result = run("--bundle", bundle, folder, "--out", out)
    assert result.exit_code == 1
    assert result.stderr.strip().splitlines()[-1] == (
        f"error: {out}: cannot be written: File too large; make room; a run with --out goes on when the same "
        "command is given with --resume"
    )
    assert run("--bundle", bundle, folder, "--out", out, "--resume").exit_code == 0
    assert out.read_bytes() == whole.read_bytes()


def test_only_what_cannot_be_written_is_said_to_be_so(bundle, folder, tmp_path, monkeypatch):
    def answers(bulk, images, stop):
        raise OSError(errno.EIO, "no image any more")
        yield

    monkeypatch.setattr(Bulk, "answers", answers)
    for words in ((), ("--out", tmp_path / "out.jsonl")):
        result = run("--bundle", bundle, folder, *words)
        assert result.exit_code == 1
        assert "no image any more" in result.stderr
        assert "cannot be written" not in result.stderr


@pytest.mark.parametrize("out", ["/dev/null", "/dev/full"])
def test_a_device_is_no_place_for_an_output(bundle, folder, out):
    result = run("--bundle", bundle, folder, "--out", out, "--format", "csv")
    assert result.exit_code == 2
    assert f"cannot write --out {out}: it is there already, and is no plain file" in result.stderr


def test_places_that_are_nothing_are_named(bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    for place, message in {
        "empty": "no images there; expected files of .bmp",
        "no*.jpg": "no file matches",
    }.items():
        result = run("--bundle", bundle, tmp_path / place)
        assert result.exit_code == 1
        assert f"{tmp_path / place}: {message}" in result.stderr
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    (tmp_path / "text.npz").write_bytes(b"no archive")
    damaged = run("--bundle", bundle, tmp_path / "broken.npz", tmp_path / "text.npz")
    assert damaged.exit_code == 6
    errors = [record["error"] for record in records(damaged.stdout)]
    assert all(error.startswith("expected a NumPy archive of plain arrays, got") for error in errors)
    assert "pickle" not in damaged.stdout
    folder = run("--bundle", bundle, tmp_path)
    assert folder.exit_code == 1
    assert f"archives must be named themselves: {tmp_path / 'broken.npz'}" in folder.stderr
    assert "no names came on stdin" in run("--bundle", bundle, "-", stdin="").stderr
    gone = run("--bundle", bundle, tmp_path / "gone.jpg")
    assert gone.exit_code == 6
    assert records(gone.stdout) == [{"file": f"{tmp_path}/gone.jpg", "error": "no such file"}]
    for mistake, message in (("tset", "no such file or folder"), ("net.pt", "a network, not images")):
        mistaken = run("--bundle", bundle, tmp_path / mistake)
        assert mistaken.exit_code == 1
        assert f"{tmp_path / mistake}: {message}" in mistaken.stderr


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_outputs(bundle, folder, tmp_path, form):
    (tmp_path / "bad.png").write_bytes(b"")
    out = tmp_path / "deep" / f"out.{form}"
    result = run(
        "--bundle", bundle, folder / "class 1", tmp_path / "bad.png", "--probabilities", "--out", out
    )
    assert result.exit_code == 6, result.output
    assert result.stdout == ""
    assert os.listdir(out.parent) == [out.name]
    if form == "jsonl":
        rows = records(out.read_text())
    elif form == "csv":
        rows = list(csv.DictReader(out.open()))
    else:
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(out).to_pylist()
    assert len(rows) == 61
    assert rows[60]["error"] == "the file is empty"
    probabilities = rows[7]["probabilities"]
    likely = [float(p) for p in (probabilities.split() if form == "csv" else probabilities)]
    assert len(likely) == 5
    assert sum(likely) == pytest.approx(1, abs=1e-5)
    assert likely[int(rows[7]["index"])] == max(likely)
    *_, second, best = sorted(likely)
    assert best - second == pytest.approx(float(rows[7]["confidence"]), abs=1e-6)
    assert rows[7]["truth"] == "class 1"


def test_output_names_say_the_format(bundle, folder, tmp_path):
    assert run("--bundle", bundle, folder, "--out", tmp_path / "out").exit_code == 2
    assert run("--bundle", bundle, folder, "--format", "parquet").exit_code == 2
    assert run("--bundle", bundle, folder, "--out", tmp_path / "out", "--format", "csv").exit_code == 0
    assert (tmp_path / "out").read_text().startswith("file,label,index,confidence,exit")


def test_thresholds_and_the_last_stage(bundle, folder):
    assert {r["exit"] for r in records(run("--bundle", bundle, folder, "--threshold", "2,2").stdout)} == {2}
    assert {r["exit"] for r in records(run("--bundle", bundle, folder, "--last-stage", "1").stdout)} == {0, 1}
    wrong = run("--bundle", bundle, folder, "--threshold", "0.5")
    assert wrong.exit_code == 2
    assert "expected 2 thresholds" in wrong.stderr


def test_the_bundle_is_found(bundle, folder, monkeypatch):
    monkeypatch.setenv("S2DNAS_BUNDLE", str(bundle))
    assert run(folder / "class 0").exit_code == 0
    monkeypatch.delenv("S2DNAS_BUNDLE")
    monkeypatch.chdir(bundle)
    assert run(folder / "class 0").exit_code == 0
    monkeypatch.chdir(folder)
    nowhere = run(folder / "class 0")
    assert nowhere.exit_code == 3
    assert "no manifest.json: name one with --bundle" in nowhere.stderr


def test_asked_for_cuda_without_it(bundle, folder):
    result = run("--bundle", bundle, "--provider", "cuda", folder)
    assert result.exit_code == 4
    assert result.stderr.count("\n") == 1
    assert "--provider cuda" in result.stderr
    assert "pip install onnxruntime-gpu" in result.stderr
    assert run("--bundle", bundle, "--provider", "cuda", "--allow-fallback", folder).exit_code == 0


# --- interrupted runs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory, folder) -> Path:
    """A list of 3,000 files, some of which cannot be read."""
    paths = [str(path) for path in sorted(folder.rglob("*.png"))] * 10
    paths[100::701] = [str(folder / "gone.png")] * len(paths[100::701])
    names = tmp_path_factory.mktemp("list") / "names"
    names.write_text("".join(f"{path}\n" for path in paths))
    return names


def words_of(bundle, out, *more):
    return ["--bundle", str(bundle), "-", "--out", str(out), "--batch", "4", "--threads", "1", *more]


def start(bundle, many, out, *more):
    """A process of its own, which can be killed."""
    command = [*RUN, *words_of(bundle, out, *more)]
    with many.open() as names:
        return subprocess.Popen(command, stdin=names, stderr=subprocess.PIPE, text=True)


def run_here(bundle, many, out, *more):
    """The same in this process."""
    return run(*words_of(bundle, out, *more), stdin=many.read_bytes())


def wait_for_lines(out: Path, count: int, process) -> None:
    while process.poll() is None and (not out.exists() or out.read_bytes().count(b"\n") < count):
        time.sleep(0.01)


@pytest.fixture(scope="module")
def unbroken(bundle, many, tmp_path_factory) -> dict[str, Any]:
    """The outputs of runs that nobody stopped, and how long one took."""
    place = tmp_path_factory.mktemp("unbroken")
    begun = time.monotonic()
    process = start(bundle, many, place / "out.jsonl")
    process.communicate()
    assert process.returncode == 6
    seconds = time.monotonic() - begun
    assert run_here(bundle, many, place / "out.csv").exit_code == 6
    return {"seconds": seconds, **{form: (place / f"out.{form}").read_bytes() for form in ("jsonl", "csv")}}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_kill_say_how_to_go_on_and_lose_nothing(bundle, many, unbroken, tmp_path, number):
    out = tmp_path / "out.csv"
    process = start(bundle, many, out)
    wait_for_lines(out, 50, process)
    process.send_signal(number)
    _, messages = process.communicate()
    assert process.returncode == 130, messages
    assert f"--resume goes on with {out}" in messages
    assert out.read_bytes().endswith(b"\n")
    assert unbroken["csv"].startswith(out.read_bytes())
    again = run_here(bundle, many, out)
    assert "--resume goes on with it" in again.stderr
    assert again.exit_code == 2
    resumed = run_here(bundle, many, out, "--resume")
    assert "were there already" in resumed.stderr
    assert resumed.exit_code == 6
    assert out.read_bytes() == unbroken["csv"]
    assert set(os.listdir(tmp_path)) == {"out.csv", ".out.csv.run.json"}


def test_kill_ends_a_run_of_as_many_threads_as_may_be(bundle, many, tmp_path):
    process = start(bundle, many, tmp_path / "out.jsonl", "--threads", str(MOST_THREADS))
    wait_for_lines(tmp_path / "out.jsonl", 50, process)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    assert time.monotonic() - begun < 20


def test_a_signal_stops_at_once_until_the_run_begins():
    with _Stop(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    with _Stop() as stop:
        stop.begin()
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_that_is_to_stop_does_not_fill_its_batch_first(bundle, folder):
    images = [str(path) for path in sorted(folder.rglob("*.png"))]
    asked = iter([False] * 10 + [True])
    with Cascade.load(bundle, provider="cpu", threads=1) as cascade:
        bulk = cascade.bulk(BulkOptions(batch=1000))
        assert list(bulk.answers(images, lambda: next(asked))) == []
        assert bulk.stage_samples == [0, 0, 0]


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--threads", "0", f"1<=x<={MOST_THREADS}"),
        ("--threads", "5000", f"1<=x<={MOST_THREADS}"),
        ("--threads", "2147483648", f"1<=x<={MOST_THREADS}"),
        ("--batch", "65537", "1<=x<=65536"),
        ("--batch", "4611686018427387904", "1<=x<=65536"),
        ("--batch", "9" * 400, "1<=x<=65536"),
        ("--workers", "257", "1<=x<=256"),
        ("--workers", "100000", "1<=x<=256"),
        ("--threshold", "nan,0.5", "expected a finite number as threshold"),
        ("--threshold", "1e400,0.5", "expected a finite number as threshold"),
        ("--last-stage", "7", "expected a whole number from 0 to 2 as last stage, got 7"),
    ],
)
def test_numbers_out_of_bounds_are_refused(bundle, folder, option, value, expected):
    result = run("--bundle", bundle, folder, option, value)
    assert result.exit_code == 2, result.output
    assert expected in result.stderr
    assert "Traceback" not in result.output


def kill_and_resume(bundle, many, out, moments) -> None:
    resume: list[str] = []
    for moment in moments:
        process = start(bundle, many, out, *resume)
        time.sleep(moment)
        process.kill()
        process.communicate()
        if out.with_name(f".{out.name}.run.json").exists():
            resume = ["--resume"]
    final = run_here(bundle, many, out, *resume)
    assert final.exit_code == 6, final.stderr


def test_a_killed_run_goes_on_to_the_same_output(bundle, many, unbroken, tmp_path):
    out = tmp_path / "out.jsonl"
    kill_and_resume(bundle, many, out, [share * unbroken["seconds"] for share in (0.7, 0.5)])
    assert out.read_bytes() == unbroken["jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_ten_kills_at_random_moments(bundle, many, unbroken, tmp_path, form):
    generator = random.Random(form)  # noqa: S311 - moments, not secrets
    for turn in range(10):
        out = tmp_path / f"{turn}.{form}"
        kill_and_resume(bundle, many, out, [generator.uniform(0, unbroken["seconds"])])
        assert out.read_bytes() == unbroken[form]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_any_piece_of_an_output_is_completed(bundle, few, tmp_path, form):
    whole = tmp_path / f"whole.{form}"
    assert run("--bundle", bundle, few, "--batch", 2, "--out", whole).exit_code == 0
    lines = tmp_path / "whole.jsonl"
    if form == "parquet":
        assert run("--bundle", bundle, few, "--batch", 2, "--out", lines).exit_code == 0
    content = (lines if form == "parquet" else whole).read_bytes()
    for cut in (0, 1, 60, len(content) // 3, len(content) // 2 + 1, len(content) - 1, len(content)):
        out = tmp_path / f"cut.{form}"
        process = start_and_stop_soon(bundle, few, out)
        part = out.with_name(f".{out.name}.lines.part") if form == "parquet" else out
        assert part.exists(), process
        part.write_bytes(content[:cut])
        resumed = run("--bundle", bundle, few, "--batch", 2, "--out", out, "--resume")
        assert resumed.exit_code == 0, resumed.output
        assert out.read_bytes() == whole.read_bytes()
        out.unlink()


class StopsSoon:
    def __init__(self):
        self.asked = itertools.count()

    def begin(self):
        pass

    def __call__(self):
        return next(self.asked) > 30


def start_and_stop_soon(bundle, images, out, form=None):
    from s2dnas_deploy.cli.console import Console
    from s2dnas_deploy.runtime.answers.job import RunRequest, run_job

    request = RunRequest(bundle=bundle, places=(str(images),), bulk=BulkOptions(batch=2), out=out, form=form)
    summary = run_job(request, sys.stdout.buffer, Console(quiet=True), StopsSoon())
    assert 0 < summary.answered < 30
    return summary


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_an_output_that_is_one_endless_line_is_refused_and_not_read(bundle, few, tmp_path, ending):
    out = tmp_path / f"out.{ending}"
    assert run("--bundle", bundle, few, "--out", out, "--resume").exit_code == 0
    with out.open("ab") as file:
        file.truncate(2**40)
    again = run("--bundle", bundle, few, "--out", out, "--resume")
    assert again.exit_code == 3
    assert "is longer than 16,777,216 bytes" in again.stderr


def test_a_parquet_of_more_records_than_images_is_refused_before_they_are_read(bundle, few, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out.parquet"
    assert run("--bundle", bundle, few, "--out", out, "--resume").exit_code == 0
    alike = pyarrow.array(["x"]).dictionary_encode()
    names = pyarrow.DictionaryArray.from_arrays(np.zeros(1_000_000, np.int32), alike.dictionary)
    parquet.write_table(pyarrow.table({"file": names}), out, compression="zstd")
    begun = time.process_time()
    again = run("--bundle", bundle, few, "--out", out, "--resume")
    assert time.process_time() - begun < 2
    assert again.exit_code == 2
    assert "holds 1,000,000 images, but only" in again.stderr


def test_an_output_that_is_a_link_to_itself_is_no_traceback(bundle, folder, tmp_path):
    (tmp_path / "out.csv").symlink_to("out.csv")
    result = run("--bundle", bundle, folder, "--out", tmp_path / "out.csv")
    assert isinstance(result.exception, SystemExit), result.exception
    assert "symbolic links" in result.stderr


def test_a_run_is_resumed_only_with_the_same_images_and_bundle(bundle, folder, tmp_path):
    out = tmp_path / "out.jsonl"
    start_and_stop_soon(bundle, folder, out)
    other = run("--bundle", bundle, folder / "class 1", "--batch", 2, "--out", out, "--resume")
    assert other.exit_code == 2
    assert "resume with the same images" in other.stderr
    changed = run("--bundle", bundle, folder, "--batch", 2, "--threshold", "2,2", "--out", out, "--resume")
    assert changed.exit_code == 2
    assert "was begun with thresholds = null, now it is [2.0, 2.0]" in changed.stderr
    shutil.copytree(bundle, tmp_path / "b")
    assert run("--bundle", tmp_path / "b", folder, "--batch", 2, "--out", out, "--resume").exit_code == 0
    assert run("--bundle", bundle, folder, "--resume").exit_code == 2


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_complete_run_is_left_as_it_is_by_resume(bundle, few, tmp_path, form):
    pictures = Path(shutil.copytree(few, tmp_path / "pictures"))
    (pictures / "class 0").mkdir(exist_ok=True)
    (pictures / "class 0" / "bad.png").write_bytes(b"no picture")
    out = tmp_path / f"out.{form}"
    first = run("--bundle", bundle, pictures, "--out", out, "--resume")
    before = out.read_bytes()
    again = run("--bundle", bundle, pictures, "--out", out, "--resume")
    assert first.exit_code == again.exit_code == 6
    assert "is complete already" in again.stderr
    assert out.read_bytes() == before
    for options in (["--threshold", "2,2"], ["--last-stage", "0"], ["--probabilities"]):
        other = run("--bundle", bundle, pictures, "--out", out, "--resume", *options)
        assert other.exit_code == 2
        assert "was begun with" in other.stderr
    (pictures / "more.png").write_bytes((next(few.rglob("*.png"))).read_bytes())
    more = run("--bundle", bundle, pictures, "--out", out, "--resume")
    assert more.exit_code == 2
    assert "now" in more.stderr
    out.write_bytes(b"4\n")
    assert (
        "is not what a run has written" in run("--bundle", bundle, pictures, "--out", out, "--resume").stderr
    )
    out.with_name(f".{out.name}.run.json").unlink()
    unknown = run("--bundle", bundle, pictures, "--out", out, "--resume")
    assert unknown.exit_code == 2
    assert "is no output of an interrupted run" in unknown.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", out.name}


def test_the_format_of_an_interrupted_run_is_not_lost(bundle, few, tmp_path):
    out = tmp_path / "out.csv"
    start_and_stop_soon(bundle, few, out, form="jsonl")
    before = out.read_bytes()
    result = run("--bundle", bundle, few, "--batch", 2, "--out", out, "--resume")
    assert result.exit_code == 2
    assert 'was begun with format = "jsonl", now it is "csv"' in result.stderr
    assert out.read_bytes() == before


def test_two_runs_do_not_write_one_output(bundle, many, unbroken, tmp_path):
    out = tmp_path / "out.csv"
    first = start(bundle, many, out)
    wait_for_lines(out, 50, first)
    first.send_signal(signal.SIGSTOP)  # or it may be done before the second one has begun
    second = run_here(bundle, many, out, "--resume")
    assert "another run is writing" in second.stderr
    assert second.exit_code == 2
    first.send_signal(signal.SIGCONT)
    first.communicate()
    assert first.returncode == 6
    assert out.read_bytes() == unbroken["csv"]


def test_an_older_runs_answers_are_never_adopted(bundle, folder, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    assert run("--bundle", bundle, folder, "--out", out).exit_code == 0
    monkeypatch.setattr("s2dnas_deploy.runtime.answers.output.write_text_atomically", dies)
    assert run("--bundle", bundle, folder, "--threshold", "2,2", "--out", out).exit_code == 1
    monkeypatch.undo()
    assert run("--bundle", bundle, folder, "--threshold", "2,2", "--out", out, "--resume").exit_code == 0
    assert {record["exit"] for record in records(out.read_text())} == {2}


def dies(*arguments):
    raise OSError("killed")


def test_a_fallback_is_told(bundle, folder):
    result = run("--bundle", bundle, folder, "--provider", "cuda", "--allow-fallback")
    assert result.exit_code == 0
    assert "--provider cuda is not there: running on cpu" in result.stderr
    assert " images/s, on cpu" in result.stderr


def test_links_to_folders_are_followed_once(bundle, folder, tmp_path):
    (tmp_path / "data" / "loop").mkdir(parents=True)
    (tmp_path / "data" / "class 0").symlink_to(folder / "class 0")
    (tmp_path / "data" / "loop" / "again").symlink_to(tmp_path / "data")
    lines = records(run("--bundle", bundle, tmp_path / "data").stdout)
    assert len(lines) == 60
    assert {line["truth"] for line in lines} == {"class 0"}


GOOD = {"label": "cat", "index": 0, "confidence": 0.5, "exit": 0}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (("jsonl", json.dumps(GOOD | {"file": 3})), "file: expected text, got 3"),
        (("jsonl", json.dumps({"file": "a"})), "expected an answer .* or an error, got neither"),
        (("jsonl", json.dumps({"file": "a", "exit": 0, "index": 0})), "expected an answer"),
        (("jsonl", json.dumps(GOOD | {"file": "a", "exit": 99})), "tells of exit 99, of 3 from 0"),
        (("jsonl", json.dumps(GOOD | {"file": "a", "exit": -1})), "exit: expected a whole number from 0"),
        (
            ("jsonl", json.dumps(GOOD | {"file": "a", "exit": True})),
            "exit: expected a whole number, got true",
        ),
        (("jsonl", json.dumps(GOOD | {"file": "a", "probabilities": "x"})), "probabilities: expected a list"),
        (("jsonl", '{"file": "a", "file": "b"}'), "expected every key once"),
        (("jsonl", "[" * 100_000), "within each other"),
        (("jsonl", json.dumps(GOOD | {"file": "a", "more": 1})), "expected no other keys"),
        (("csv", "a,cat,0,0.5,99,,,"), "tells of exit 99, of 3 from 0"),
        (("csv", "a,cat,0,0.5,-1,,,"), "exit: expected a whole number, got '-1'"),
        (("csv", "a,cat,0,0.5,²,,,"), "exit: expected a whole number"),
        (("csv", "a,cat,zero,0.5,0,,,"), "index: expected a whole number, got 'zero'"),
        (("csv", "a,,,,,,,"), "expected an answer"),
        (("csv", ",cat,0,0.5,0,,,"), 'expected "file" among the keys'),
        (("csv", "a,cat"), "expected 8 columns, got 2"),
    ],
)
def test_lines_that_no_run_has_written_are_not_gone_on_from(bundle, few, tmp_path, written, message):
    form, line = written
    out = tmp_path / f"out.{form}"
    start_and_stop_soon(bundle, few, out)
    with out.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    result = run("--bundle", bundle, few, "--batch", 2, "--out", out, "--resume")
    assert result.exit_code == 3, result.output
    assert re.search(message, result.stderr)
    assert "remove it to begin anew" in result.stderr


@pytest.mark.parametrize("content", ["{", "[]", '{"complete": 1}', '{"complete": false}', "[" * 100_000])
def test_a_damaged_journal_is_told_with_the_way_on(bundle, few, tmp_path, content):
    out = tmp_path / "out.jsonl"
    start_and_stop_soon(bundle, few, out)
    (tmp_path / ".out.jsonl.run.json").write_text(content)
    result = run("--bundle", bundle, few, "--batch", 2, "--out", out, "--resume")
    assert result.exit_code == 3
    assert f"remove it and {out} to begin anew" in result.stderr
