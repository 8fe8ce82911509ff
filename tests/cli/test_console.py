"""How a command tells where it stands when nobody watches a terminal."""

from s2dnas_deploy.cli import console as consoles


def test_a_line_tells_the_time_left_at_the_pace_of_this_process(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(consoles.time, "monotonic", lambda: clock[0])
    with consoles.Console() as console:
        progress = console.phase("training")
        for done in range(51, 101):  # 50 of 100 were done before it was resumed
            clock[0] += 1
            progress(done, 100, f"loss {done // 20}")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training: 56/100, 6 s, 44 s left, loss 2",
        "training: 62/100, 12 s, 38 s left, loss 3",
        "training: 80/100, 30 s, 20 s left, loss 4",
        "training: 100/100, 50 s, loss 5",
    ]


def test_quiet_is_quiet(capsys):
    with consoles.Console(quiet=True) as console:
        console.say("anything")
        console.phase("training")(1, 1, "done")
    assert capsys.readouterr().err == ""
