"""What is expected of exits: shares of all images, more of them first where exits are good."""

from math import e, sqrt

import pytest

from s2dnas_deploy.workshop.forecast.prior import Task, guessed, outlook, unknown_task

TASK = Task(error=0.2, chance=0.1, by_heart=1.0)


def test_exits_that_answer_nearly_as_the_static_network_does_keep_all_images():
    expected = outlook(TASK, (0.3, 0.1, 0.0))
    assert expected.accuracies == pytest.approx((0.8, 0.8, 0.8))
    assert expected.shares == (1.0, 0.0, 0.0)
    assert not expected.falls_short


def test_shares_follow_from_the_gap_to_the_last_exit():
    expected = outlook(TASK, (0.64, 0.44, 0.0))
    first, second, last = expected.accuracies
    assert (first, second, last) == pytest.approx((0.8 - 0.2 * 0.3 * 0.7, 0.8 - 0.2 * 0.1 * 0.7, 0.8))
    on = (1 - sqrt(0.006 / (last - first))) * 2.1 * (1 - first)
    further = (1 - sqrt(0.006 / (last - second))) * 2.1 * (1 - second)
    assert expected.shares == pytest.approx((1 - on, on - further, further))
    assert sum(expected.shares) == pytest.approx(1)


def test_a_last_exit_that_loses_too_much_falls_short():
    expected = outlook(TASK, (0.9, 0.54))
    assert expected.falls_short == pytest.approx(0.2 * 0.2 * 0.7 - 0.01)


def test_a_network_that_knows_no_image_by_heart_needs_all_its_weights():
    expected = outlook(Task(error=0.2, chance=0.1, by_heart=0.0), (0.3, 0.0))
    assert expected.accuracies == pytest.approx((0.8 - 0.2 * 0.16 * 0.7, 0.8))


@pytest.mark.parametrize("error", [0.0, 0.02, 0.5, 0.89, 1.0])
def test_shares_are_shares_whatever_exits_are_like(error):
    for unlike in ((1.0, 0.0), (1.0, 1.0, 1.0), (0.0, 1.0, 0.5, 0.2), (0.5, 0.9, 0.0)):
        expected = outlook(Task(error=error, chance=0.1, by_heart=0.5), unlike)
        assert all(share >= 0 for share in expected.shares)
        assert sum(expected.shares) == pytest.approx(1)
        assert all(0 <= accuracy <= 1 for accuracy in expected.accuracies)


def test_without_images_it_is_guessed_from_what_exits_compute():
    assert guessed((1 / e, 0.5, 0.8)) == pytest.approx((0.3, 0.3 * 0.693147, 0.3 * 0.223144), rel=1e-5)
    assert guessed((1e-9, 1.2)) == (1.0, 0.0)
    assert unknown_task(10) == Task(error=0.2, chance=0.1, by_heart=0.7)
    assert unknown_task(1).error == 0
