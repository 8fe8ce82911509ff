"""What a search begins with: auto's plan, in its space, and sizes that nobody has asked for."""

from pathlib import Path

import pytest
from small_networks import residual

from s2dnas_deploy.plan import Plan, uniform
from s2dnas_deploy.workshop.forecast.candidates import candidates
from s2dnas_deploy.workshop.forecast.forecast import Forecast
from s2dnas_deploy.workshop.reading.static_source import StaticSource
from s2dnas_deploy.workshop.search.begin import settled
from s2dnas_deploy.workshop.search.request import SearchRequest
from s2dnas_deploy.workshop.search.space.by_hand import choices_of
from s2dnas_deploy.workshop.search.space.make_space import make_space
from s2dnas_deploy.workshop.training.request import Request
from s2dnas_deploy.workshop.training.settings import Settings

OPEN = frozenset({"stages", "target", "evaluations", "finalists", "finetune_epochs"})


def asked(left_open):
    training = Request(
        source=StaticSource(model=None, model_arguments={}, input_shape=None, weights=None),
        data="none", val_fraction=0.1, resize=None, limit=None, normalize=None, plan="searched", align=1,
        static_epochs=0, static_lr=None, settings=Settings(epochs=1, batch_size=50), out=Path("model.pt"),
        restart=False,
    )  # fmt: skip
    return SearchRequest(
        training=training, stages=3, target=0.25, space="full", align=8, strategy="policy", evaluations=300,
        evaluator="shared", shared_epochs=None, shared_lr=0.05, cost="macs", write_probes=None, finalists=8,
        finetune_epochs=1, top=1, timer=lambda *_, **__: None, ray=None, left_open=left_open,
    )  # fmt: skip


def forecast(first):
    plan = Plan(channels={"stem": (8, 8)}, exits=("output",) * 2)
    return Forecast(
        plan=plan, stages=(first, 0.5), shares=(1.0, 0.0), device=None, accuracies=(0.8, 0.8), falls_short=0.0
    )


def test_what_is_left_open_suits_the_forecast_and_the_images():
    request = settled(asked(OPEN), forecast(0.2), 1000)
    assert (request.stages, request.target) == (2, 0.22)
    assert (request.evaluations, request.finalists, request.finetune_epochs) == (60, 4, 5)
    assert not request.left_open
    many = settled(asked(OPEN), forecast(0.9), 50_000)
    assert (many.evaluations, many.finalists, many.finetune_epochs) == (300, 8, 1)
    assert many.target == 0.5


def test_what_was_said_is_kept():
    request = settled(asked(frozenset({"finalists"})), forecast(0.2), 1000)
    assert (request.stages, request.target, request.evaluations) == (3, 0.25, 300)
    assert request.finalists == 4
    assert settled(asked(OPEN), None, 1000).stages == 3


@pytest.mark.parametrize("stages", [2, 3])
def test_every_candidate_is_in_a_space_that_knows_it(stages):
    space = residual().divisible.space
    plans = [plan for plan in candidates(residual()) if plan.stages == stages and not plan.in_turn]
    assert plans
    for plan in plans:
        known = make_space(space, stages=stages, known=plan)
        choices = choices_of(known, plan)
        assert choices is not None
        assert known.plan(choices) == plan


def test_a_plan_of_another_space_has_no_choices():
    space = residual().divisible.space
    odd = uniform(space, (0.3, 0.7))
    assert choices_of(make_space(space, stages=2), odd) is None
    assert choices_of(make_space(space, stages=2, known=odd), odd) is not None
