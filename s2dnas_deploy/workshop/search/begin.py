"""What a search begins with: the plan that `--plan auto` likes best of its kind, and sizes that suit.

Place in the flow: `SearchRequest` + `Forecast` ──▶ the request with what was left open filled in, to suit
network and images, and a plan that is tried first and looked at closely, and is given up only for one that is
surely better. Of widths nothing is foretold: each is a choice that someone else makes.
"""

from dataclasses import replace
from typing import Any

from s2dnas_deploy.errors import PlanError
from s2dnas_deploy.plan import AUTO, OUTPUT, Plan
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.workshop.forecast.forecast import Forecast
from s2dnas_deploy.workshop.forecast.planner import Planner
from s2dnas_deploy.workshop.search.request import SearchRequest
from s2dnas_deploy.workshop.training.prepare import JudgeStatic
from s2dnas_deploy.workshop.training.request import Prepared

# (images to train on, up to so many; plans to judge; finalists)
_SIZES = ((2_000, 60, 4), (10_000, 150, 6), (float("inf"), 300, 8))
_STEPS_OF_A_FINALIST = 100
_LEAST_TARGET, _MOST_TARGET = 0.05, 0.5
_WIDTHS = 4
"""So many, where nobody says how many; each costs half as much as the next."""
_CLOCKS_DIFFER = 1.1
"""Times of the same stages do by so much; and the plan that the target is made of is to keep to it."""


def begun(
    request: SearchRequest, prepared: Prepared, judge_static: JudgeStatic, reporter: Reporter
) -> tuple[SearchRequest, Plan | None]:
    """The request with nothing left open, and the plan to begin with, if there is one of so many stages."""
    if request.plan_kind == "widths":
        return settled(request, None, len(prepared.splits.train)), None
    planner = Planner(cost=request.cost, timer=request.timer)
    training = replace(request.training, plan=AUTO)
    stages = None if "stages" in request.left_open else request.stages
    try:
        forecast = planner.forecast(
            training,
            prepared,
            None,
            judge_static,
            reporter,
            stages=stages,
            in_turn=request.plan_kind == "in-turn",
        )
    except PlanError:  # no candidate has so many stages
        return settled(request, None, len(prepared.splits.train)), None
    request = settled(request, forecast, len(prepared.splits.train))
    if request.space == "paper" and set(forecast.plan.exits) != {OUTPUT}:
        return request, None
    return replace(request, begins_with=forecast.plan.digest), forecast.plan


def settled(request: SearchRequest, forecast: Forecast | None, images: int) -> SearchRequest:
    """The request, what was left open filled in for so many images to train on."""
    evaluations, finalists = next(sizes for most, *sizes in _SIZES if images <= most)
    steps_per_epoch = max(1, images // request.training.settings.batch_size)
    fitting: dict[str, Any] = {
        "evaluations": evaluations,
        "finalists": finalists,
        "finetune_epochs": -(-_STEPS_OF_A_FINALIST // steps_per_epoch),
    }
    if request.plan_kind == "widths":
        weighed = len(request.training.settings.exit_weights)
        widths = (weighed or _WIDTHS) if "stages" in request.left_open else request.stages
        fitting |= {"stages": widths, "target": 0.5 ** (widths - 1)}
    if forecast is not None:
        cost = min(_MOST_TARGET, max(_LEAST_TARGET, _CLOCKS_DIFFER / forecast.expected))
        fitting |= {"stages": forecast.plan.stages, "target": round(cost, 3)}
    chosen = {name: value for name, value in fitting.items() if name in request.left_open}
    # What widths may cost is not known before the thinnest is priced.
    still_open = frozenset({"target"} if request.plan_kind == "widths" else ()) & request.left_open
    return replace(request, left_open=still_open, **chosen)
