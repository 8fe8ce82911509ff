"""`--plan auto`: the plan that is expected to answer fastest on a device, and what any plan can gain there.

Place in the flow: `candidates` ──priced by a clock or by MACs, exits fitted──▶ a `Forecast` each ──▶ the one
whose average image is expected to be answered soonest at no more than a point below the static network.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from s2dnas_deploy.bundle.device_profile import Profile
from s2dnas_deploy.errors import PlanError
from s2dnas_deploy.plan import Plan, ends_in_static
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.workshop.forecast.candidates import candidates
from s2dnas_deploy.workshop.forecast.forecast import Forecast, Priced
from s2dnas_deploy.workshop.forecast.prior import Task, guessed, outlook
from s2dnas_deploy.workshop.network.costs import static_costs
from s2dnas_deploy.workshop.network.divided import divided_by
from s2dnas_deploy.workshop.network.network import as_network
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.pricing.latency import by_clock
from s2dnas_deploy.workshop.pricing.machine_clock import MachineClock, Timer, this_device
from s2dnas_deploy.workshop.pricing.price import Price, by_macs
from s2dnas_deploy.workshop.pricing.probes import Probed

CLOCK, MACS = "clock", "macs"
TIMES = "forecast.device.json"

# A network of 60 million MACs has all candidates fitted, in a second or two each.
_FITTED_MACS, _FEWEST_FITTED = 10**9, 4

Unlike = Callable[[Plan], tuple[float, ...]]
"""Tells how unlike the static network a plan's exits answer before they are trained."""


@dataclass(frozen=True, kw_only=True)
class Forecaster:
    """Tells what plans of a network can gain. `cost`: clock (this machine's), macs, or a device profile."""

    probed: Probed
    task: Task
    unlike: Unlike | None
    """None: there are no images, so it is guessed."""
    cost: str
    timer: Timer
    folder: Path
    """Where times are kept, so that a plan is timed once."""

    def best(self, reporter: Reporter, *, stages: int | None = None, in_turn: bool | None = None) -> Forecast:
        """Of the candidates, those of so many stages if that is said, the one expected to be the fastest.

        `in_turn`: only widths in turn, or none of them.
        Exits are fitted of the most promising plans, by what is guessed of them; of large networks, which
        take longer, of fewer. A plan that could not be faster if all images exited first need not be fitted.
        """
        plans = [
            plan
            for plan in candidates(self._static)
            if stages in (None, plan.stages) and in_turn in (None, plan.in_turn)
        ]
        if not plans:
            raise PlanError(
                "--plan auto found no way to divide this network"
                + (f" into {stages} stages" if stages else "")
                + ": give a --plan"
            )
        forecasts = [self._guess(priced) for priced in self._priced(plans, reporter)]
        promising = sorted(forecasts, key=lambda forecast: forecast.expected, reverse=True)
        unlike = self.unlike
        if unlike is None:
            return promising[0]
        most = max(_FEWEST_FITTED, _FITTED_MACS // max(1, static_costs(as_network(self._static)).macs))
        # What a last exit loses is hard to guess. Where the whole network is last, it loses nothing.
        turns = [forecast for forecast in promising[most:] if forecast.plan.in_turn]
        chosen = [*promising[:most], *turns[:1]]
        progress, best = reporter.phase("fitting exits", "plans"), None
        for done, guess in enumerate(chosen):
            if best is None or best.falls_short or guess.best > best.expected:
                forecast = self._foretold(guess, unlike(guess.plan))
                best = forecast if best is None or forecast.is_better_than(best) else best
            progress(done + 1, len(chosen), "")
        assert best is not None, "there is one plan at least"
        return best

    def of(self, plan: Plan, reporter: Reporter) -> Forecast:
        """What this plan can gain."""
        if not plan.exits_early:
            raise PlanError(
                "a forecast is of answers after which images leave; of nested widths the caller picks one, "
                "and s2dnas-bench times each (in-turn:0.25,1 tries them one after the other)"
            )
        (priced,) = self._priced([plan], reporter)
        return self._guess(priced) if self.unlike is None else self._foretold(priced, self.unlike(plan))

    @property
    def _static(self) -> StaticNetwork:
        return self.probed.static

    @cached_property
    def _macs(self) -> Price:
        return by_macs(self._static)

    def _guess(self, priced: Priced) -> Forecast:
        return self._foretold(priced, guessed(self._macs(divided_by(self._static, priced.plan))))

    def _foretold(self, priced: Priced, unlike: Sequence[float]) -> Forecast:
        of_static = (0.0,) * (len(priced.stages) - len(unlike))
        expected = outlook(self.task, (*unlike, *of_static))
        return Forecast(
            plan=priced.plan,
            stages=priced.stages,
            device=priced.device,
            static_ms=priced.static_ms,
            shares=expected.shares,
            accuracies=expected.accuracies,
            falls_short=expected.falls_short,
        )

    def _and_static(self, plan: Plan, stages: Iterable[float]) -> tuple[float, ...]:
        """What stages cost, and the static network where it answers last."""
        return (*stages, 1.0) if ends_in_static(plan, self._static.divisible.space) else tuple(stages)

    def _priced(self, plans: Sequence[Plan], reporter: Reporter) -> list[Priced]:
        if self.cost == CLOCK:
            return self._timed(plans, reporter)
        price, device = self._macs, None
        if self.cost != MACS:
            profile = Profile.load(Path(self.cost))
            price, device = by_clock(self._static, profile), profile.device
        up_to = {plan.digest: price(divided_by(self._static, plan)) for plan in plans}
        return [
            Priced(
                plan=plan,
                stages=self._and_static(plan, (b - a for a, b in pairwise((0.0, *up_to[plan.digest])))),
                device=device,
            )
            for plan in plans
        ]

    def _timed(self, plans: Sequence[Plan], reporter: Reporter) -> list[Priced]:
        clock = MachineClock(probed=self.probed, folder=self.folder, timer=self.timer, reporter=reporter)
        times = clock.times(plans, TIMES, called="plans")
        return [
            Priced(
                plan=plan,
                stages=self._and_static(plan, (ms / timed.reference_ms for ms in timed.stage_ms)),
                device=this_device(),
                static_ms=timed.reference_ms,
            )
            for plan in plans
            for timed in [times[plan.digest]]
        ]
