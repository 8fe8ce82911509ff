"""Candidates: plans that a strategy proposes, each divided and cut into stages once.

Place in the flow: choices ──plan──divide──slice──▶ `Candidate`. Its effect tells it from others (in a
search, a quarter of the plans asked about were known in effect), it is priced by its stages, and its division
is what is judged.
"""

from dataclasses import dataclass

from s2dnas_deploy.plan import Plan
from s2dnas_deploy.workshop.network.divided import Divided, divided_by
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.search.space.space import Choices


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate(Divided):
    """What a plan comes to, and the choices by which it was made."""

    choices: Choices


def candidate_of(static: StaticNetwork, choices: Choices, plan: Plan) -> Candidate:
    """The plan of these choices, applied to the network."""
    divided = divided_by(static, plan)
    return Candidate(choices=choices, division=divided.division, stages=divided.stages)
