"""What the clock expects of a stage, from little and from much, and how long it believes a slow moment."""

import pytest

from s2dnas_deploy.runtime.stage_clock import StageClock


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def clock(now):
    return StageClock((10, 30, 100), lambda: now[0])


def test_nothing_is_expected_of_the_unknown(clock):
    assert clock.expects(0, 1) == 0


def test_a_stage_that_never_ran_is_expected_to_take_as_much_per_mac(clock):
    clock.note(0, 4, 0.2)
    assert clock.expects(2, 4) == pytest.approx(2.0)
    assert clock.expects(2, 2) == pytest.approx(2.0)  # a batch of 4 is what was seen
    assert clock.expects(2, 8) == pytest.approx(4.0)


def test_of_fresh_times_the_slowest_counts(clock, now):
    for seconds in (0.1, 0.5, 0.2):
        now[0] += 0.1
        clock.note(1, 1, seconds)
    assert clock.expects(1, 1) == 0.5


def test_a_stale_slow_time_gives_way_to_the_fastest_and_shrinks(clock, now):
    clock.note(1, 1, 0.1)
    clock.note(1, 1, 9.0)
    now[0] = 2.0
    assert clock.expects(1, 1) == pytest.approx(0.1 * 0.9**2)
    clock.note(2, 1, 9.0)
    now[0] = 60.0
    assert clock.expects(2, 1) < 0.05  # tried again at last, though it was never fast
