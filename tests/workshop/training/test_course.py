"""How long a run lasts, and how its rate goes: as asked to the bit, or until its losses have settled."""

import math

import pytest

from s2dnas_deploy.workshop.training.course import Course, epochs_for
from s2dnas_deploy.workshop.training.settings import Settings

FALLING = tuple(0.9**epoch for epoch in range(60))
SETTLED = (*FALLING[:12], *[FALLING[12]] * 40)


def course(losses=(), *, epochs=None, images=1000, steps_per_epoch=10):
    found = Course.of(Settings(epochs=epochs), images=images, steps_per_epoch=steps_per_epoch)
    return Course(
        settings=found.settings, epochs=found.epochs, steps_per_epoch=steps_per_epoch, losses=losses
    )


@pytest.mark.parametrize(("images", "epochs"), [(2, 120), (1000, 48), (10_000, 19), (50_000, 10), (10**7, 4)])
def test_fewer_images_need_more_epochs(images, epochs):
    assert epochs_for(images) == epochs


@pytest.mark.parametrize("losses", [(), FALLING[:5], SETTLED[:12]])
def test_epochs_asked_for_are_a_cosine_to_the_bit_whatever_the_losses(losses):
    asked = course(losses, epochs=12)
    assert asked.steps == asked.most_steps == 120
    for step in range(120):
        done = step / 120
        by_hand = done / 0.1 if done < 0.1 else 0.5 * (1 + math.cos(math.pi * (done - 0.1) / (1 - 0.1)))
        assert asked.rate(step) == by_hand


def test_no_epochs_have_no_steps():
    assert course(epochs=0).steps == 0


def test_while_losses_fall_a_run_has_all_its_epochs():
    for over in range(49):
        assert course(FALLING[:over]).steps == 480
    rates = [course(FALLING[:48]).rate(step) for step in range(480)]
    assert rates[0] == 0
    assert rates[48:321] == [1.0] * 273
    assert rates[320:] == sorted(rates[320:], reverse=True)
    assert rates[479] < 0.001


def test_when_losses_have_settled_the_rate_goes_down_for_a_third_of_the_run():
    ends = [course(SETTLED[:over]).steps for over in range(49)]
    settled = ends.index(min(ends))
    assert 12 < settled < 32
    assert set(ends) == {480, 10 * round(1.5 * settled)}
    assert ends[settled:] == [ends[-1]] * (49 - settled)  # once it goes down, that stays
    run = course(SETTLED[:40])
    assert run.rate(10 * settled) == 1.0
    assert run.rate(10 * settled + 1) < 1.0
    assert run.rate(run.steps - 1) < 0.001


def test_what_later_losses_are_changes_no_rate_of_the_past():
    known = [course(SETTLED[: step // 10]).rate(step) for step in range(300)]
    assert known == [course(SETTLED[:48]).rate(step) for step in range(300)]


def test_a_warm_up_is_no_settling():
    assert course([1.0] * 9).steps == 480
    assert course([1.0] * 10).steps == 150
