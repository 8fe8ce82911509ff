"""Plans that span a space: what a device times, so that its clock can price any other plan there.

Place in the flow: `SearchSpace` ──▶ plans by name, which `pricing` exports and times.
"""

import numpy as np

from s2dnas_deploy.bundle.device_profile import STATIC
from s2dnas_deploy.plan import Plan, narrowed
from s2dnas_deploy.plan import static as static_plan
from s2dnas_deploy.workshop.search.space.by_hand import largest, smallest, written_by_hand
from s2dnas_deploy.workshop.search.space.space import SearchSpace

COUNT = 20


def probe_plans(space: SearchSpace, count: int = COUNT, *, seed: int = 0) -> dict[str, Plan]:
    """The plans that are timed, by name: the static network, the extremes, uniform plans, and drawn ones.

    Drawn plans are seldom narrow in all layers, and a model fitted to them alone prices a uniform plan badly.
    A width is timed as the first of two stages, which is the same graph.
    """
    rng = np.random.default_rng(seed)
    known = [smallest(space), largest(space), *written_by_hand(space)]
    chosen = dict.fromkeys([*known, *(space.draw(rng) for _ in range(count - len(known)))])
    plans = [space.plan(choices) for choices in chosen]
    if space.nested:
        widths = space.stages if space.plan_kind == "in-turn" else space.stages - 1
        plans = [narrowed(plan, i % widths, space.plans) for i, plan in enumerate(plans)]
    static = static_plan(space.plans)
    differ = {plan.digest: plan for plan in plans if plan != static}.values()
    probes = {f"probe_{i:02}": plan for i, plan in enumerate(differ)}
    return {STATIC: static, **probes}
