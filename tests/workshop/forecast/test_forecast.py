"""What is told before a training: arithmetic that can be done by hand, kept for the run that goes on."""

import json

import pytest

from s2dnas_deploy.plan import Plan
from s2dnas_deploy.workshop.forecast.forecast import FILE, Forecast, kept_forecast
from s2dnas_deploy.workshop.forecast.words import alternatives_in_words, in_words

PLAN = Plan(channels={"stem": (8, 8, 16)}, exits=("output",) * 3)


def forecast(**changes):
    values = {
        "plan": PLAN,
        "stages": (0.2, 0.3, 0.6),
        "shares": (0.6, 0.3, 0.1),
        "accuracies": (0.7, 0.75, 0.8),
        "falls_short": 0.0,
        "device": {"processor": "a machine", "threads": 1},
        "static_ms": 2.0,
    }
    return Forecast(**{**values, **changes})


def test_times_add_up():
    told = forecast()
    assert told.up_to == pytest.approx((0.2, 0.5, 1.1))
    assert told.best == pytest.approx(5)
    assert told.expected == pytest.approx(1 / (0.6 * 0.2 + 0.3 * 0.5 + 0.1 * 1.1))
    assert told.with_first(0.9) == pytest.approx(1 / (0.9 * 0.2 + 0.1 * 1.1))


def test_it_is_told_in_words():
    lines = list(in_words(forecast()))
    assert lines[0].startswith("forecast: a machine")
    assert "2 ms" in lines[0]
    assert "0.20 + 0.30 + 0.60 = 1.10 of the time" in lines[1]
    assert "1.5 / 2.1 / 3.4 times as fast; 5.0 times is the best" in lines[2]
    assert "70 / 75 / 80%, so 2.6 times as fast" in lines[3]
    short = list(in_words(forecast(falls_short=0.04)))
    assert "the last 5 points below the static network" in short[3]
    by_macs = list(in_words(forecast(device=None, static_ms=None)))
    assert "MACs" in by_macs[0]
    assert "of the MACs" in by_macs[1]
    assert "half: 1.9 times as fast" in alternatives_in_words({"half": 1.91})


def test_it_is_kept_for_the_same_run_only(tmp_path):
    told = forecast()
    assert kept_forecast(tmp_path, "this") is None
    (tmp_path / FILE).write_text(told.to_json("this"))
    assert kept_forecast(tmp_path, "this") == told
    assert kept_forecast(tmp_path, "another") is None


@pytest.mark.parametrize(
    "damage",
    [
        {"stages": [0.2, 0.3]},
        {"stages": [0, 0.3, 0.6]},
        {"expected_shares": [1, 0]},
        {"plan": {}},
        {"version": 2},
        {"stages": "all"},
    ],
)
def test_a_damaged_one_is_made_anew(tmp_path, damage):
    document = json.loads(forecast().to_json("this"))
    (tmp_path / FILE).write_text(json.dumps({**document, **damage}))
    assert kept_forecast(tmp_path, "this") is None
