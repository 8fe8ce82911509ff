"""The plan of a training: as it was given, or `auto`; and what it can gain, said before anything is trained.

Place in the flow: `train_model` ──▶ a plan, whose forecast is in the run's folder. A run that goes on takes
the plan that it began with: a clock would not say the same twice.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from s2dnas_deploy.bundle.device_profile import digest_of
from s2dnas_deploy.files.atomic import write_text_atomically
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.workshop.forecast.auto import CLOCK, MACS, TIMES, Forecaster
from s2dnas_deploy.workshop.forecast.forecast import FILE, Forecast, kept_forecast
from s2dnas_deploy.workshop.forecast.instead import alternatives
from s2dnas_deploy.workshop.forecast.likeness import Likeness
from s2dnas_deploy.workshop.forecast.prior import unknown_task
from s2dnas_deploy.workshop.forecast.words import alternatives_in_words, in_words
from s2dnas_deploy.workshop.pricing.machine_clock import Timer
from s2dnas_deploy.workshop.pricing.probes import Probed
from s2dnas_deploy.workshop.training.checkpoint import add_order, add_weights
from s2dnas_deploy.workshop.training.prepare import JudgeStatic
from s2dnas_deploy.workshop.training.request import Prepared, Request

_LITTLE = 1.5
"""Below this it is told what else makes a network faster."""


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Decides on the plan. `cost`: what plans are priced by, clock, macs or a device profile's path."""

    cost: str
    timer: Timer

    def __call__(
        self,
        request: Request,
        prepared: Prepared,
        plan: Plan | None,
        judge_static: JudgeStatic,
        reporter: Reporter,
    ) -> Plan:
        """The plan that was given, or the best; `judge_static` tells how good the static network is."""
        if plan is not None and (plan.stages == 1 or not plan.exits_early):
            return plan
        stages = len(request.settings.exit_weights) or None
        return self.forecast(request, prepared, plan, judge_static, reporter, stages=stages).plan

    def forecast(
        self,
        request: Request,
        prepared: Prepared,
        plan: Plan | None,
        judge_static: JudgeStatic,
        reporter: Reporter,
        *,
        stages: int | None,
        in_turn: bool | None = None,
    ) -> Forecast:
        """What the plan can gain, or the best of so many stages, if that is said; see `Forecaster.best`."""
        of = self._identity(request, prepared, plan, f"{stages}, {in_turn}")
        if request.restart:
            for kept in (FILE, TIMES):
                (request.folder / kept).unlink(missing_ok=True)
        forecast = kept_forecast(request.folder, of)
        if forecast is None:
            forecaster = self._forecaster(request, prepared, judge_static)
            forecast = (
                forecaster.best(reporter, stages=stages, in_turn=in_turn)
                if plan is None
                else forecaster.of(plan, reporter)
            )
            if self.cost == CLOCK and forecast.expected < _LITTLE:
                reporter.say(alternatives_in_words(alternatives(forecaster.probed, self.timer, reporter)))
            # What another run has left is refused later, and keeps its forecast.
            checkpoint = request.folder / "checkpoint.pt"
            if request.restart or not (request.out.exists() or checkpoint.exists()):
                write_text_atomically(request.folder / FILE, forecast.to_json(of))
        for line in in_words(forecast):
            reporter.say(line)
        return forecast

    def _forecaster(self, request: Request, prepared: Prepared, judge_static: JudgeStatic) -> Forecaster:
        task = unknown_task(prepared.static.graph.classes)
        likeness = Likeness(prepared) if prepared.is_trained else None
        if likeness is not None:
            wrong, images = 1 - judge_static()["val"], len(prepared.splits.val)
            error = (wrong * images + 1) / (images + 2)  # none of a few is not never
            task = replace(task, error=error, by_heart=likeness.by_heart(error))
        return Forecaster(
            probed=Probed.of(prepared),
            task=task,
            unlike=likeness,
            cost=self.cost,
            timer=self.timer,
            folder=request.folder,
        )

    def _identity(self, request: Request, prepared: Prepared, plan: Plan | None, among: str) -> str:
        """A digest of all that a forecast is made from, but for the clock."""
        asked = request.plan if plan is None else plan.digest
        digest = hashlib.sha256(f"1|{asked}|{among}|{prepared.splits.digest}|{self.cost}".encode())
        if self.cost not in (CLOCK, MACS):
            digest.update(digest_of(Path(self.cost)).encode())
        add_weights(digest, prepared.static.weights)
        add_order(digest, prepared.static.divisible)
        return digest.hexdigest()
