"""Targets that can be kept, and what is said where none was.

Place in the flow: before a search for widths, the thinnest there is tells what may be asked for; after one,
those who asked for too much are told what would do.
"""

from collections.abc import Sequence
from dataclasses import replace

from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.workshop.search.judging.reward import NEARLY, Worth, target_that_fits, targets_of_widths
from s2dnas_deploy.workshop.search.request import SearchRequest
from s2dnas_deploy.workshop.search.trials import Trial, Trials

_EASILY, _MOST = 1.1, 0.8


def within_reach(request: SearchRequest, thinnest: float, reporter: Reporter) -> SearchRequest:
    """With a target that the thinnest width of all keeps to, if nobody has said one; before all the work."""
    if "target" in request.left_open and thinnest < _MOST:
        target = max(request.target, round(_EASILY * thinnest, 3))
        reporter.say(f"--target {target:g}: the thinnest width there is costs {thinnest:.3f}")
        return replace(request, target=target, left_open=frozenset())
    if thinnest > (1 + NEARLY) * request.target:
        raise OptionError(
            f"no plan keeps to --target {request.target:g}: the thinnest width there is costs {thinnest:.3f} "
            f"of the static network by --cost {request.cost}; ask for a target above, or a smaller --align"
        )
    return request


def check_one_fits(trials: Trials, request: SearchRequest) -> None:
    """A search that found nothing within the target says so, and what would be."""
    if trials.best(1)[0].worth.fits:
        return
    tried = list(trials.asked.values())
    least = min(trial.worth.exit_cost[0] for trial in tried)
    remedy = _targets_in_words(tried, request) or (
        f"the cheapest first exit costs {least:.3f} of the static network by --cost {request.cost}; ask for "
        "a target above that, or for more --evaluations"
    )
    raise OptionError(
        f"none of {len(tried)} plans keeps to --target {request.target:g}: {remedy} (what is done so far is "
        "kept)"
    )


def within_target(tried: Sequence[Trial], request: SearchRequest, reporter: Reporter) -> list[Trial]:
    """As many of the best as are asked for: a finalist may be over the target once it is timed itself."""
    best = [trial for trial in tried if trial.worth.fits][: request.top]
    if not best:
        least = min(trial.worth.cost for trial in tried)
        remedy = _targets_in_words(tried, request) or (
            f"the least {least:.3f} of the static network; ask for a target above that, or for more "
            "--finalists"
        )
        raise OptionError(
            f"each of {len(tried)} finalists takes more than --target {request.target:g} once it is timed "
            f"itself, {remedy} (what is done so far is kept)"
        )
    if len(best) < request.top:
        reporter.say(f"--top {request.top}: only {len(best)} that differ and keep to the target")
    return best


def _targets_in_words(tried: Sequence[Trial], request: SearchRequest) -> str | None:
    """What the widths of the best plan cost and may cost, and what target they would keep to."""
    if request.plan_kind != "widths":
        return None
    best: Worth = max((trial.worth for trial in tried), key=lambda worth: worth.reward)
    costs, most = (
        " / ".join(f"{each:.3f}" for each in of)
        for of in (best.exit_cost, targets_of_widths(request.target, request.stages))
    )
    return (
        f"the widths of the best cost {costs} of the static network by --cost {request.cost}, and may cost "
        f"{most}; --target {target_that_fits(best.exit_cost):.3f} would do for it, and a smaller --align may "
        "help"
    )
