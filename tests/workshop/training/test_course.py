"""How long a run lasts, and how its rate goes: as asked to the bit, or until its exits no longer gain."""

import math

import pytest

from s2dnas_deploy.workshop.training.course import Course, epochs_for
from s2dnas_deploy.workshop.training.settings import Settings

GAINING = tuple(0.3 + 0.01 * epoch for epoch in range(60))
SETTLED = (*GAINING[:16], *[GAINING[16]] * 40)


def course(accuracies=(), *, epochs=None, images=125, steps_per_epoch=10):
    found = Course.of(Settings(epochs=epochs), images=images, steps_per_epoch=steps_per_epoch)
    return Course(
        settings=found.settings,
        epochs=found.epochs,
        steps_per_epoch=steps_per_epoch,
        accuracies=tuple(accuracies),
    )


@pytest.mark.parametrize(("images", "epochs"), [(2, 120), (1000, 26), (10_000, 13), (50_000, 8), (10**7, 4)])
def test_fewer_images_need_more_epochs(images, epochs):
    assert epochs_for(images) == epochs


@pytest.mark.parametrize("accuracies", [(), GAINING[:5], [0.5] * 12])
def test_epochs_asked_for_are_a_cosine_to_the_bit_whatever_is_gained(accuracies):
    asked = course(accuracies, epochs=12)
    assert asked.steps == asked.most_steps == 120
    for step in range(120):
        done = step / 120
        by_hand = done / 0.1 if done < 0.1 else 0.5 * (1 + math.cos(math.pi * (done - 0.1) / (1 - 0.1)))
        assert asked.rate(step) == by_hand


def test_no_epochs_have_no_steps():
    assert course(epochs=0).steps == 0


@pytest.mark.parametrize("images", [2, 300, 1000, 10_000, 50_000, 10**7])
def test_while_exits_gain_a_run_has_all_its_epochs(images):
    most = epochs_for(images)
    gaining = [0.2 + 0.005 * epoch for epoch in range(most)]
    for over in range(most + 1):
        assert course(gaining[:over], images=images).steps == 10 * most
    run = course(gaining, images=images)
    rates = [run.rate(step) for step in range(10 * most)]
    assert rates[0] == 0
    assert 0.5 < rates.count(1.0) / len(rates) < 0.7
    assert rates[most:] == sorted(rates[most:], reverse=True)
    assert rates[-1] < 0.03


def test_when_exits_no_longer_gain_the_rate_goes_down_for_a_part_of_the_run():
    ends = [course(SETTLED[:over]).steps for over in range(49)]
    settled = ends.index(min(ends))
    assert settled == 29  # three fifths of the most
    assert ends == [480] * settled + [10 * round(settled / 0.7)] * (49 - settled)
    run = course(SETTLED[:40])
    assert run.rate(10 * settled) == 1.0
    assert run.rate(10 * settled + 1) < 1.0
    assert run.rate(run.steps - 1) < 0.01


def test_what_is_gained_later_changes_no_rate_of_the_past():
    known = [course(SETTLED[: step // 10]).rate(step) for step in range(300)]
    assert known == [course(SETTLED[:48]).rate(step) for step in range(300)]


def test_no_run_ends_before_it_had_time_to_gain():
    assert course([0.5] * 28).steps == 480
    assert course([0.5] * 29).steps == 410
