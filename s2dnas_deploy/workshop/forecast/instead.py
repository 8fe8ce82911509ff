"""What else makes a network faster on this machine, measured where dividing it gains little.

Place in the flow: the static network ──▶ how many times as fast it is in INT8, at half its width (to be
trained anew), and with many images at a time.
"""

import tempfile
from contextlib import suppress
from pathlib import Path

from s2dnas_deploy.bundle.device_profile import STATIC, Profile
from s2dnas_deploy.errors import PlanError
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.plan import static as static_plan
from s2dnas_deploy.reporter import Reporter
from s2dnas_deploy.workshop.forecast.candidates import halves
from s2dnas_deploy.workshop.pricing.machine_clock import THREADS, TIMED_ON, Timer
from s2dnas_deploy.workshop.pricing.probes import Probed, write_probes

_MANY = 32
_HALF, _INT8 = "half", "int8"


def alternatives(probed: Probed, timer: Timer, reporter: Reporter) -> dict[str, float]:
    """How many times as fast, by what is done to the static network."""
    space = probed.static.divisible.space
    plans = {STATIC: static_plan(space), _INT8: static_plan(space)}
    with suppress(PlanError):  # groups of one channel
        plans[_HALF] = halves(space)
    one, many = _timed(probed, plans, timer, reporter)
    int8 = one.times[_INT8]
    found = {"the static network in INT8 (s2dnas-export --int8)": int8.reference_ms / int8.stage_ms[0]}
    if _HALF in plans:
        half = one.times[_HALF]
        found["a network of half the width, trained anew"] = half.reference_ms / half.stage_ms[0]
    per_image = many.times[STATIC].reference_ms / _MANY
    found[f"{_MANY} images at a time"] = one.times[STATIC].reference_ms / per_image
    return found


def _timed(
    probed: Probed, plans: dict[str, Plan], timer: Timer, reporter: Reporter
) -> tuple[Profile, Profile]:
    """With one image at a time, and the static network with many."""
    with tempfile.TemporaryDirectory(prefix="s2dnas-probes-") as name:
        every, only = Path(name) / "every", Path(name) / "static"
        progress = reporter.phase("measuring what else makes it faster", "networks")
        write_probes(probed, plans, every, progress, in_int8={_INT8})
        write_probes(probed, {STATIC: plans[STATIC]}, only, progress)
        one = timer(every, provider=TIMED_ON, threads=THREADS, progress=progress)
        many = timer(only, provider=TIMED_ON, threads=THREADS, progress=progress, batch=_MANY)
    return one, many
