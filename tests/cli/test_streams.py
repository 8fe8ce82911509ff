"""Closed, full and odd streams: one line or none, never a traceback, and the work is done where it can be."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("onnx")

from click.testing import CliRunner
from forged import resum
from scored_bundle import scored_bundle, with_images

from s2dnas_deploy.cli import inspect, main, run
from s2dnas_deploy.cli.console import readable

S2DNAS = f"{sys.executable} -m s2dnas_deploy.cli"
RUN = "run --bundle bundle images.npz"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A bundle, images in an archive, and what a run on them writes."""
    folder = with_images(tmp_path_factory.mktemp("here"))
    done = shell(folder, f"{RUN} --out answers.csv")
    assert done.returncode == 0, done.stderr
    return folder


def shell(folder, command, timeout=120):
    """As typed in a shell, which can close streams."""
    return subprocess.run(
        ["sh", "-c", f"{S2DNAS} {command}"],
        cwd=folder, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("streams", [">&- 2>&- <&-", "2>&-", "<&- 2>/dev/full"])
def test_messages_that_nobody_can_read_are_lost_and_the_work_is_done(here, tmp_path, streams):
    out = tmp_path / "answers.csv"
    done = shell(here, f"{RUN} --out {out} {streams}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert out.read_bytes() == (here / "answers.csv").read_bytes()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (f"{RUN} --quiet >&-", "stdout: cannot be written: Bad file descriptor"),
        (f"{RUN} --quiet >/dev/full", "stdout: cannot be written: No space left on device; make room"),
        ("inspect bundle >&-", "stdout: cannot be written: Bad file descriptor"),
        ("inspect bundle --json >/dev/full", "stdout: cannot be written: No space left on device"),
        ("calibrate --bundle bundle images.npz --max-drop 50% --dry-run --quiet >&-", "stdout: cannot"),
        ("inspect --help >/dev/full", "stdout: cannot be written: No space left on device"),
        ("--version >&-", "stdout: cannot be written"),
        ("run --bundle bundle - <&-", "no names came on stdin; expected the name of a file"),
        ("run --bundle bundle - 0>/dev/null", "stdin cannot be read: Bad file descriptor"),
    ],
)
def test_what_cannot_be_written_or_read_is_told_in_one_line(here, command, reason):
    done = shell(here, command)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {reason}")
    assert done.stderr.count("\n") == 1, done.stderr


def test_an_error_that_nobody_can_read_still_has_its_exit_code(here):
    assert shell(here, "run --nonsense 2>/dev/full").returncode == 2
    assert shell(here, "run --bundle images.npz images.npz 2>&-").returncode in (2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", ">/dev/full"])
@pytest.mark.parametrize(
    "command",
    [
        "bench bundle --data images.npz --seconds 1 --processes 1 --noise --out {out}/bench.json",
        "train --model net.py:make --input 1x8x8 --normalize unit --data digits --limit 40 --epochs 1 "
        "--plan uniform:0.5,0.5 --out {out}/model.pt",
    ],
)
def test_long_work_is_done_and_kept_whatever_the_streams(here, tmp_path, command, streams):
    (here / "net.py").write_text(
        "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), "
        "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))\n"
    )
    done = shell(here, f"{command.format(out=tmp_path)} {streams}")
    assert done.returncode == (1 if ">&-" in streams.split() or "/dev/full" in streams else 0), done.stderr
    assert "Traceback" not in done.stderr
    assert len(list(tmp_path.iterdir())) > 0


# --- what a terminal may get -------------------------------------------------------------------------------


HOSTILE = "\x1b]0;owned\x07\x1b[2K\r\x9b1m\u202eevil"


def test_names_in_files_cannot_command_a_terminal(here, tmp_path):
    bundle = scored_bundle(tmp_path / "b").folder
    document = json.loads((bundle / "manifest.json").read_text()) | {"name": HOSTILE}
    text = json.dumps(document)
    (bundle / "manifest.json").write_text(text)
    resum(bundle)
    name = tmp_path / f"{HOSTILE}.png"
    name.write_bytes(b"no image")
    said = [
        CliRunner().invoke(inspect, [str(bundle)]),
        CliRunner().invoke(inspect, [str(name)]),
        CliRunner().invoke(main, ["inspect", str(name)]),
        CliRunner().invoke(main, [HOSTILE]),
        CliRunner().invoke(run, ["--bundle", str(bundle), f"{name}.txt"]),
        CliRunner().invoke(run, ["--bundle", str(bundle), "--batch", HOSTILE, "x"]),
    ]
    assert said[0].exit_code == 3, said[0].output  # nor does such a bundle have such a name
    for each in said:
        assert "evil" in each.output
        assert not set(each.output) & set("\x1b\x07\r\x9b\u202e"), each.output


def test_a_line_without_end_is_cut_and_says_so():
    line = readable("x/" * 1500)
    assert len(line) == 999
    assert line.endswith("[cut, of 3,000 characters]")


def test_bytes_that_are_no_text_are_shown_and_not_tripped_over(here):
    result = CliRunner().invoke(run, ["--bundle", str(here / "bundle"), os.fsdecode(b"\xff\xfe.txt")])
    assert "error: '\\udcff\\udcfe.txt': no such file or folder" in result.stderr


def test_a_pipe_is_not_waited_for(here, tmp_path):
    os.mkfifo(tmp_path / "plan.json")
    result = CliRunner().invoke(inspect, [str(tmp_path / "plan.json")])
    assert result.exit_code == 2
    assert "plan.json: expected a file, got a pipe" in result.stderr
    os.mkfifo(tmp_path / ".out.csv.run.json")
    words = ["--bundle", here / "bundle", here / "images.npz", "--out", tmp_path / "out.csv", "--resume"]
    result = CliRunner().invoke(run, [str(word) for word in words])
    assert result.exit_code == 3
    assert ".out.csv.run.json: expected a file, got a pipe" in result.stderr


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_pipe_in_the_place_of_lines_is_not_waited_for(here, tmp_path, resume):
    pytest.importorskip("pyarrow")
    os.mkfifo(tmp_path / ".out.parquet.lines.part")
    done = shell(here, f"{RUN} --out {tmp_path}/out.parquet {' '.join(resume)}", timeout=30)
    assert done.returncode == 2
    assert ".out.parquet.lines.part: it is there already, and is no plain file" in done.stderr


def test_a_list_that_is_no_list_of_names_is_told(here):
    for listed in (b"one.png\0two.png\0", b"x" * 100_000):
        result = CliRunner().invoke(run, ["--bundle", str(here / "bundle"), "-"], input=listed)
        assert result.exit_code == 1
        assert result.stderr.startswith("error: stdin: expected the name of a file or folder on each line")
        assert len(result.stderr) < 400
