"""A budget is kept by a clock: here, one that goes on only when something answers."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_flows import CHAIN, SETTING

from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.runtime import budget
from s2dnas_deploy.runtime.budget import settings_within

SECONDS = {"quarter": 0.001, "half": 0.002, "full": 0.004}  # of an image
BATCHES = [np.zeros((2, 1)), np.zeros((1, 1))]


@pytest.fixture
def cascade(monkeypatch):
    """A cascade whose time is known."""
    now = [0.0]

    def predict(batch, settings):
        now[0] += SECONDS[settings["width"]] * len(batch)

    monkeypatch.setattr(budget, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return SimpleNamespace(flow=SETTING, predict=predict)


@pytest.mark.parametrize(
    ("budget_ms", "choice"), [(1.01, "quarter"), (2.01, "half"), (3.9, "half"), (4.01, "full"), (1e9, "full")]
)
def test_the_most_that_fits_is_taken(cascade, budget_ms, choice):
    assert settings_within(cascade, budget_ms, BATCHES) == {"width": choice}


def test_how_accurate_a_choice_is_counts_more_than_what_it_computes(cascade):
    width = replace(SETTING.settings["width"], accuracy=(0.7, 0.9, 0.8))
    cascade.flow = replace(SETTING, settings={"width": width})
    assert settings_within(cascade, 1.5, BATCHES) == {"width": "quarter"}
    assert settings_within(cascade, 9, BATCHES) == {"width": "half"}


def test_an_image_counts_as_much_in_any_batch(cascade, monkeypatch):
    """A call takes its time besides, which images of a full batch share."""
    predict = cascade.predict

    def slowly(batch, settings):
        predict(np.zeros((9, 1)), settings)
        predict(batch, settings)

    monkeypatch.setattr(cascade, "predict", slowly)
    one, many = [np.zeros((1, 1))], [np.zeros((9, 1)), np.zeros((9, 1)), np.zeros((9, 1)), *BATCHES]
    times = budget.times_of(cascade, "width", ("quarter",), one)
    assert times["quarter"] == pytest.approx(10)
    # 20 calls of five batches in turns, 30 images in each turn: 1 ms each, and 9 ms for each call
    times = budget.times_of(cascade, "width", ("quarter",), many)
    assert times["quarter"] == pytest.approx((4 * 30 + 20 * 9) / (4 * 30))


def test_what_fits_into_nothing_is_told(cascade):
    with pytest.raises(OptionError, match="the quickest, width=quarter, takes 1 ms an image on this device"):
        settings_within(cascade, 0.5, BATCHES)
    cascade.flow = CHAIN
    with pytest.raises(OptionError, match="one setting; this bundle has 0"):
        settings_within(cascade, 5, BATCHES)
