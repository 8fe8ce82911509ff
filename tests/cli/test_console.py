"""How a command tells where it stands when nobody watches a terminal."""

import os
import select
import subprocess
import sys

import pytest

from s2dnas_deploy.cli import console as consoles


def test_a_line_tells_the_time_left_at_the_pace_of_this_process(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(consoles.time, "monotonic", lambda: clock[0])
    with consoles.Console() as console:
        progress = console.phase("training", "steps")
        for done in range(51, 101):  # 50 of 100 were done before it was resumed
            clock[0] += 1
            progress(done, 100, f"loss {done // 20}")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training: 56/100 steps, 6 s, 44 s left, loss 2",
        "training: 62/100 steps, 12 s, 38 s left, loss 3",
        "training: 80/100 steps, 30 s, 20 s left, loss 4",
        "training: 100/100 steps, 50 s, loss 5",
    ]


def test_a_terminal_that_is_closed_does_not_end_the_work(monkeypatch):
    master, slave = os.openpty()
    clock = [0.0]
    monkeypatch.setattr(consoles.time, "monotonic", lambda: clock[0])
    with os.fdopen(slave, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        with consoles.Console() as console:
            assert console.bars
            progress = console.phase("training", "steps")
            clock[0] = 2.0
            progress(1, 100, "loss 1")
            progress(2, 100, "loss 1")
            shown = b""
            while b"2/100 steps, loss 1" not in shown and select.select([master], [], [], 1)[0]:
                shown += os.read(master, 10_000)
            assert b"2/100 steps, loss 1" in shown
            os.close(master)
            console.say("lost")
            for done in range(3, 101):
                clock[0] += 1
                progress(done, 100, "loss 1")


def test_no_file_gets_the_number_of_a_stream_that_is_closed():
    code = (
        "import os, sys; from s2dnas_deploy.cli.console import open_closed_streams; open_closed_streams(); "
        "sys.exit(os.open(os.devnull, os.O_RDONLY) + 10 * len(sys.stdin.read()))"
    )
    closed = ["sh", "-c", f"{sys.executable} -c '{code}' <&- >&- 2>&-"]
    assert subprocess.run(closed, check=False).returncode == 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc – ü", "a\tb\nc – ü"),
        ("\x1b[2Jgone\x9b1m", "\\x1b[2Jgone\\x9b1m"),
        ("right\rwrong\x7f", "right\\rwrong\\x7f"),
        ("\u202eexe.png\u2066\u2028", "\\u202eexe.png\\u2066\\u2028"),
        ("\udcff", "\\udcff"),
    ],
)
def test_a_terminal_gets_nothing_that_it_would_obey(text, shown):
    assert consoles.readable(text) == shown


def test_each_line_is_cut_on_its_own():
    short, long = consoles.readable(f"short\n{'x' * 2_000_000}").split("\n")
    assert short == "short"
    assert len(long) == 999
    assert long.endswith("xx [cut, of 2,000,000 characters]")


def test_quiet_is_quiet(capsys):
    with consoles.Console(quiet=True) as console:
        console.say("anything")
        console.phase("training")(1, 1, "done")
    assert capsys.readouterr().err == ""
