"""A plan that a search found, in words."""

from typing import TYPE_CHECKING

from s2dnas_deploy.cli.text.training import summary_in_words
from s2dnas_deploy.quoting import number_of

if TYPE_CHECKING:
    from s2dnas_deploy.workshop.search.winners import Found


def found_in_words(found: "Found") -> str:
    """The plan, what the search thought of it, and what came of it."""
    worth, plan = found.trial.worth, found.trial.plan
    if plan.nested:
        lines = [f"{number_of(plan.stages, 'width')}, by channels that each has more than the one before"]
    else:
        lines = [f"exits at {', '.join(plan.exits)}"]
    lines += [f"  {name}: {' / '.join(map(str, counts))}" for name, counts in plan.channels.items()]
    if plan.no_reuse:
        lines.append(f"  no reuse at {', '.join(sorted(plan.no_reuse))}")
    costs = " / ".join(f"{100 * cost:.1f}%" for cost in worth.exit_cost)
    until = "cost up to each exit" if plan.exits_early else "cost of each width"
    lines.append(f"{until}, of the static network's: {costs}")
    over = "" if plan.exits_early else " over all widths"
    lines.append(f"in the search: {100 * worth.accuracy:.2f}%{over} at an average of {100 * worth.cost:.1f}%")
    return "\n".join([*lines, summary_in_words(found.model, found.out)])
